"""A document as numbers: classes of its characters, its letters, and hashes of runs of letters.

n: characters. m: letters, as compared. k: letters of a run. Nothing here knows a language: runs of letters do
for Chinese and Vietnamese what words do for German, only shorter.
"""

from __future__ import annotations

import unicodedata
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from tapestry.catalog.protected import fold, is_unspaced

Codes = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

OTHER, SPACED, UNSPACED, MARK, DIGIT, BLANK, PUNCTUATION, SYMBOL = range(8)
CLASSES: Final = 8
_END: Final = 0x33500
"""Behind it are tags, variants and private use: `OTHER`."""
_OF_CATEGORY: Final = {"L": SPACED, "M": MARK, "N": DIGIT, "Z": BLANK, "P": PUNCTUATION, "S": SYMBOL}
_BASE: Final = np.uint64(0x9E3779B97F4A7C15)
_INVERSE: Final = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))


@lru_cache(maxsize=1)
def _table() -> npt.NDArray[np.uint8]:
    """Class of each code point."""
    table = np.zeros(_END + 1, np.uint8)
    for code in range(_END):
        letter = chr(code)
        found = _OF_CATEGORY.get(unicodedata.category(letter)[0], OTHER)
        table[code] = UNSPACED if found in (SPACED, MARK) and is_unspaced(letter) else found
    table[[9, 10, 11, 12, 13]] = BLANK
    table[0xFFFD] = OTHER
    return table


def codes(text: str) -> Codes:
    """(n,) code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32, copy=False)


def classes(of: Codes) -> npt.NDArray[np.uint8]:
    """(n,) class of each."""
    return _table()[np.minimum(of, _END)]


class Document:
    """One document, with what several steps need of it, computed once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(8,) characters of each class."""
        return np.bincount(classes(codes(self.text)), minlength=CLASSES)

    @property
    def letter_count(self) -> int:
        """Letters and marks; no digits."""
        return int(self.counts[[SPACED, UNSPACED, MARK]].sum())

    @property
    def unspaced(self) -> bool:
        """Whether most letters are of scripts that have no blanks between words."""
        return bool(2 * self.counts[UNSPACED] > self.letter_count)

    @cached_property
    def folded(self) -> str:
        return fold(self.text)

    @cached_property
    def letters(self) -> Codes:
        """(m,) letters, marks and digits as they are compared: without case, blanks and signs."""
        found = codes(self.folded)
        kinds = classes(found)
        return found[(kinds >= SPACED) & (kinds <= DIGIT)]

    def runs(self, k: int) -> Hashes:
        """(m − k + 1,) a hash of each run of k letters; empty where there are fewer letters."""
        return runs(self.letters, k)


def runs(letters: Codes, k: int) -> Hashes:
    """As `Document.runs`: a rolling polynomial modulo 2^64 over mixed letters, mixed again."""
    m = len(letters)
    if m < k:
        return np.empty(0, np.uint64)
    powers, inverses = _powers(1 << max(10, (m - 1).bit_length()))
    sums = np.zeros(m + 1, np.uint64)
    np.cumsum(mix(letters.astype(np.uint64)) * powers[:m], out=sums[1:])
    return mix((sums[k:] - sums[:-k]) * inverses[: m - k + 1])


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """(count,) powers of the base and of its inverse modulo 2^64."""
    found = []
    for base in (_BASE, _INVERSE):
        made = np.full(count, base, np.uint64)
        made[0] = 1
        found.append(np.cumprod(made, dtype=np.uint64))
    return found[0], found[1]


def mix(values: Hashes) -> Hashes:
    """The finalizer of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
