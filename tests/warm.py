"""Processes forked from one that has torch and our modules loaded: loading them is most of a start.

`start` is `python -m MODULE` in every other way: a process and a session of its own, its own environment and
files, killed like any; `spawns` has this process start its children so. What they load is what such a
process may load, not what it did load: tests of that, of memory, and of the long runs start theirs cold.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import inspect
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from tapestry.host import processes
from tapestry.training import launcher

ADDRESS: Final = "TAPESTRY_TEST_WARM"
"""Variable that holds where the server listens; its children find it there too."""
COMMAND: Final = Path(__file__).with_name("warm_command.py")
PRELOAD: Final = ["pytest", "tapestry.node.agent", "tapestry.node.gate", "tapestry.replay.engine"]
"""What else a room's processes need may be added before the first of them is started."""
ARITHMETIC: Final = {k: v for k, v in launcher.environment(1).items() if v and k != "PYTHONSAFEPATH"}
"""Libraries look at these once, when they are loaded."""
OURS: Final = re.compile(r"(-P )?-m tapestry\.")
_ENTRIES: Final = {
    "tapestry.replay": "tapestry.replay.worker",
    "tapestry.training": "tapestry.training.__main__",
}
_MAX_BYTES: Final = 1 << 20
_TITLE: Final = 4000
"""Room for a child's command line, which tests look for in /proc."""


class Warm:
    """What a test, or `processes.kill_tree`, asks of a `subprocess.Popen`."""

    mark = None
    role = ""

    def __init__(self, connection: socket.socket, stdin: IO[bytes] | None, stdout: IO[bytes] | None) -> None:
        self._connection = connection
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self.pid = int(self._line())

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout if timeout is None or timeout > 0 else 1e-6)
            try:
                self.returncode = int(self._line())
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0) from None
            self._connection.close()
        return self.returncode

    def communicate(self) -> tuple[bytes, None]:
        """What it prints until its end."""
        if self.stdin is not None:
            self.stdin.close()
        said = self.stdout.read() if self.stdout is not None else b""
        self.wait()
        return said, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        self._connection.close()

    def _line(self) -> bytes:
        line = self._connection.recv(32)
        if not line.endswith(b"\n"):
            raise RuntimeError(f"the server of warm processes is gone: {line!r}")
        return line


