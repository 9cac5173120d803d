"""Child processes that never outlive their parent and can be killed with all they started.

A child runs in a session of its own. It is started through `tapestry.host.exec`, which asks the
kernel for SIGKILL on the parent's death, drops the network where wanted, and then becomes the
command under the same process id. Every descendant carries a mark in its environment, so that
`kill_tree` also finds those that moved to a session of their own (torchrun's workers do) or whose
parent is dead.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tapestry.errors import ProcessDied
from tapestry.host.landlock import Rule
from tapestry.host.users import User

MARK: Final = "TAPESTRY_SPAWN"
_PR_SET_PDEATHSIG: Final = 1

# The kernel sends the death signal when the *thread* that started a child ends, so one thread that
# lives as long as this process starts them all.
_starter: ThreadPoolExecutor | None = None


class Child(subprocess.Popen[bytes]):
    """A process made by `spawn`."""

    role: str
    mark: str


def spawn(
    role: str,
    argv: Sequence[str | Path],
    *,
    log_path: Path | str,
    cwd: Path | str | None = None,
    env: Mapping[str, str | None] | None = None,
    isolate_network: bool = False,
    only: Sequence[Rule] = (),
    user: User | None = None,
    pipes: bool = False,
) -> Child:
    """Start a child process that dies with this one.

    Args:
        role: what the child is, for messages.
        argv: program and arguments. A program that cannot be run ends with exit code 127.
        log_path: standard error and, unless `pipes`, standard output are appended here; its folder is
            made if missing.
        cwd: working directory; this process's if None.
        env: variables to set on top of this process's environment; None removes one.
        isolate_network: start it without a network (`tapestry.host.isolation`); the level reached is in
            its variable TAPESTRY_ISOLATION.
        only: files it may touch, and no others, where the kernel can see to that (`tapestry.host.landlock`).
        user: whose the process is; this one's if None. Takes root; without it the child ends with 126.
        pipes: give access to its standard input and output as `child.stdin` and `child.stdout`; otherwise
            its input is empty.
    """
    mark = "/".join(filter(None, (os.environ.get(MARK), secrets.token_hex(8))))
    environment = {**os.environ, **(env or {}), MARK: mark}
    command = [sys.executable, "-P", "-m", "tapestry.host.exec", "--parent", str(os.getpid())]
    if isolate_network:
        command.append("--isolate")
    for rule in only:
        command += ["--only", str(rule)]
    if user is not None:
        command += ["--user", str(user)]
    command += ["--", *map(str, argv)]
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "ab", buffering=0) as log:
        options: dict[str, Any] = {
            "cwd": cwd,
            "env": {name: value for name, value in environment.items() if value is not None},
            "stdin": subprocess.PIPE if pipes else subprocess.DEVNULL,
            "stdout": subprocess.PIPE if pipes else log,
            "stderr": log,
            "start_new_session": True,
        }
        child = _start_thread().submit(lambda: Child(command, **options)).result()
    child.role = role
    child.mark = mark
    return child


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel send SIGKILL to this process when the thread that started it ends.

    Lasts over `exec`, not over `fork`, and is cleared by a change of user or of user namespace.

    Args:
        parent: the process id the parent had when it started this one; where it is not the parent any
            more, this process ends at once.
    """
    before = os.getppid() if parent is None else parent
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != before:
        os.kill(os.getpid(), signal.SIGKILL)


def kill_tree(child: subprocess.Popen[Any], *, grace_s: float = 0.0) -> int:
    """End a child and everything it started, and wait for the child; returns its exit code.

    All are stopped before any is killed, so that none can start another meanwhile. Harmless for a child
    that has ended: what it left behind is killed.

    Args:
        child: the child.
        grace_s: first ask it alone with SIGTERM and give it so many seconds to go by itself.
    """
    if grace_s > 0 and child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    mark = getattr(child, "mark", None)
    found: set[int] = set()
    while new := _tree(child, mark, found) - found:
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        found |= new
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    return child.wait()


def pid_alive(pid: int) -> bool:
    """Whether a process has this id and has not ended; one that ended and was not waited for has.

    Where /proc hides it, as a service's may from a process under Landlock, a signal that is none is asked.
    """
    if pid <= 0:
        return False
    stat = _stat(pid)
    if stat is not None:
        return stat[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own (RssAnon): heap and stacks, without mapped files.

    Raises:
        ProcessDied: it has ended.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        lines = []
    for line in lines:
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ProcessDied(f"process {pid} has ended")


class Backoff:
    """How long to wait before a child that died is started again: 0.2 s, doubling to 10 s.

    Args:
        first_s: the first wait.
        most_s: the longest.
        healthy_s: a child that ran so long starts the row anew.
    """

    def __init__(self, first_s: float = 0.2, most_s: float = 10.0, healthy_s: float = 60.0) -> None:
        self.first_s = first_s
        self.most_s = most_s
        self.healthy_s = healthy_s
        self._next_s = first_s

    def after(self, ran_s: float) -> float:
        """Seconds to wait now that the child has died after running for `ran_s`."""
        if ran_s >= self.healthy_s:
            self._next_s = self.first_s
        wait_s = self._next_s
        self._next_s = min(2 * wait_s, self.most_s)
        return wait_s


def _start_thread() -> ThreadPoolExecutor:
    global _starter
    if _starter is None:
        _starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn")
    return _starter


def _forget_starter() -> None:
    global _starter
    _starter = None


os.register_at_fork(after_in_child=_forget_starter)


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent of a process; None where it is gone, or /proc hides it (`hidepid`)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    state, parent = text[text.rindex(b")") + 1 :].split()[:2]
    return state.decode("ascii"), int(parent)


def _marked(pid: int, mark: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    own = f"{MARK}={mark}".encode()
    return any(entry == own or entry.startswith(own + b"/") for entry in environment.split(b"\0"))


def _tree(child: subprocess.Popen[Any], mark: str | None, known: set[int]) -> set[int]:
    """Live processes that are the child, descend from it or from a known one, or carry its mark."""
    parents: dict[int, int] = {}
    for name in (entry.name for entry in Path("/proc").iterdir()):
        if name.isdigit() and (stat := _stat(int(name))) is not None and stat[0] not in "ZX":
            parents[int(name)] = stat[1]
    alive = {child.pid} if child.poll() is None else set()
    members = alive | (known & parents.keys())
    if mark is not None:
        members |= {pid for pid in parents if pid != os.getpid() and _marked(pid, mark)}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return members - {os.getpid()}
