"""Keeps a static mirror of the ledger (`audit.pieces`). An update costs what is new, not what is there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tapestry.audit import file, pieces
from tapestry.core.journal import Journal
from tapestry.core.proofs import Proofs
from tapestry.errors import Conflict, FormatError, ResourceError, TapestryError
from tapestry.host import files
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint
from tapestry.storage.blobs import BlobStore

EVERY_S: Final = 1.0
"""How often it is looked whether the ledger has grown."""
AT_ONCE_BYTES: Final = 8 << 20
"""Of the ledger that is in memory, about."""


class Mirror:
    """Of one core, in one folder that no other process writes meanwhile.

    Args:
        folder: made where it is missing.
        journal, proofs, store: the core's.
    """

    def __init__(self, folder: Path, journal: Journal, proofs: Proofs, store: BlobStore) -> None:
        self.folder = folder
        self._journal = journal
        self._proofs = proofs
        self._store = store
        self._lock = files.Lock(folder / ".lock")
        self._turn = threading.Lock()
        self._held = False
        self._entries: int | None = None
        """That stand in the pieces; None where that has to be looked up."""
        self._offset = 0
        """Bytes of the piece that still grows."""

    def update(self) -> int:
        """Write what is new of the ledger, then its checkpoint; how many entries the mirror tells of.

        Raises:
            Busy: another process keeps this mirror.
            Conflict: it is of another ledger, or this core has lost entries of it.
            ResourceError, OSError: it cannot be written.
        """
        with self._turn:
            return self._update()

    def _update(self) -> int:
        self._hold()
        size, _ = self._journal.tree_head()
        if self._entries is None:
            self._entries = self._resume(size)
        at, self._entries = self._entries, None  # what is cut off is looked up again
        while at < size:
            at, note = self._write(at)
            if note is not None:
                files.write_atomic(self.folder / pieces.CHECKPOINT, note.encode())
                size = at
        self._entries = at
        return at

    def close(self) -> None:
        self._lock.release()

    def _hold(self) -> None:
        if not self._held:
            with files.full_disk(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._held = True
            files.clean_temporaries(self.folder)

    def _resume(self, size: int) -> int:
        """Entries that the mirror's checkpoint tells of; what stands behind them is written anew."""
        path = self.folder / pieces.CHECKPOINT
        self._offset = 0
        if not path.exists():
            return 0
        said = Checkpoint.parse(Note.from_bytes(pieces.checkpoint(path).encode()).text)
        if said.size > size or self._journal.tree_root(said.size) != said.root:
            raise Conflict(
                f"the mirror in {self.folder} tells of {said.size} entries that are not this core's {size}",
                hint="if this core was restored from an older copy: tapestry core recover brings it forward; "
                "else give the mirror another folder",
            )
        if left := said.size % pieces.ENTRIES:
            self._offset = _end_of(self.folder / pieces.name(said.size // pieces.ENTRIES), left)
        return said.size

    def _write(self, at: int) -> tuple[int, str | None]:
        """Some entries more; how many there are then, and the checkpoint if they are all."""
        pending, note = bytearray(), None
        for line in self._proofs.lines(self._store, at, AT_ONCE_BYTES):
            if line[0] == "checkpoint":
                note = str(line[1])
                break
            if not self._offset and not pending:
                pending += file.FIRST
            pending += file.encode(line)
            if line[0] == "entry":
                at += 1
                if at % pieces.ENTRIES == 0:
                    self._append((at - 1) // pieces.ENTRIES, pending)
                    self._offset = 0
        if pending:
            self._append(at // pieces.ENTRIES, pending)
        return at, note

    def _append(self, number: int, pending: bytearray) -> None:
        path = self.folder / pieces.name(number)
        files.append(path, self._offset, bytes(pending))
        if not self._offset:
            files.fsync_dir(self.folder)
        self._offset += len(pending)
        pending.clear()


def _end_of(path: Path, entries: int) -> int:
    """Where in a piece so many entries end. Raises `FormatError`."""
    with path.open("rb") as handle:
        for line in iter(handle.readline, b""):
            entries -= line.startswith(b'{"entry":')
            if not entries:
                return handle.tell()
    raise FormatError(f"{path} has fewer entries than its mirror tells of", hint="move the mirror away")


async def keep(mirror: Mirror, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
    """Until cancelled; what fails is told once, tried again, and keeps nobody from anything else."""
    told = ""
    try:
        while True:
            try:
                await asyncio.to_thread(mirror.update)
                told = ""
            except (TapestryError, OSError) as error:
                if str(error) != told:
                    tell("mirror-behind", {"folder": os.fspath(mirror.folder), "error": str(error)})
                told = str(error)
            await asyncio.sleep(EVERY_S)
    finally:
        with contextlib.suppress(TapestryError, OSError):
            mirror.update()
        with contextlib.suppress(OSError, ResourceError):
            mirror.close()
