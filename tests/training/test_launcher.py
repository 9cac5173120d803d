"""The ranks of this machine: torchrun in a namespace whose only network is its loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tapestry.host import processes
from tapestry.training import launcher
from tapestry.training.settings import TrainerSettings

from .support import Node, wait_until


def test_the_command_starts_as_many_ranks_as_it_is_told() -> None:
    trainer = ["-m", "tapestry.training", "--home", "/home/n"]
    assert launcher.command(Path("/home/n")) == [sys.executable, "-P", *trainer]
    many = launcher.command(Path("/home/n"), 8)
    assert many[:4] == [sys.executable, "-P", "-m", "torch.distributed.run"]
    assert "--nproc-per-node=8" in many and many[-4:] == trainer


def test_loading_it_loads_no_torch() -> None:
    code = "import sys, tapestry.training.launcher, tapestry.training.clusters.__main__ as m; "
    code += "print([name for name in ('torch', 'numpy', 'submitit', 'httpx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_ranks_train_without_a_network(tmp_path: Path) -> None:
    node = Node.make(tmp_path / "home", steps=3)
    settings = TrainerSettings.load(node.root).model_copy(update={"processes": 2})
    node.give(node.job(1))
    child = launcher.launch(node.root, settings, node.root / "logs" / "trainer.log")
    log = node.root / "logs" / "trainer.log"
    try:
        wait_until(lambda: (node.folder(1) / "result.json").exists() or child.poll() is not None)
        assert child.poll() is None, log.read_text()[-3000:]
        assert node.result(1).environment["ranks"] == "2"
        worker = node.status()["worker"]
        parent = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]
        ranks = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        assert len(ranks) == 2
        if node.status()["level"] == "netns":
            outside = Path("/proc/self/ns/net").readlink()
            inside = {Path(f"/proc/{pid}/ns/net").readlink() for pid in ranks}
            assert len(inside) == 1 and outside not in inside
        environment = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
        assert b"GLOO_SOCKET_IFNAME=lo" in environment
        os.kill(child.pid, signal.SIGTERM)
        wait_until(lambda: child.poll() is not None)
        assert not any(processes.pid_alive(int(pid)) for pid in ranks)
    finally:
        processes.kill_tree(child)


def test_with_a_cluster_the_watcher_is_started(tmp_path: Path) -> None:
    node = Node.make(tmp_path / "home")
    text = (node.root / "node.toml").read_text().replace("threads = 1", 'threads = 1\nlauncher = "slurm"')
    (node.root / "node.toml").write_text(text)
    settings = TrainerSettings.load(node.root)
    child = launcher.launch(node.root, settings, node.root / "logs" / "trainer.log")
    try:
        if (command := Path(f"/proc/{child.pid}/cmdline")).exists():
            assert b"torch" not in command.read_bytes()
        wait_until(lambda: node.status().get("error"))  # there is no Slurm here
        assert "squeue cannot be run" in node.status()["error"]["message"]
        assert child.wait(20) == 2
    finally:
        processes.kill_tree(child)
