"""Held-out text: bits per byte of several models on the same documents, by language.

A language's text is the valid split of its files, from its beginning up to a number of bytes, so that every
model reads the same whatever its tokenizer. What is resampled are documents; where there are few, pieces of
them (see `MIN_DOCUMENTS`), and the report says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tapestry.catalog.content import LEAF
from tapestry.catalog.protected import Protected
from tapestry.errors import CorpusError
from tapestry.sovereign.evaluation.candidate import Candidate
from tapestry.sovereign.evaluation.resampling import Numbers
from tapestry.training.corpus import Split, SplitTokens, TextFile, find_files
from tapestry.training.documents import documents
from tapestry.training.evaluation import token_bits

MIN_DOCUMENTS: Final = 20
"""With fewer, pieces of documents are resampled instead."""
PIECE_BYTES: Final = 2000
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """What of a language is read.

    Args:
        language: BCP 47, or `und`.
        documents: each whole but perhaps the last.
    """

    language: str
    documents: tuple[str, ...]
    leaves: tuple[bytes, ...] = ()
    """Of each document, whole, as cards count them (`catalog.content.leaf_of`)."""

    @property
    def bytes(self) -> int:
        return sum(len(each.encode()) for each in self.documents)


def read(language: str, found: Sequence[TextFile], max_bytes: int, protected: Protected | None) -> Text:
    """Documents of files, the protected ones left out. Raises `CorpusError` where none is left."""
    taken: list[str] = []
    leaves: list[bytes] = []
    room = max_bytes
    for file in found:
        for pieces in documents(file.path):
            if room <= 0:
                break
            if protected is not None:
                pieces = list(pieces)  # a document is protected as a whole, also where it is cut
                if protected.look(pieces, file.name) is not None:
                    continue
            passing = _Passing(pieces)
            if document := _within(passing, room):
                taken.append(document)
                leaves.append(passing.leaf())
                room -= len(document.encode())
    if not taken:
        names = ", ".join(file.name for file in found[:3])
        raise CorpusError(f"the held-out text of {language} ({names}) is empty", hint="give files with text")
    return Text(language, tuple(taken), tuple(leaves))


class _Passing:
    """A document that is hashed as it goes by."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces, self._held = iter(pieces), hashlib.sha256(LEAF)

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self._held.update(piece.encode())
            yield piece

    def leaf(self) -> bytes:
        """Of all of it, also of what nobody has asked for yet."""
        for _ in self:
            pass
        return self._held.digest()


def files_of(folder: Path, split: Split = "valid") -> list[TextFile]:
    """Of a corpus folder. Raises `CorpusError`."""
    return [file for file in find_files(folder, (split,)) if file.split == split]


def _within(pieces: Iterable[str], room: int) -> str:
    """A document, cut at so many bytes, at the end of a character."""
    found: list[str] = []
    for piece in pieces:
        data = piece.encode()
        found.append(data[:room].decode("utf-8", "ignore"))
        room -= len(data)
        if room <= 0:
            break
    return "".join(found)


@dataclass(frozen=True)
class Measured:
    """Bits and bytes of each unit: a document, or a piece of one. (U,) each."""

    bits: Numbers
    bytes: Numbers


def measure(model: Candidate, text: Text, window: int) -> Measured:
    """Bits per byte as `training.evaluation` has it, by unit; units are the same for every model."""
    ids: list[npt.NDArray[np.int64]] = []
    sizes: list[npt.NDArray[np.int64]] = []
    lengths: list[int] = []
    for document in text.documents:
        found, widths = model.words.encode(document)
        ids += [found, np.asarray([model.words.end_id])]
        sizes += [widths, np.zeros(1, np.int64)]
        lengths.append(len(found) + 1)
    every = np.concatenate(sizes)
    split = SplitTokens(np.concatenate(ids).astype(np.uint32), every.astype(np.uint16))
    bits = token_bits(model.module, split, sequence_length=window, device=model.device)
    model.require_finite(bool(np.isfinite(bits).all()))
    units, count = _units(text, every, np.asarray(lengths))
    return Measured(
        np.bincount(units, weights=bits, minlength=count).astype(np.float64),
        np.bincount(units, weights=every, minlength=count).astype(np.float64),
    )


def by_document(text: Text) -> bool:
    """Whether whole documents are resampled."""
    return len(text.documents) >= MIN_DOCUMENTS


def _units(text: Text, widths: Whole, lengths: Whole) -> tuple[Whole, int]:
    """(T,) the unit of each token, and how many units there are.

    Args:
        text: read.
        widths: (T,) bytes of each token.
        lengths: tokens of each document.
    """
    documents = np.repeat(np.arange(len(lengths)), lengths)
    if by_document(text):
        return documents, len(lengths)
    # A piece is where a token ends, so that tokenizers differ by a token at its edges.
    ends = np.cumsum(widths)
    begins = np.concatenate([[0], ends[np.cumsum(lengths)[:-1] - 1]])
    within = np.maximum(ends - begins[documents] - 1, 0) // PIECE_BYTES
    pieces = np.asarray([max(1, -(-len(each.encode()) // PIECE_BYTES)) for each in text.documents])
    before = np.concatenate([[0], np.cumsum(pieces)[:-1]])
    return np.asarray(before[documents] + np.minimum(within, pieces[documents] - 1)), int(pieces.sum())
