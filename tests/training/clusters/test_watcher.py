"""One job, whoever is killed: the watcher against a Slurm whose jobs are real processes."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from . import fake_slurm
from .conftest import SlurmSite
from .support import opened, wait_until


def test_a_job_waits_runs_and_is_cancelled_when_the_node_stops(slurm: SlurmSite) -> None:
    (slurm.slurm / "hold").touch()
    watcher = slurm.watch()
    wait_until(lambda: slurm.status().get("phase") == "queued")
    assert slurm.status("launcher")["reason"] == "Priority"
    assert slurm.status()["launcher"] == "slurm" and slurm.status()["pid"] == watcher.pid
    [number] = slurm.jobs()
    assert slurm.record()["job"] == number
    (slurm.slurm / "hold").unlink()
    wait_until(slurm.trains)
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(20) == 0
    assert slurm.jobs() == {number: "CANCELLED"}
    assert fake_slurm.processes_of(number) == []
    assert (slurm.home / "stopped").read_text() == f"{number}\n", "the ranks were not asked to stop"
    assert slurm.status("launcher")["phase"] == "stopped"
    assert slurm.record()["job"] is None


def test_a_job_that_waits_is_cancelled_too(slurm: SlurmSite) -> None:
    (slurm.slurm / "hold").touch()
    watcher = slurm.watch()
    wait_until(lambda: slurm.status().get("phase") == "queued")
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(20) == 0
    assert list(slurm.jobs().values()) == ["CANCELLED"]
    assert slurm.runs() == []


def test_the_ranks_get_what_they_need_and_nothing_of_the_nodes_environment(
    slurm: SlurmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPESTRY_INVITATION", "secret")
    slurm.watch()
    wait_until(slurm.trains)
    [run] = slurm.runs()
    assert run["env"]["OMP_NUM_THREADS"] == "1" and run["env"]["GLOO_SOCKET_IFNAME"] == "lo"
    assert "TAPESTRY_INVITATION" not in run["env"]
    assert run["argv"][-4:] == ["-m", "tapestry.training", "--home", str(slurm.home)]


def test_a_killed_watcher_leaves_the_job_and_the_next_takes_it_up(slurm: SlurmSite) -> None:
    watcher = slurm.watch()
    wait_until(slurm.trains)
    watcher.kill()
    watcher.wait()
    before = slurm.jobs()
    again = slurm.watch()
    wait_until(lambda: "job-taken-up" in slurm.events())
    wait_until(slurm.trains)
    assert slurm.jobs() == before and len(before) == 1
    assert len(slurm.runs()) == 1, "the ranks were started again"
    again.send_signal(signal.SIGTERM)
    assert again.wait(20) == 0
    assert list(slurm.jobs().values()) == ["CANCELLED"]


def test_a_job_is_found_by_its_name_where_the_record_was_lost(slurm: SlurmSite) -> None:
    watcher = slurm.watch()
    wait_until(slurm.trains)
    watcher.kill()
    watcher.wait()
    (slurm.home / "launch" / "job.json").unlink()
    slurm.watch()
    wait_until(lambda: "job-taken-up" in slurm.events())
    assert len(slurm.jobs()) == 1


def test_a_job_submitted_by_hand_is_taken_up(slurm: SlurmSite, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(opened(slurm.home).text())
    for folder in ("logs", "status"):
        (slurm.home / folder).mkdir()
    subprocess.run(["sbatch", str(script)], env=slurm.environment(), check=True)
    wait_until(slurm.runs)
    slurm.watch()
    wait_until(slurm.trains)
    assert len(slurm.jobs()) == 1 and slurm.events() == ["job-taken-up"]


def test_a_killed_submission_is_not_repeated(slurm: SlurmSite) -> None:
    """The watcher dies between the submission and the note of it."""
    (slurm.home / "launch").mkdir()
    (slurm.home / "launch" / "job.json").write_text('{"submitting": true}')
    watcher = slurm.watch()
    time.sleep(1.0)  # it looks for what may come through
    script = slurm.home / "late.sh"
    script.write_text(opened(slurm.home).text())
    subprocess.run(["sbatch", str(script)], env=slurm.environment(), check=True)
    wait_until(slurm.trains)
    assert len(slurm.jobs()) == 1 and watcher.poll() is None


def test_a_job_of_other_settings_is_replaced(slurm: SlurmSite) -> None:
    watcher = slurm.watch()
    wait_until(slurm.trains)
    watcher.kill()
    watcher.wait()
    text = (slurm.home / "node.toml").read_text()
    (slurm.home / "node.toml").write_text(text.replace("threads = 1", 'threads = 1\nprecision = "bf16"'))
    slurm.watch()
    wait_until(lambda: len(slurm.runs()) == 2)
    wait_until(slurm.trains)
    assert sorted(slurm.jobs().values()) == ["CANCELLED", "RUNNING"]


def test_a_job_that_was_told_to_end_is_not_taken_up(slurm: SlurmSite) -> None:
    watcher = slurm.watch()
    wait_until(slurm.trains)
    (slurm.slurm / "away").touch()
    watcher.send_signal(signal.SIGTERM)
    wait_until(lambda: slurm.record().get("cancelled"))
    watcher.kill()
    watcher.wait()
    time.sleep(0.5)  # a command of its that was under way fails as well
    assert list(slurm.jobs().values()) == ["RUNNING"], "nobody could be told"
    (slurm.slurm / "away").unlink()
    slurm.watch()
    wait_until(lambda: len(slurm.jobs()) == 2)
    wait_until(slurm.trains)
    assert sorted(slurm.jobs().values()) == ["CANCELLED", "RUNNING"]


@pytest.mark.parametrize("state", ["PREEMPTED", "TIMEOUT"])
def test_a_job_that_was_taken_away_ends_the_watcher_and_the_next_submits(
    slurm: SlurmSite, state: str
) -> None:
    watcher = slurm.watch()
    wait_until(slurm.trains)
    fake_slurm.end(slurm.slurm, next(iter(slurm.jobs())), state)
    assert watcher.wait(20) == 1
    assert slurm.status().get("error") is None
    slurm.watch()
    wait_until(slurm.trains)
    assert sorted(slurm.jobs().values()) == sorted([state, "RUNNING"])


def test_the_end_of_a_job_that_nobody_watched_is_seen(slurm: SlurmSite) -> None:
    watcher = slurm.watch()
    wait_until(slurm.trains)
    watcher.kill()
    watcher.wait()
    fake_slurm.end(slurm.slurm, next(iter(slurm.jobs())), "NODE_FAIL")
    wait_until(lambda: list(slurm.jobs().values()) == ["NODE_FAIL"])
    (slurm.slurm / "forget").touch()  # squeue has forgotten it; sacct has not
    assert slurm.watch().wait(20) == 1
    assert slurm.log()[-1]["how"] == "NODE_FAIL"


def test_what_the_ranks_ended_with_is_what_the_watcher_ends_with(slurm: SlurmSite) -> None:
    (slurm.home / "behave").write_text("ended")
    watcher = slurm.watch()
    assert watcher.wait(20) == 2
    error = {"code": "corpus", "message": "there is no text", "hint": "bring some"}
    assert slurm.status()["error"] == error
    assert slurm.log()[-1]["error"] == error


def test_an_error_that_comes_again_ends_the_job(slurm: SlurmSite) -> None:
    """torchrun would start the ranks again many times."""
    (slurm.home / "behave").write_text("ill")
    watcher = slurm.watch()
    assert watcher.wait(20) == 2
    assert slurm.status()["error"]["code"] == "corpus"
    assert list(slurm.jobs().values()) == ["CANCELLED"]


def test_jobs_that_end_at_once_again_and_again_are_an_error(slurm: SlurmSite) -> None:
    (slurm.home / "behave").write_text("crash")
    (slurm.home / "launch").mkdir()
    (slurm.home / "launch" / "job.json").write_text('{"failures": 3}')
    assert [slurm.watch().wait(20) for _ in range(2)] == [1, 9]
    error = slurm.status()["error"]
    assert "5 jobs of slurm in a row" in error["message"] and "FAILED" in error["message"]
    assert error["hint"].endswith(f"job-{max(slurm.jobs())}.log")


def test_a_scheduler_that_is_away_for_a_while_is_waited_for(slurm: SlurmSite) -> None:
    (slurm.slurm / "away").touch()
    watcher = slurm.watch()
    wait_until(lambda: "Unable to contact" in slurm.status("launcher").get("trouble", ""))
    assert slurm.status()["phase"] in ("starting", "submitting")
    (slurm.slurm / "away").unlink()
    wait_until(slurm.trains)
    assert "trouble" not in slurm.status("launcher")
    (slurm.slurm / "away").touch()
    wait_until(lambda: "Unable to contact" in slurm.status("launcher").get("trouble", ""))
    assert slurm.status("launcher")["phase"] == "running" and slurm.status()["phase"] == "training"
    (slurm.slurm / "away").unlink()
    wait_until(lambda: "trouble" not in slurm.status("launcher"))
    assert watcher.poll() is None and list(slurm.jobs().values()) == ["RUNNING"]


def test_a_job_that_slurm_refuses_is_an_error_of_the_settings(slurm: SlurmSite) -> None:
    (slurm.slurm / "refuse").write_text("Batch job submission failed: Invalid account or partition")
    assert slurm.watch().wait(20) == 2
    error = slurm.status()["error"]
    assert error["code"] == "settings" and "Invalid account" in error["message"]
    assert len(slurm.calls("sbatch")) == 3


def test_a_machine_without_slurm_is_told_so(slurm: SlurmSite) -> None:
    for name in fake_slurm.COMMANDS:
        (slurm.programs / name).unlink()
    assert slurm.watch().wait(20) == 2
    assert "squeue cannot be run" in slurm.status()["error"]["message"]


def test_a_second_watcher_of_a_home_is_refused(slurm: SlurmSite, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapestry.errors import Busy
    from tapestry.host import files
    from tapestry.training.clusters import __main__ as program

    monkeypatch.setattr(program, "LOCK_S", 0.1)
    monkeypatch.setattr(program.processes, "die_with_parent", lambda: None)
    (slurm.home / "status").mkdir()
    with files.Lock(slurm.home / "status" / ".launcher.lock"):
        assert program.main(["--home", str(slurm.home)]) == Busy.exit_code


def test_it_asks_the_scheduler_no_more_often_than_told(slurm: SlurmSite) -> None:
    text = (slurm.home / "node.toml").read_text()
    (slurm.home / "node.toml").write_text(text.replace("poll_s = 0.1", "poll_s = 2"))
    slurm.watch()
    wait_until(slurm.trains)
    before = len(slurm.calls("squeue"))
    time.sleep(2.0)
    assert len(slurm.calls("squeue")) - before <= 2
