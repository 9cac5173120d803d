"""Tokenized text that nothing is to be trained on any more is removed from a node's cache.

Only for who knows that no trainer has it open: the trainer itself, once it has read other text, or whoever
holds the node's home.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.catalog.card import File
from tapestry.errors import TapestryError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.training.withdrawals import MANIFESTS, MAX_MANIFEST_BYTES

TOKENS: Final = "tokens-"
"""How the folders of `corpus.open_corpus` begin."""
WITHHELD: Final = "withheld.json"
"""In one: how many documents are left out, and by which protected.toml; absent where there is none."""
OLD: Final = ".old"
PATIENCE_S: Final = 60.0


@dataclass(frozen=True)
class Removed:
    """What was taken out of the cache."""

    folders: tuple[Path, ...] = ()
    bytes: int = 0

    def erase(self) -> None:
        """The bytes too; until then they lie under names that nobody reads."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in {folder.parent for folder in self.folders}:
            files.fsync_dir(parent)


def list_of(held: Iterable[File]) -> bytes:
    """Files of cards, as `corpus.manifest_of` lists them."""
    entries = [
        {"bytes": file.bytes, "path": file.path, "sha256": file.sha256, "split": file.split}
        for file in sorted(held, key=lambda file: file.path)
    ]
    return _listed(entries)


def _listed(entries: Any) -> bytes:
    return canonical.encode({"files": entries, "format": "tapestry.data-manifest", "version": 1})


def files_of(cache: Path, manifests: Iterable[str]) -> set[bytes]:
    """The files that data manifests name, each list as `corpus.manifest_of` gives it; of those there are."""
    found = set()
    for sha in manifests:
        try:
            data = files.read_limited(cache / MANIFESTS / f"{sha}.json", MAX_MANIFEST_BYTES)
            entries = json.loads(data)["files"]
        except (OSError, TapestryError, ValueError, KeyError, TypeError):
            continue
        found.add(_listed(entries))
    return found


def take_out(
    cache: Path, lists: Collection[bytes], *, read: tuple[bytes, str | None] | None = None
) -> Removed:
    """Take the tokens of these lists of files out of the cache, and what a killed process left of any.
    Durable when this returns, but for the bytes: see `Removed.erase`.

    Args:
        cache: of a node.
        lists: of files, whatever was withheld of them.
        read: the list of files that are trained on, and the digest of the protected.toml they are read with:
            what was made of these files with another one goes too, since it may hold what is protected now.

    Raises:
        Busy: somebody has been tokenizing for a minute.
    """
    if not cache.is_dir():
        return Removed()
    lock, folders, size = files.Lock(cache), [], 0
    lock.wait(PATIENCE_S)
    try:
        for folder in sorted(cache.glob(f"{TOKENS}*")):
            left = folder.suffix in (OLD, ".tmp")
            if not left and not _is_stale(folder, lists, read):
                continue
            size += sum(path.stat().st_size for path in folder.iterdir())
            folders.append(folder if left else folder.rename(folder.with_name(folder.name + OLD)))
        if folders:
            files.fsync_dir(cache)
    finally:
        lock.release()
    return Removed(tuple(folders), size)


def _is_stale(folder: Path, lists: Collection[bytes], read: tuple[bytes, str | None] | None) -> bool:
    listed = _content(folder / "corpus.json")
    if read is None or listed != read[0]:
        return listed in lists
    said = _content(folder / WITHHELD)
    return (json.loads(said).get("protected") if said else None) != read[1]


def _content(path: Path) -> bytes:
    try:
        return files.read_limited(path, MAX_MANIFEST_BYTES)
    except (OSError, TapestryError):
        return b""
