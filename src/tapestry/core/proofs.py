"""What the core says of its ledger: the tree's head, signed, and proofs about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tapestry.audit import file
from tapestry.audit.file import Line
from tapestry.audit.heads import cosigned
from tapestry.core.consortium import Consortium
from tapestry.core.journal import Journal
from tapestry.errors import NotFound
from tapestry.identity.envelope import Envelope
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import Entry
from tapestry.protocol.messages import Attestation
from tapestry.storage.blobs import BlobStore

BATCH_BYTES: Final = 8 << 20


class Proofs:
    """Of one core's ledger. A head is only ever read from the log, which nothing is taken out of, so no two
    that are signed contradict each other."""

    def __init__(self, journal: Journal, consortium: Consortium) -> None:
        self._journal = journal
        self._consortium = consortium

    def checkpoint(self) -> bytes:
        """The newest head as a signed note."""
        return self._signed(*self._journal.tree_head())

    def inclusion(self, sequence: int, size: int) -> dict[str, Any]:
        """That an entry is among the first `size`. Raises `NotFound`."""
        return {"sequence": sequence, "size": size, "proof": _hex(self._journal.inclusion(sequence, size))}

    def consistency(self, old: int, new: int) -> dict[str, Any]:
        """That the first `new` entries begin with the first `old`. Raises `NotFound`."""
        return {"old": old, "new": new, "proof": _hex(self._journal.consistency(old, new))}

    def lines(self, store: BlobStore, after: int = 0, max_bytes: int | None = None) -> Iterator[Line]:
        """The ledger behind a position and up to its newest head, for `audit.file`; where it has more than
        `max_bytes`, it ends early, and without a checkpoint. Raises `NotFound` where an envelope is lost."""
        for kind, data in self._lines(store, after, max_bytes):
            if kind == "entry":
                yield kind, Entry.from_bytes(data)
            else:
                yield kind, data.decode() if kind == "checkpoint" else data

    def written(self, store: BlobStore, after: int = 0, max_bytes: int | None = None) -> Iterator[bytes]:
        """The same lines as they stand in a file; nothing of them is looked at here, who reads them does."""
        for kind, data in self._lines(store, after, max_bytes):
            yield file.encode((kind, data.decode())) if kind == "checkpoint" else file.of_bytes(kind, data)

    def _lines(self, store: BlobStore, after: int, max_bytes: int | None) -> Iterator[tuple[str, bytes]]:
        """What each line is, and its value's bytes."""
        size, root = self._journal.tree_head()
        done, written = after, 0
        while done < size:
            batch, _ = self._journal.entries(done, limit=size - done, max_bytes=BATCH_BYTES)
            for data in batch:
                done += 1
                envelope = _named(data)
                if envelope is not None:
                    blob = store.read(envelope, Envelope.MAX_BYTES)
                    written += len(blob)
                    yield "blob", blob
                yield "entry", data
                written += len(data)
                if max_bytes is not None and written > max_bytes and done < size:
                    return
        yield "checkpoint", self._signed(size, root)

    def cosigned(self, store: BlobStore, run: str, round: int) -> bytes:
        """The head that ends with the commit of a round, as a note with every witness's signature. Raises
        `NotFound`."""
        committed = self._journal.of_round(run, round, "round-committed")
        if not committed:
            raise NotFound(f"round {round} of run {run} is not committed")
        size = committed[-1].sequence
        note = Note.from_bytes(self._signed(size, self._journal.tree_root(size)))
        for entry in self._journal.of_round(run, round, "base-attested"):
            envelope = Envelope.from_bytes(store.read(entry.body["attestation"], Envelope.MAX_BYTES))
            note = cosigned(note, envelope.unverified(Attestation))
        return note.to_bytes()

    def _signed(self, size: int, root: bytes) -> bytes:
        origin = origin_of(self._consortium.id)
        note = Note(Checkpoint(origin, size, root).text)
        return note.signed(origin, self._consortium.core_key).to_bytes()


def _named(entry: bytes) -> str | None:
    """The envelope that an entry of the log names."""
    value = json.loads(entry)
    field = file.NAMED.get(value["type"])
    return None if field is None else str(value["body"][field])


def _hex(proof: Sequence[bytes]) -> list[str]:
    return [each.hex() for each in proof]
