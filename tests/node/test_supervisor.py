from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import Busy, CorpusError, Diverged, ProcessDied, SettingsError
from tapestry.host import files, landlock, processes
from tapestry.node import settings, supervisor
from tapestry.node.home import Home, Role
from tapestry.node.status import node_status
from tapestry.node.supervisor import Start, Supervisor, run_node
from tests.core.support import CoreUnderTest
from tests.node.conftest import MakeNode
from tests.node.support import wait_until
from tests.training.clusters import fake_slurm
from tests.training.clusters.conftest import SlurmSite

SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "node")
    home.make_folders()
    home.settings.write_text(settings.render(settings.make(member="m", name="m-1", corpus="text")))
    return home


def starts(home: Home, **programs: str) -> dict[Role, Start]:
    """Children that run these Python programs; `{status}` is the path of their status file."""
    roles: tuple[Role, ...] = ("gate", "trainer", "agent")

    def start(role: Role) -> Start:
        program = programs.get(role, SLEEP).replace("{status}", str(home.status(role)))
        return lambda: processes.spawn(role, [sys.executable, "-c", program], log_path=home.log(role))

    return {role: start(role) for role in roles}


def fails(code: str, exit_code: int, message: str = "it is so") -> str:
    error = {"error": {"code": code, "message": message, "hint": "do this"}}
    return f"open('{{status}}', 'w').write({json.dumps(error)!r}); raise SystemExit({exit_code})"


def supervised(home: Home) -> dict[str, Any]:
    return dict(json.loads(home.status("supervisor").read_text()))


def pids(home: Home) -> dict[str, int]:
    return {role: child["pid"] for role, child in supervised(home)["children"].items() if child["pid"]}


def meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_done_when_the_agent_is_done(home: Home) -> None:
    programs = starts(home, agent="import time; time.sleep(0.3)")
    assert Supervisor(home, once=True, starts=programs).run() is True
    assert supervised(home)["phase"] == "stopped"
    assert pids(home) == {}


def test_a_killed_child_is_started_again(home: Home) -> None:
    killed: dict[str, int] = {}

    def kill() -> None:
        wait_until(lambda: home.status("supervisor").exists() and len(pids(home)) == 3)
        killed.update(pids(home))
        os.kill(killed["gate"], signal.SIGKILL)
        os.kill(killed["trainer"], signal.SIGKILL)

        def both_again() -> bool:
            now = pids(home)
            return len(now) == 3 and all(now[role] != killed[role] for role in ("trainer", "gate"))

        wait_until(both_again)
        (home.root / "go").touch()

    thread = meanwhile(kill)
    go = repr(str(home.root / "go"))
    agent = f"import os, time\nwhile not os.path.exists({go}): time.sleep(0.01)"
    assert Supervisor(home, once=True, starts=starts(home, agent=agent)).run() is True
    thread.join()
    restarts = {role: child["restarts"] for role, child in supervised(home)["children"].items()}
    assert restarts == {"gate": 1, "trainer": 1, "agent": 0}


def test_a_typed_error_ends_all_and_is_raised(home: Home) -> None:
    with pytest.raises(Diverged, match="it is so") as caught:
        Supervisor(home, starts=starts(home, trainer=fails("diverged", 8))).run()
    assert caught.value.hint == "do this"
    assert pids(home) == {}


def test_torchrun_hides_the_exit_code_but_not_the_error(home: Home) -> None:
    with pytest.raises(CorpusError):
        Supervisor(home, starts=starts(home, trainer=fails("corpus", 1))).run()


def test_an_error_of_an_earlier_start_does_not_count(home: Home) -> None:
    home.status("agent").write_text(json.dumps({"error": {"code": "key", "message": "old", "hint": None}}))
    once = repr(str(home.root / "once"))
    agent = f"import os, sys\nif not os.path.exists({once}): open({once}, 'w'); sys.exit(1)"
    assert Supervisor(home, once=True, starts=starts(home, agent=agent)).run() is True


def test_a_child_that_crashes_at_once_is_given_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_CRASHES", 3)
    with pytest.raises(ProcessDied, match="gate ended 3 times") as caught:
        Supervisor(home, starts=starts(home, gate="raise ValueError")).run()
    assert "gate.log" in (caught.value.hint or "")


