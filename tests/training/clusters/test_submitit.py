"""The same life through submitit, where it is installed."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytest

from tapestry.errors import SettingsError
from tapestry.training.clusters import submitit
from tapestry.training.clusters.submitit import SubmititCluster

from .conftest import SlurmSite
from .support import opened, wait_until, write_settings

TABLE = """
[slurm]
time_limit = "60"
partition = "gpu"
memory = "1G"
extra = ["--exclusive", "--mail-type=END"]
setup = ["module load cuda"]
"""


def test_it_is_given_all_that_slurm_is_given(tmp_path: Path) -> None:
    training = "hosts = 3\nmin_hosts = 2\nprocesses = 2"
    cluster = opened(write_settings(tmp_path / "home", "submitit", TABLE, training=training))
    assert isinstance(cluster, SubmititCluster)
    found = cluster.parameters(cluster.digest)
    assert found["additional_parameters"] == {
        "time": "60",
        "signal": "TERM@120",
        "no-requeue": True,
        "no-kill": True,
        "export": "NONE",
        "chdir": str(tmp_path / "home"),
        "exclusive": True,
        "mail-type": "END",
    }
    assert (found["nodes"], found["cpus_per_task"], found["partition"], found["mem"]) == (3, 2, "gpu", "1G")
    assert found["setup"] == ["module load cuda"] and found["comment"] == f"tapestry:{cluster.digest}"
    last = shlex.split(cluster.text().splitlines()[-1])
    assert last[:3] == ["exec", "bash", "-c"] and "srun" not in last


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(submitit.importlib, "import_module", missing)
    cluster = opened(write_settings(tmp_path / "home", "submitit", TABLE))
    with pytest.raises(SettingsError, match="needs the package submitit") as caught:
        cluster.submit(tmp_path)
    assert "tapestry[slurm]" in (caught.value.hint or "")


def test_a_job_through_the_real_submitit(tmp_path: Path) -> None:
    library = pytest.importorskip("submitit")
    folder = Path(library.__file__).parents[1]
    # submitit's own Python runs in the job; the ranks' does what ranks do.
    table = f'time_limit = "60"\nsetup = ["export PYTHONPATH={folder}"]\n'
    site = SlurmSite(tmp_path, launcher="submitit", table=table)
    program = tmp_path / "ranks"
    first = f'#!/bin/sh\n[ "$2" = -m ] && [ "$3" = submitit.core._submit ] && exec {sys.executable} "$@"\n'
    program.write_text(first + program.read_text().removeprefix("#!/bin/sh\n"))
    try:
        watcher = site.watch()
        wait_until(site.trains, what=(site.home / "watcher.log").read_text())
        [number] = site.jobs()
        assert list((site.home / "launch" / "submitit").glob(f"{number}_submitted.pkl"))
        watcher.kill()
        watcher.wait()
        again = site.watch()
        wait_until(lambda: "job-taken-up" in site.events())
        again.send_signal(signal.SIGTERM)
        assert again.wait(20) == 0
        assert site.jobs() == {number: "CANCELLED"}
        assert (site.home / "stopped").exists(), "the ranks were not asked to stop"
    finally:
        site.close()
