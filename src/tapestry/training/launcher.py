"""Starts a node's ranks: on this machine, in a network namespace of their own, or the watcher of
the cluster that starts them (`tapestry.training.clusters`). Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tapestry.host import processes
from tapestry.training.settings import Training

ONE_HOST: Final = ("--standalone", "--local-addr=127.0.0.1")
"""Of torchrun: the ranks of one host meet on its loopback."""
LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""They talk over it too; in the trainer's network namespace there is nothing else."""


def torchrun(home: Path | str, processes: int, *, meet: Sequence[str], max_restarts: int) -> list[str]:
    """Arguments for a Python that starts the ranks of one host.

    Args:
        home: the node's home, as that host sees it.
        processes: ranks to start on it.
        meet: how its torchrun finds those of the other hosts.
        max_restarts: how often torchrun starts its ranks again when one died, before it gives up.
    """
    return [
        "-P",
        "-m",
        "torch.distributed.run",
        *meet,
        f"--nproc-per-node={processes}",
        f"--max-restarts={max_restarts}",
        "-m",
        "tapestry.training",
        "--home",
        str(home),
    ]


def command(home: Path, processes: int = 1) -> list[str]:
    """The trainer of a node's home on this machine, under torchrun where there are ranks to bring together:
    a torchrun takes 230 MB and two seconds of a processor. Whoever starts it starts it again."""
    if processes == 1:
        return [sys.executable, "-P", "-m", "tapestry.training", "--home", str(home)]
    return [sys.executable, *torchrun(home, processes, meet=ONE_HOST, max_restarts=0)]


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


def launch(home: Path, settings: Training, log_path: Path) -> processes.Child:
    """Start the ranks here, or the process that has a cluster start them. It dies with this process, and
    status/trainer.json says how they ended.

    On this machine the ranks have no network. The watcher of a cluster needs one to speak to its scheduler,
    and reads no data.
    """
    if settings.launcher != "local":
        watcher = [sys.executable, "-P", "-m", "tapestry.training.clusters", "--home", str(home)]
        return processes.spawn("trainer", watcher, log_path=log_path, cwd=home)
    return processes.spawn(
        "trainer",
        command(home, settings.processes),
        log_path=log_path,
        cwd=home,
        env={**environment(settings.threads), **LOOPBACK},
        isolate_network=True,
    )