def test_a_killed_worker_is_not_taken_for_a_crash(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_CRASHES", 2)
    count = repr(str(home.root / "count"))
    trainer = (
        f"import sys, time\nopen({count}, 'a').write('x')\n"
        f"if len(open({count}).read()) > 3: time.sleep(600)\n"
        "sys.stderr.write('  exitcode  : -9 (pid: 4711)\\n'); sys.exit(1)"
    )
    agent = (
        f"import time\nwhile len(open({count}, 'a+').read() or open({count}).read()) < 4: time.sleep(0.02)"
    )
    assert Supervisor(home, once=True, starts=starts(home, trainer=trainer, agent=agent)).run() is True


def test_a_trainer_that_lacks_a_blob_is_started_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_CRASHES", 1)
    whole = repr(str(home.root / "whole"))
    trainer = (
        f"import os, time\nif os.path.exists({whole}): time.sleep(600)\n"
        f"open({whole}, 'w'); {fails('hash-mismatch', 1)}"
    )
    agent = f"import os, time\nwhile not os.path.exists({whole}): time.sleep(0.02)\ntime.sleep(1)"
    assert Supervisor(home, once=True, starts=starts(home, trainer=trainer, agent=agent)).run() is True
    assert supervised(home)["children"]["trainer"]["restarts"] == 1


def test_a_large_log_is_set_aside_before_its_process_starts_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 1000)
    log, before = home.log("gate"), home.log("gate").with_name("gate.log.1")
    before.write_bytes(b"oldest")
    log.write_bytes(b"x" * 1001)
    home.log("trainer").write_bytes(b"y" * 1000)  # not large yet
    agent = f"import os, time\nwhile not os.path.getsize({str(log)!r}): time.sleep(0.02)"
    gate = "import sys, time; sys.stderr.write('new'); sys.stderr.flush(); time.sleep(600)"
    assert Supervisor(home, once=True, starts=starts(home, gate=gate, agent=agent)).run() is True
    assert (before.read_bytes(), log.read_bytes()) == (b"x" * 1001, b"new")
    assert sorted(path.name for path in home.logs.iterdir()) == [
        "agent.log",
        "gate.log",
        "gate.log.1",
        "trainer.log",
    ]
    assert home.log("trainer").read_bytes() == b"y" * 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(home: Home, number: signal.Signals) -> None:
    children: list[int] = []

    def stop() -> None:
        wait_until(lambda: home.status("supervisor").exists() and len(pids(home)) == 3)
        children.extend(pids(home).values())
        os.kill(os.getpid(), number)

    thread = meanwhile(stop)
    before = signal.getsignal(number)
    assert Supervisor(home, starts=starts(home)).run() is False
    thread.join()
    assert not any(processes.pid_alive(pid) for pid in children)
    assert signal.getsignal(number) is before


def test_a_child_that_does_not_listen_is_killed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    agent = "import time; time.sleep(0.5)"
    began = time.monotonic()
    assert Supervisor(home, once=True, starts=starts(home, trainer=deaf, agent=agent)).run() is True
    assert time.monotonic() - began < 30
    assert pids(home) == {}


def test_a_home_is_run_once(home: Home) -> None:
    home.consortium.write_text("{}")
    with files.Lock(home.root), pytest.raises(Busy, match="in use"):
        run_node(home.root)


def test_what_is_not_set_up_is_told(tmp_path: Path, home: Home) -> None:
    with pytest.raises(SettingsError, match="not a node's home"):
        run_node(tmp_path)
    with pytest.raises(SettingsError, match="not joined"):
        run_node(home.root)
    home.settings.write_text("[node]")
    home.consortium.write_text("{}")
    with pytest.raises(SettingsError, match=r"node\.toml"):
        run_node(home.root)


