"""Documents that are others, or nearly: by the hash of their letters, and by MinHash sketches in bands.

A sketch (rensa, 128 numbers) is equal in as many places as the sets of runs of two documents have in common;
documents that agree in a whole band of six numbers are compared. Of two alike the earlier one stays.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tapestry.curation import settings
from tapestry.curation.letters import Document
from tapestry.curation.step import Look, Step, missing

SIZE: Final = 128
"""Numbers of a sketch."""
BANDS: Final = 21
ROWS: Final = 6
SEED: Final = 7
_EXACT: Final = 16
"""Bytes of the hash of the letters."""
_AT_ONCE: Final = 1 << 16
"""Runs that are Python objects at the same time."""
_FIRST: Final = 1 << 12

Sketch = npt.NDArray[np.uint32]


class Duplicates(Step):
    """Finds exact and near duplicates.

    Args:
        given: where the line is.
        scratch: folder for the sketches, half a kilobyte for each document that stays.
    """

    name = "duplicates"
    library = "rensa"

    def __init__(self, given: settings.Duplicates, scratch: Path) -> None:
        try:
            from rensa import RMinHash
        except ImportError as e:
            raise missing("rensa") from e
        self._settings = given
        self._sketch: Any = RMinHash
        self._seen: dict[bytes, int] = {}
        self._near: Near | None = None
        self._scratch = scratch

    def look(self, document: Document) -> Look:
        letters = document.letters.tobytes() or document.text.encode()
        exact = hashlib.blake2b(letters, digest_size=_EXACT).digest()
        k = self._settings.letters_unspaced if document.unspaced else self._settings.letters
        if self._settings.similarity == 1 or not len(runs := document.runs(k)):
            return Look(key=exact)
        made = self._sketch(SIZE, SEED)
        for start in range(0, len(runs), _AT_ONCE):
            made.update(runs[start : start + _AT_ONCE].view("V8").tolist())
        return Look(key=exact + np.array(made.digest(), np.uint32).tobytes())

    def settle(self, number: int, look: Look) -> Look:
        exact, sketch = look.key[:_EXACT], look.key[_EXACT:]
        before = self._seen.setdefault(exact, number)
        if before != number:
            return Look(why="same", of=before)
        if sketch:
            if self._near is None:
                self._near = Near(self._settings.similarity, self._scratch)
            like = self._near.add(number, np.frombuffer(sketch, np.uint32))
            if like is not None:
                return Look(why="nearly-same", of=like)
        return Look()


class Near:
    """Sketches of documents that are not alike: the numbers in a file, the bands in a table in memory.

    n: sketches. c: places of the table, at least 2 n. A place holds a sketch's index plus 1; one whose band
    equals that of an earlier sketch is not put there, the others of its bands find it.
    """

    def __init__(self, similarity: float, scratch: Path) -> None:
        self._similarity = similarity
        handle, name = tempfile.mkstemp(prefix="sketches-", dir=scratch)
        os.close(handle)
        self._path = Path(name)
        self._numbers = np.zeros(0, np.int64)
        self._count = 0
        self._grow(_FIRST)

    def add(self, number: int, sketch: Sketch) -> int | None:
        """The number of the first earlier document that is alike; else None, and this one is kept."""
        places, candidates = self._places(sketch)
        if candidates:
            earlier = np.array(sorted(candidates))
            alike = (self._sketches[earlier] == sketch).mean(1) >= self._similarity
            if alike.any():
                return int(self._numbers[earlier[alike][0]])
        if 2 * (self._count + 1) > self._table.shape[1]:
            self._grow(2 * self._table.shape[1])
            places, _ = self._places(sketch)
        self._sketches[self._count] = sketch
        self._numbers[self._count] = number
        self._count += 1
        self._put(places)
        return None

    def _put(self, places: dict[int, int]) -> None:
        for band, place in places.items():
            self._table[band, place] = self._count

    def _places(self, sketch: Sketch) -> tuple[dict[int, int], set[int]]:
        """Free places by band, and earlier sketches that have a band in common."""
        bands = sketch[: BANDS * ROWS].reshape(BANDS, ROWS)
        pending, at = np.arange(BANDS), _slots(bands)
        mask = self._table.shape[1] - 1
        places: dict[int, int] = {}
        candidates: set[int] = set()
        while len(pending):
            at &= mask
            who = self._table[pending, at].astype(np.int64) - 1
            free = who < 0
            places.update(zip(pending[free].tolist(), at[free].tolist(), strict=True))
            pending, at, who = pending[~free], at[~free], who[~free]
            theirs = self._sketches[who, : BANDS * ROWS].reshape(-1, BANDS, ROWS)
            same = (theirs[np.arange(len(who)), pending] == bands[pending]).all(1)
            candidates.update(who[same].tolist())
            pending, at = pending[~same], at[~same] + 1
        return places, candidates

    def _grow(self, capacity: int) -> None:
        with self._path.open("r+b") as file:  # a full disk shows here, not when the map is written to
            os.posix_fallocate(file.fileno(), 0, capacity // 2 * SIZE * 4)
        self._sketches = np.memmap(self._path, np.uint32, "r+", shape=(capacity // 2, SIZE))
        self._numbers = np.concatenate(
            [self._numbers, np.zeros(capacity // 2 - len(self._numbers), np.int64)]
        )
        self._table = np.zeros((BANDS, capacity), np.uint32)
        kept, self._count = self._count, 0
        for index in range(kept):
            places, _ = self._places(self._sketches[index])
            self._count += 1
            self._put(places)


def _slots(bands: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """(B,) where to begin to look for each of B bands."""
    found = np.zeros(len(bands), np.uint64)
    for row in range(bands.shape[1]):
        found = (found ^ bands[:, row]) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    return (found >> np.uint64(2)).astype(np.int64)
