"""The real trainer on two hosts, as the rendered script and the pods' command start it: torchrun meets
torchrun, a rank that is killed comes back, and the round is finished."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.training.support import Node

from . import fake_slurm
from .conftest import KubernetesSite, SlurmSite
from .support import Site, wait_until

TRAINING = 'hosts = 2\nmin_hosts = 1\ncorpus = "corpus"\nresidency = "CH"'
STEPS = 60


def laid(site: Site, root: Path) -> Node:
    """A model, a text and a job in the site's home."""
    settings = (site.home / "node.toml").read_text().replace('corpus = "text"\n', "")
    node = Node.make(root / "home", steps=STEPS, checkpoint_s=0.05)
    (node.root / "node.toml").write_text(settings.replace("threads = 1", "threads = 1\ncheckpoint_s = 0.05"))
    return node


def ranks(home: Path) -> dict[int, int]:
    """Process ids of the ranks that run, by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"tapestry.training" in words and os.fsencode(home) in words and b"-u" in words:
                environment = dict(
                    line.partition(b"=")[::2] for line in (entry / "environ").read_bytes().split(b"\0")
                )
                found[int(environment[b"RANK"])] = int(entry.name)
        except (OSError, KeyError, ValueError):
            continue
    return found


def lives_through(site: Site, node: Node) -> None:
    """Two ranks train, one is killed in the middle of a round, and two finish it."""
    watcher = site.watch()
    node.give(node.job(1))
    partial = node.out / "test-run.1.partial"
    wait_until(lambda: partial.is_dir() and any(partial.iterdir()), 90, "no checkpoint")
    before = ranks(site.home)
    assert len(before) == 2
    os.kill(before[1], signal.SIGKILL)
    wait_until(lambda: (node.folder(1) / "result.json").exists(), 120, "the round was not finished")
    assert node.result(1).environment["ranks"] == "2" and node.result(1).steps == STEPS
    assert not set(before.values()) & set(ranks(site.home).values())
    assert len(site.events()) == 1, "it took more than one job"
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(30) == 0
    wait_until(lambda: not ranks(site.home))


@pytest.mark.long
def test_two_hosts_of_slurm(tmp_path: Path) -> None:
    table = 'interface = "lo"\nmax_restarts = 5\nsetup = ["export TAPESTRY_TEST=1"]\n'
    site = SlurmSite(tmp_path, table=table, training=TRAINING)
    node = laid(site, tmp_path)
    text = (site.home / "node.toml").read_text()
    (site.home / "node.toml").write_text(text.replace(str(tmp_path / "ranks"), sys.executable))
    try:
        lives_through(site, node)
        assert list(site.jobs().values()) == ["CANCELLED"]
        assert fake_slurm.processes_of(next(iter(site.jobs()))) == []
    finally:
        site.close()


@pytest.mark.long
def test_two_pods_of_kubernetes(tmp_path: Path) -> None:
    table = 'interface = "lo"\nmax_restarts = 5\n'
    site = KubernetesSite(tmp_path, table=table, training=TRAINING, python=sys.executable)
    try:
        lives_through(site, laid(site, tmp_path))
        assert site.objects("Job") == []
    finally:
        site.close()