def test_it_loads_neither_torch_nor_http() -> None:
    code = (
        "import sys, tapestry.node.supervisor; "
        "print([m for m in ('torch', 'numpy', 'httpx', 'transformers', 'obstore') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("role", ["agent", "gate"])
def test_agent_and_gate_load_no_torch(role: str) -> None:
    code = (
        f"import sys, tapestry.node.{role}; "
        "print([m for m in ('torch', 'numpy', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_status_of_a_node_with_its_real_processes(core: CoreUnderTest, make_node: MakeNode) -> None:
    node = make_node("fr")
    text = node.home.root.parent / "text"
    for name in ("train", "valid"):
        (text / f"{name}.txt").write_text("In the beginning was the word. " * 200)
    before = node_status(node.home.root)
    assert (before["running"], before["level"], before["member"]) == (False, "none", "fr")
    code = (
        "import sys; from pathlib import Path; "
        "from tapestry.node.supervisor import run_node; run_node(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(node.home.root)])
    try:
        wait_until(
            lambda: all(each["alive"] for each in node_status(node.home.root)["processes"].values()),
            timeout_s=120,
        )
        wait_until(lambda: node_status(node.home.root)["processes"]["agent"]["phase"] == "waiting for a run")
        found = node_status(node.home.root)
        assert found["reads_text"] is (landlock.version() < 2)
        assert found["level"] in ("none",) if found["reads_text"] else ("netns", "process")
        agent = found["processes"]["agent"]
        if found["level"] == "netns":
            own = Path(f"/proc/{agent['pid']}/ns/net").readlink()
            for role in ("trainer", "gate"):
                assert Path(f"/proc/{found['processes'][role]['pid']}/ns/net").readlink() != own
                assert found["processes"][role]["level"] == "netns"
        assert found["consortium"]["id"] == core.consortium
        assert found["trouble"] is None
    finally:
        process.terminate()
        assert process.wait(60) == 0
    after = node_status(node.home.root)
    assert (after["running"], after["level"]) == (False, "none")
    assert not any(each["alive"] for each in after["processes"].values())


TRAINER_ONLY = """
import sys
from pathlib import Path
from tapestry.node.home import Home
from tapestry.node.supervisor import Supervisor, usual_children
home = Home(Path(sys.argv[1]))
Supervisor(home, starts={"trainer": usual_children(home, once=False)["trainer"]}, cluster=True).run()
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SlurmSite]:
    """A home whose trainer is a job of a Slurm of this machine."""
    site = SlurmSite(tmp_path)
    Home(site.home).make_folders()
    yield site
    site.close()


def supervise(site: SlurmSite) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", TRAINER_ONLY, site.home], env=site.environment())
    site.watchers.append(process)
    return process


def watcher_of(site: SlurmSite) -> int:
    """Process id of the trainer's child."""
    return pids(Home(site.home)).get("trainer", 0)


def test_a_job_that_was_preempted_is_submitted_again(site: SlurmSite) -> None:
    process = supervise(site)
    wait_until(site.trains)
    fake_slurm.end(site.slurm, next(iter(site.jobs())), "PREEMPTED")
    wait_until(lambda: len(site.jobs()) == 2 and len(site.runs()) == 2)
    wait_until(site.trains)
    assert sorted(site.jobs().values()) == ["PREEMPTED", "RUNNING"]
    assert supervised(Home(site.home))["children"]["trainer"]["restarts"] == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert sorted(site.jobs().values()) == ["CANCELLED", "PREEMPTED"], "a job was left behind"


def test_a_job_outlives_its_watcher_and_its_supervisor(site: SlurmSite) -> None:
    process = supervise(site)
    wait_until(site.trains)
    first = watcher_of(site)
    said = site.status()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: watcher_of(site) not in (0, first))
    wait_until(lambda: site.status("launcher")["pid"] == watcher_of(site) and site.trains())
    assert site.status()["worker"] == said["worker"], "what the ranks said was forgotten"
    second = watcher_of(site)
    process.kill()
    process.wait()
    wait_until(lambda: not processes.pid_alive(second))
    again = supervise(site)
    wait_until(lambda: watcher_of(site) not in (0, second))
    wait_until(lambda: site.status("launcher")["pid"] == watcher_of(site) and site.trains())
    assert list(site.jobs().values()) == ["RUNNING"] and len(site.runs()) == 1
    again.send_signal(signal.SIGTERM)
    assert again.wait(30) == 0
    assert list(site.jobs().values()) == ["CANCELLED"]


def test_what_the_ranks_of_a_job_ended_with_ends_the_node(site: SlurmSite) -> None:
    (site.home / "behave").write_text("ended")
    process = subprocess.run(
        [sys.executable, "-c", TRAINER_ONLY, site.home],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "CorpusError: there is no text" in process.stderr


def test_a_stop_waits_longer_for_a_job_than_for_a_process(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.2)
    done = home.root / "done"
    slow = (
        "import signal, sys, time\n"
        f"def stop(*_): time.sleep(1); open({str(done)!r}, 'w'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); open('{status}', 'w').write('{}'); time.sleep(600)"
    )
    agent = f"import os, time\nwhile not os.path.exists({str(home.status('trainer'))!r}): time.sleep(0.02)"
    programs = starts(home, trainer=slow, agent=agent)
    assert Supervisor(home, once=True, starts=programs).run() is True
    assert not done.exists()
    home.status("trainer").unlink(missing_ok=True)
    assert Supervisor(home, once=True, starts=programs, cluster=True).run() is True
    assert done.exists()


def test_status_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        node_status(tmp_path)
