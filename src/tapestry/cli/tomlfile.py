"""TOML files that people write, from the disk; what they hold, `protocol.toml` reads."""

from __future__ import annotations

from pathlib import Path

from tapestry.errors import InputError, TapestryError
from tapestry.host import files
from tapestry.protocol.toml import as_tuples, describe, faults, line_of, read

__all__ = ["as_tuples", "bytes_of", "describe", "faults", "line_of", "read"]


def bytes_of(path: Path, *, kind: str, max_bytes: int, error: type[InputError]) -> bytes:
    """The bytes of such a file, no more than it may have. `kind` names it: `a plan file`."""
    hint = f"give the path of {kind}"
    try:
        return files.read_limited(path, max_bytes)
    except OSError as e:
        raise error(f"cannot read {path}: {e.strerror}", hint=hint) from e
    except TapestryError as e:
        raise error(f"cannot read {path}: {e.message}", hint=hint) from e
