"""The marks of withdrawn datasets in a node's home, for whoever uses text or lets something of it pass.

    cards/withdrawn/NAME.json     the mark of a dataset; see `catalog.withdrawal`

Looking whether there is a new one is one call to the system, so that it can be done at every step.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from tapestry.catalog.card import Card
from tapestry.catalog.withdrawal import Withdrawn, datasets_of, is_withdrawn
from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.protocol.canonical import is_sha256
from tapestry.training.shelf import CARDS, ENDING

FOLDER: Final = "withdrawn"
"""Of the folder of cards."""
MANIFESTS: Final = "manifests"
"""Of the node's cache."""
MAX_MANIFEST_BYTES: Final = 64 << 20
SETTLED_NS: Final = 1_000_000_000


class Withdrawals:
    """Of one home. Not for several threads.

    Args:
        home: the node's.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / CARDS / FOLDER
        self._path = str(self.folder)
        self._manifests = home / "cache" / MANIFESTS
        self._seen: tuple[int, int] | None = None
        self._marks: tuple[Withdrawn, ...] = ()
        self._free: set[str] = set()
        """Manifests that no mark of now covers."""

    def marks(self) -> tuple[Withdrawn, ...]:
        """All there are now. Raises `SettingsError` for one that cannot be read: then nothing may be used."""
        try:
            info = os.stat(self._path)  # noqa: PTH116 - asked at every step
        except FileNotFoundError:
            return ()
        if self._seen == (info.st_ino, info.st_mtime_ns):
            return self._marks
        found = tuple(read(path) for path in sorted(self.folder.glob(f"*{ENDING}")))
        if found != self._marks:
            self._marks, self._free = found, set()
        # Times of folders are coarse: one of just now may stand for two changes.
        settled = time.time_ns() - info.st_mtime_ns > SETTLED_NS
        self._seen = (info.st_ino, info.st_mtime_ns) if settled else None
        return found

    def covers(self, card: Card) -> bool:
        return is_withdrawn(card, self.marks())

    def covers_manifest(self, sha: str) -> bool:
        """Whether what was trained on, by the hash of its data manifest, was withdrawn by now. One that is
        not here counts as withdrawn, once anything is."""
        marks = self.marks()
        if not marks or sha in self._free:
            return False
        named = self.datasets(sha)
        if not named or any(mark.covers(*each) for mark in marks for each in named):
            return True
        self._free.add(sha)
        return False

    def datasets(self, sha: str) -> list[tuple[str, str]]:
        """Name and content hash of each dataset of a data manifest; none if it is not here or names none."""
        try:
            path = self._manifests / f"{sha}{ENDING}"
            return datasets_of(files.read_limited(path, MAX_MANIFEST_BYTES) if is_sha256(sha) else b"")
        except (OSError, TapestryError):
            return []

    def manifests(self, dataset: str, roots: frozenset[str] = frozenset()) -> dict[str, set[str]]:
        """Hashes of the data manifests that name a dataset, or documents with one of these content hashes;
        with the content hashes each gives it. Other datasets may be named beside it."""
        found: dict[str, set[str]] = {}
        for path in sorted(self._manifests.glob(f"*{ENDING}")):
            sha = path.name.removesuffix(ENDING)
            mine = {r for name, r in self.datasets(sha) if name == dataset or r in roots}
            if mine:
                found[sha] = mine
        return found

    def path(self, dataset: str) -> Path:
        return self.folder / f"{dataset}{ENDING}"

    def put(self, mark: Withdrawn) -> None:
        """Durable when this returns."""
        with files.full_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        files.clean_temporaries(self.folder)
        files.write_atomic(self.path(mark.dataset), mark.to_bytes())


def read(path: Path) -> Withdrawn:
    """Raises `SettingsError` for what is no mark."""
    try:
        return Withdrawn.from_bytes(files.read_limited(path, Withdrawn.MAX_BYTES))
    except (OSError, TapestryError) as e:
        raise SettingsError(
            f"{path} cannot be read: {e}", hint="write it anew: tapestry catalog revoke NAME --home NODE_DIR"
        ) from e
