"""What repeatable training depends on in this machine and its torch."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from tapestry.training.island import Island
from tapestry.training.settings import Training


def environment(settings: Training, island: Island, level: str) -> dict[str, str]:
    """What bit-identical training depends on, and how far the trainer was isolated."""
    found = {
        "torch": clean(torch.__version__),
        "cpu": clean(cpu_model()),
        "threads": str(settings.threads),
        "ranks": str(island.ranks),
        "precision": settings.precision,
        "isolation": level,
        "system": clean(f"{platform.system()} {platform.machine()}"),
    }
    if island.device.type == "cuda":
        found["accelerator"] = clean(torch.cuda.get_device_name(island.device))
    return found


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{found[1] if found else platform.processor() or 'unknown'} {capability}"


def clean(text: str) -> str:
    """As `protocol.messages.Environment` allows it."""
    return " ".join(re.sub(r"[^A-Za-z0-9_.+ :/()-]", " ", text).split())[:64]


def configure(threads: int) -> None:
    """Everything in torch that bit identity depends on. Once a process, before any arithmetic."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
