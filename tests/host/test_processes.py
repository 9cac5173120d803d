"""Children: they start prepared, die with their parent, and leave nobody behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ProcessDied
from tapestry.host import exec as shim
from tapestry.host.files import wait_for
from tapestry.host.processes import (
    Backoff,
    Child,
    anonymous_bytes,
    die_with_parent,
    kill_tree,
    pid_alive,
    spawn,
)

SLEEP = "import time; time.sleep(300)"


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def start(tmp_path: Path, code: str, *arguments: object, **options: object) -> Child:
    return spawn("child", python(code, *arguments), log_path=tmp_path / "logs" / "child.log", **options)  # type: ignore[arg-type]


def read_when_there(path: Path) -> str:
    assert wait_for(lambda: path.exists() and path.read_text().endswith("\n"), timeout_s=30), path
    return path.read_text()


def test_output_goes_to_the_log_input_is_empty_and_the_exit_code_is_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        child = start(
            tmp_path,
            "import sys; print('out', repr(sys.stdin.read()), flush=True);"
            " print('err', file=sys.stderr); sys.exit(7)",
        )
        assert child.wait(60) == 7
    assert (tmp_path / "logs" / "child.log").read_text() == "out ''\nerr\n" * 2
    assert child.role == "child"


def test_pipes(tmp_path: Path) -> None:
    child = start(
        tmp_path,
        "import sys; print(sys.stdin.readline().upper(), flush=True); print('e', file=sys.stderr)",
        pipes=True,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(b"line\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"LINE\n"
    assert kill_tree(child, grace_s=30) in (0, -signal.SIGTERM)
    assert child.stdin.closed and child.stdout.closed


def test_environment_directory_and_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN_AWAY", "1")
    monkeypatch.setenv("KEPT", "2")
    code = (
        "import json, os; print(json.dumps([os.environ.get('TAKEN_AWAY'), os.environ['KEPT'],"
        " os.environ['ADDED'], os.getcwd(), os.getsid(0) == os.getpid(), os.getpid()]))"
    )
    child = start(tmp_path, code, cwd=tmp_path, env={"ADDED": "3", "TAKEN_AWAY": None})
    assert child.wait(60) == 0
    told = json.loads((tmp_path / "logs" / "child.log").read_text())
    assert told == [None, "2", "3", str(tmp_path), True, child.pid]


def test_code_in_the_working_directory_does_not_get_into_the_shim(tmp_path: Path) -> None:
    (tmp_path / "ctypes.py").write_text("raise SystemExit('taken over')")
    child = start(tmp_path, "print('fine')", cwd=tmp_path)
    assert child.wait(60) == 0


def test_a_program_that_cannot_run_says_so(tmp_path: Path) -> None:
    child = spawn("x", [tmp_path / "missing"], log_path=tmp_path / "log")
    assert child.wait(60) == 127
    assert (tmp_path / "log").read_text().startswith(f"cannot run {tmp_path / 'missing'}:")


@pytest.mark.parametrize("isolated", [False, True])
def test_a_child_dies_with_a_killed_parent(tmp_path: Path, isolated: bool) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tapestry.host.processes import spawn\n"
        "c = spawn('grandchild', [sys.executable, '-c', sys.argv[2]], log_path=Path(sys.argv[1]) / 'log',"
        " isolate_network=bool(int(sys.argv[3])))\n"
        "print(c.pid, flush=True); time.sleep(300)"
    )
    ready = tmp_path / "ready"
    inner = f"import time; print('up', file=open({str(ready)!r}, 'w'), flush=True); time.sleep(300)"
    parent = subprocess.Popen(python(code, tmp_path, inner, int(isolated)), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    read_when_there(ready)
    assert pid_alive(pid)
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not pid_alive(pid), timeout_s=10)


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    """The kernel's death signal goes by thread."""
    children: list[Child] = []
    ready = tmp_path / "ready"
    code = f"import time; print('up', file=open({str(ready)!r}, 'w'), flush=True); time.sleep(300)"

    def ask() -> None:
        children.append(start(tmp_path, code))
        read_when_there(ready)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert children[0].poll() is None
    assert kill_tree(children[0]) == -signal.SIGKILL


def test_a_child_that_comes_too_late_ends_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tapestry.host.exec", "--parent", "1", "--", "echo", "ran"],
        capture_output=True,
        check=False,
    )
    if os.getpid() != 1:
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_die_with_parent_of_a_process_that_asks_itself(tmp_path: Path) -> None:
    inner = "import time; from tapestry.host.processes import die_with_parent; die_with_parent()\n"
    inner += f"print('up', file=open({str(tmp_path / 'ready')!r}, 'w'), flush=True); time.sleep(300)"
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]])\n"
    code += "print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen(python(code, inner), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    read_when_there(tmp_path / "ready")
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not pid_alive(pid), timeout_s=10)


TREE = """
import subprocess, sys, time
depth, folder = int(sys.argv[1]), sys.argv[2]
if depth:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:3], str(depth - 1), folder], start_new_session=True)
open(f"{folder}/{depth}", "w").write(f"{__import__('os').getpid()}\\n")
{end}
"""


