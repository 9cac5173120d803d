"""What repeatable training depends on in this machine and its torch."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


def environment(threads: int, level: str) -> dict[str, str]:
    """What bit-identical training depends on, and how far the trainer was isolated."""
    return {
        "torch": clean(torch.__version__),
        "cpu": clean(cpu_model()),
        "threads": str(threads),
        "isolation": level,
        "system": clean(f"{platform.system()} {platform.machine()}"),
    }


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
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
