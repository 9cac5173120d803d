"""What can be found of this machine, and of the torch installed on it, without loading torch."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Final

MAX_WORDS: Final = 64
"""Characters of what a machine is called."""
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9_.+ :/()-]")
_MODEL: Final = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
_VERSION: Final = re.compile(r"^__version__ = ['\"]([^'\"]+)['\"]", re.MULTILINE)


def clean(text: str) -> str:
    """As `protocol.messages.Environment` allows it."""
    return " ".join(_NOT_PLAIN.sub(" ", text).split())[:MAX_WORDS]


def cpu_model() -> str:
    """What the kernel calls the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = _MODEL.search(text)
    return found[1] if found else platform.processor() or "unknown"


def system() -> str:
    return f"{platform.system()} {platform.machine()}"


def torch_version() -> str:
    """What `torch.__version__` says, read from its files: a package's metadata may lack the part behind the
    `+`. Empty where there is no torch."""
    try:
        found = metadata.distribution("torch")
        text = Path(str(found.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except metadata.PackageNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        return found.version
    said = _VERSION.search(text)
    return said[1] if said else found.version
