"""Starts a node's trainer: `torchrun` in a network namespace of its own. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path

from tapestry.host import processes


def command(home: Path) -> list[str]:
    """The trainer of a node's home under torchrun, one process."""
    return [
        sys.executable,
        "-P",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=1",
        "--max-restarts=0",
        "--local-addr=127.0.0.1",
        "-m",
        "tapestry.training",
        "--home",
        str(home),
    ]


def environment(threads: int) -> dict[str, str | None]:
    """Variables under which training is repeatable to the bit: a fixed number of threads, and MKL's own
    mode for results that repeat from run to run."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_DYNAMIC": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        "MKL_CBWR": "AUTO",
        "PYTHONSAFEPATH": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHELASTIC_ERROR_FILE": None,
    }


def launch(home: Path, threads: int, log_path: Path) -> processes.Child:
    """Start the trainer. It dies with this process, and writes how it ended to status/trainer.json."""
    return processes.spawn(
        "trainer",
        command(home),
        log_path=log_path,
        cwd=home,
        env=environment(threads),
        isolate_network=True,
    )