@pytest.mark.parametrize("orphans", [False, True])
def test_kill_tree_reaches_other_sessions_and_orphans(tmp_path: Path, orphans: bool) -> None:
    """As torchrun: workers in sessions of their own, which outlive a launcher that is killed."""
    end = "if depth != 0: sys.exit(0)\ntime.sleep(300)" if orphans else "time.sleep(300)"
    child = start(tmp_path, TREE.replace("{end}", end), 3, tmp_path)
    pids = [int(read_when_there(tmp_path / str(depth))) for depth in range(4)]
    assert pids[3] == child.pid
    if orphans:
        assert wait_for(lambda: child.poll() is not None, timeout_s=10)
        assert wait_for(lambda: [pid for pid in pids if pid_alive(pid)] == pids[:1], timeout_s=10)
    else:
        assert all(map(pid_alive, pids))
        assert [os.getsid(pid) for pid in pids] == pids
    bystander = subprocess.Popen(python(SLEEP))
    try:
        assert kill_tree(child) == (0 if orphans else -signal.SIGKILL)
        assert wait_for(lambda: not any(map(pid_alive, pids)), timeout_s=10)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert kill_tree(child) == child.returncode


def test_kill_tree_spares_the_children_beside(tmp_path: Path) -> None:
    one, other = start(tmp_path, SLEEP), start(tmp_path, SLEEP)
    assert other.mark != one.mark
    kill_tree(one)
    assert other.poll() is None
    kill_tree(other)


def test_kill_tree_gives_time_to_leave(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('up', flush=True); time.sleep(300)"
    )
    child = start(tmp_path, code, pipes=True)
    assert child.stdout is not None and child.stdout.readline() == b"up\n"
    assert kill_tree(child, grace_s=30) == 5
    stubborn = start(
        tmp_path,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\n"
        "time.sleep(300)",
        pipes=True,
    )
    assert stubborn.stdout is not None and stubborn.stdout.readline() == b"up\n"
    assert kill_tree(stubborn, grace_s=0.05) == -signal.SIGKILL


def test_kill_tree_of_a_child_that_spawn_did_not_make() -> None:
    child = subprocess.Popen(python(SLEEP))
    assert kill_tree(child) == -signal.SIGKILL


def test_a_forked_process_can_spawn(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tapestry.host.processes import spawn\n"
        "def go(): return spawn('x', ['true'], log_path=Path(sys.argv[1])).wait(30)\n"
        "assert go() == 0\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(go())\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    done = subprocess.run(python(code, tmp_path / "log"), timeout=60, check=False)
    assert done.returncode == 0


def test_pid_alive() -> None:
    assert pid_alive(os.getpid())
    assert not pid_alive(0) and not pid_alive(-1) and not pid_alive(1 << 30)
    child = subprocess.Popen(["true"])
    assert wait_for(lambda: not pid_alive(child.pid), timeout_s=10)  # a zombie until it is waited for
    assert child.wait() == 0


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_process_that_proc_hides_is_alive_until_it_ends(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hidepid: `invisible` for a service whose agent is under Landlock, `noaccess` on many clusters."""
    read = Path.read_bytes

    def hidden(path: Path) -> bytes:
        if path.match("/proc/*/stat"):
            raise error(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", hidden)
    child = subprocess.Popen(["sleep", "60"])
    assert pid_alive(child.pid) and pid_alive(1)
    assert kill_tree(child) == -signal.SIGKILL  # which looks through all of /proc
    assert not pid_alive(child.pid) and not pid_alive(1 << 30) and not pid_alive(1 << 70)


def test_anonymous_bytes_is_what_the_kernel_counts() -> None:
    child = subprocess.Popen(
        python("import sys; b = bytearray(b'x' * (50 << 20)); print(flush=True); sys.stdin.read()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stdout.readline()
    measured = anonymous_bytes(child.pid)
    mine = psutil.Process(child.pid).memory_info()
    assert 50 << 20 <= measured <= 90 << 20
    assert abs(measured - (mine.rss - mine.shared)) < 1 << 20
    child.kill()
    assert wait_for(lambda: not pid_alive(child.pid), timeout_s=10)
    with pytest.raises(ProcessDied):
        anonymous_bytes(child.pid)
    child.communicate()
    with pytest.raises(ProcessDied):
        anonymous_bytes(child.pid)


def test_backoff_doubles_to_its_limit_and_starts_anew_after_health() -> None:
    backoff = Backoff()
    assert [backoff.after(1.0) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert [backoff.after(59.9), backoff.after(60.0), backoff.after(0.0)] == [10.0, 0.2, 0.4]


@given(st.lists(st.floats(0, 200)))
def test_backoff_stays_in_its_range(runs: list[float]) -> None:
    backoff = Backoff()
    assert all(0.2 <= backoff.after(ran) <= 10.0 for ran in runs)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--"],
        ["--parent"],
        ["--parent", "x", "--", "true"],
        ["--what", "--", "true"],
        ["true"],
        ["--user", "0", "--", "true"],
        ["--user", "nobody:0", "--", "true"],
        ["--user"],
    ],
)
def test_the_shim_explains_itself(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert shim.main(argv) == 2
    assert capsys.readouterr().err == shim.USAGE


def test_die_with_parent_reports_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry.host.processes._PR_SET_PDEATHSIG", 999_999)
    with pytest.raises(OSError, match="prctl"):
        die_with_parent()
