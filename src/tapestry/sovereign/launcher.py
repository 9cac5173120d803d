"""Starts the process of a build: on this machine, in a network namespace of its own. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path

from tapestry.host import processes
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.recipe import Machine
from tapestry.training.launcher import LOOPBACK, ONE_HOST, environment

OFFLINE: dict[str, str | None] = {
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "WANDB_DISABLED": "true",
    "DO_NOT_TRACK": "1",
}


def command(root: Path, ranks: int) -> list[str]:
    """Of the process, under torchrun where there are ranks to bring together."""
    module = ["-m", "tapestry.sovereign.work", "--home", str(root)]
    if ranks == 1:
        return [sys.executable, "-P", *module]
    run = ["-P", "-m", "torch.distributed.run", *ONE_HOST, f"--nproc-per-node={ranks}", "--max-restarts=0"]
    return [sys.executable, *run, *module]


def launch(home: BuildHome, machine: Machine) -> processes.Child:
    """Start it. It dies with this process; `status.json` says how it ended."""
    cache = home.root / "cache"
    return processes.spawn(
        "build",
        command(home.root, machine.processes),
        log_path=home.root / "build.log",
        cwd=home.root,
        env={
            **environment(machine.threads),
            **LOOPBACK,
            **OFFLINE,
            "HF_HOME": str(cache),
            "HF_DATASETS_CACHE": str(cache / "datasets"),
        },
        isolate_network=True,
    )
