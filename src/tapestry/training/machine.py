"""What repeatable training depends on in this machine and its torch."""

from __future__ import annotations

import os

import torch

from tapestry.host.machine import clean, cpu_model, system
from tapestry.training.island import Island
from tapestry.training.settings import Training


def environment(settings: Training, island: Island, level: str) -> dict[str, str]:
    """What bit-identical training depends on, and how far the trainer was isolated. The gate lets these
    keys pass and no others, each in its own form (`node.environment`)."""
    found = {
        "torch": clean(torch.__version__),
        "cpu": clean(f"{cpu_model()} {torch.backends.cpu.get_cpu_capability()}"),
        "threads": str(settings.threads),
        "ranks": str(island.ranks),
        "precision": settings.precision,
        "isolation": level,
        "system": clean(system()),
    }
    if island.device.type == "cuda":
        found["accelerator"] = clean(torch.cuda.get_device_name(island.device))
    return found


def configure(threads: int) -> None:
    """Everything in torch that bit identity depends on. Once a process, before any arithmetic."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