def start(
    words: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    folder: str = "",
    prepare: Sequence[str] = (),
    pipes: bool = False,
    bound: bool = False,
) -> Warm:
    """Run `python -m MODULE ARGUMENTS...` in a process of its own.

    Args:
        words: all of its command line.
        log: what it writes to standard error, and unless `pipes` to standard output, is added here.
        environment: all of its variables.
        folder: where it works; this one's where empty.
        prepare: options of `tapestry.host.exec` that come first.
        pipes: its standard input and output are those of the answer; otherwise the input is empty.
        bound: it dies with this process.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address())
    said = json.dumps([words, prepare, dict(environment), folder or str(Path.cwd()), bound]).encode()
    with open(log, "ab", buffering=0) as out, open(os.devnull, "rb") as nothing:
        given, taken = [nothing.fileno(), out.fileno(), out.fileno()], [-1, -1]
        if pipes:
            given[0], taken[0] = os.pipe()
            taken[1], given[1] = os.pipe()
        socket.send_fds(connection, [len(said).to_bytes(4, "big") + said[:4096]], given)
        connection.sendall(said[4096:])
    for fd in given[: 2 if pipes else 0]:
        os.close(fd)
    ends = (os.fdopen(taken[0], "wb", 0), os.fdopen(taken[1], "rb")) if pipes else (None, None)
    return Warm(connection, *ends)


def spawns() -> None:
    """From now on the children of this process that are ours are forked; those were started as others are."""
    cold = processes.spawn

    def spawn(role: str, argv: Sequence[str | Path], **options: Any) -> Any:
        words = [str(each) for each in argv]
        if not OURS.match(" ".join(words[1:4])):
            return cold(role, argv, **options)
        log = Path(options["log_path"])
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **(options.get("env") or {})}
        only = [word for rule in options.get("only", ()) for word in ("--only", str(rule))]
        child = start(
            words,
            log=log,
            environment={name: value for name, value in environment.items() if value is not None},
            folder=str(options.get("cwd") or ""),
            prepare=[*(["--isolate"] if options.get("isolate_network") else []), *only],
            pipes=options.get("pipes", False),
            bound=True,
        )
        child.role = role
        return child

    processes.spawn = spawn  # type: ignore[assignment]


def address() -> str:
    """Where the server listens; the first one to ask starts it, and it ends with that process."""
    if ADDRESS not in os.environ:
        folder = tempfile.mkdtemp(prefix="warm-")
        address = str(Path(folder) / "socket")
        code = "import sys, tests.warm; tests.warm.serve(*sys.argv[1:-1])"
        process = subprocess.Popen(
            [sys.executable, "-c", code, address, *PRELOAD, " " * _TITLE],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            env={**os.environ, **ARITHMETIC},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        os.environ[ADDRESS] = address
        atexit.register(_end, process, folder)
    return os.environ[ADDRESS]


def _end(process: subprocess.Popen[bytes], folder: str) -> None:
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


# -- the server: one thread, or nothing could be forked from it ------------------------------------


def serve(address: str, *modules: str) -> None:
    for module in modules:
        importlib.import_module(module)
    processes.die_with_parent()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if waiting.get_map().get(key.fd) is not key:
                    continue  # its child has ended, as was just seen
                if key.fileobj is listener:
                    with suppress(OSError):  # whoever asks was killed
                        _begin(listener, waiting)
                elif isinstance(key.fileobj, int):
                    _ended(key.fileobj, *key.data, waiting)
                else:  # whoever asked is gone
                    waiting.unregister(key.fileobj)
                    if key.data[1]:
                        with suppress(ProcessLookupError):
                            os.kill(key.data[0], signal.SIGKILL)


def _begin(listener: socket.socket, waiting: selectors.BaseSelector) -> None:
    connection, _ = listener.accept()
    data, fds, _, _ = socket.recv_fds(connection, 4 + 4096, 3)
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        assert len(data) <= _MAX_BYTES
        more = connection.recv(1 << 16)
        if not more:  # whoever asks was killed in the middle of it
            break
        data += more
    else:
        _fork(connection, waiting, fds, *json.loads(data[4:]))
        connection = socket.socket()  # that one is the child's now
    for fd in fds:
        os.close(fd)
    connection.close()


def _fork(
    connection: socket.socket,
    waiting: selectors.BaseSelector,
    fds: Sequence[int],
    words: list[str],
    prepare: list[str],
    environment: dict[str, str],
    folder: str,
    bound: bool,
) -> None:
    pid = os.fork()
    if pid == 0:
        _become(fds, words, prepare, environment, folder)
    with suppress(OSError):  # whoever asked may be gone; the end of the line tells
        connection.sendall(b"%d\n" % pid)
    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
    waiting.register(connection, selectors.EVENT_READ, (pid, bound))


def _ended(pidfd: int, pid: int, connection: socket.socket, waiting: selectors.BaseSelector) -> None:
    waiting.unregister(pidfd)
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(KeyError):
        waiting.unregister(connection)
    with suppress(OSError), connection:
        connection.sendall(b"%d\n" % code)


class _Prepared(BaseException):
    """In the place of `exec`, by which `tapestry.host.exec` ends."""


def _become(
    fds: Sequence[int], words: list[str], prepare: list[str], environment: dict[str, str], folder: str
) -> None:
    code = 1
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, 1024)
        os.setsid()
        processes.die_with_parent()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        _retitle(words)
        if prepare:
            with suppress(_Prepared):
                _prepare(prepare)
        spawns()
        at = words.index("-m") + 1
        sys.argv = words[at:]
        main = importlib.import_module(_ENTRIES.get(words[at], words[at])).main
        code = main(*([words[at + 1 :]] if inspect.signature(main).parameters else [])) or 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _prepare(options: list[str]) -> None:
    from tapestry.host import exec as preparing

    def ready(*_: object) -> None:
        raise _Prepared

    execvp, os.execvp = os.execvp, ready  # type: ignore[assignment]
    try:
        preparing.main([*options, "--", "python"])
    finally:
        os.execvp = execvp


def _retitle(words: list[str]) -> None:
    """Write over the server's own command line; field numbers of proc(5)."""
    text = Path("/proc/self/stat").read_text()
    begin, end = (int(each) for each in text[text.rindex(")") + 2 :].split()[45:47])
    line = "\0".join(words).encode()[: end - begin - 1]
    ctypes.memmove(begin, line.ljust(end - begin, b"\0"), end - begin)
