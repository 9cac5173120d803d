"""What nodes say of their progress: the newest word of each, for the views of runs and, in a file, for who
watches a run on the core's own machine. Kept nowhere else."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Final

from tapestry.errors import ResourceError, TapestryError
from tapestry.host import files
from tapestry.protocol.messages import Progress

WRITE_S: Final = 1.0
"""The file is written at most so often."""


class Telling:
    """Of one core process.

    Args:
        path: `status/progress.json`; what cannot be written there is passed over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: dict[str, dict[str, Progress]] = {}
        self._written = 0.0

    def of(self, run: str) -> dict[str, Progress]:
        """By node."""
        return dict(self._said.get(run, {}))

    def take(self, run: str, node: str, progress: Progress) -> None:
        self._said.setdefault(run, {})[node] = progress
        if time.monotonic() - self._written >= WRITE_S:
            self._written = time.monotonic()
            self._write()

    def _write(self) -> None:
        value = {
            run: {node: said.model_dump(mode="json") for node, said in nodes.items()}
            for run, nodes in self._said.items()
        }
        with contextlib.suppress(OSError, ResourceError):
            files.write_atomic(self._path, json.dumps(value).encode() + b"\n", durable=False)


def told(path: Path, run: str) -> dict[str, Progress]:
    """What the file has of a run; nothing where it cannot be read."""
    try:
        value = json.loads(files.read_limited(path, 4 << 20))
        nodes = value.get(run, {})
        return {str(node): Progress.model_validate(said) for node, said in nodes.items()}
    except (OSError, ValueError, AttributeError, TapestryError):
        return {}
