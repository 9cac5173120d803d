"""The simplest model worth beating: which byte follows which, counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapestry.training.corpus import Corpus, SplitTokens
from tapestry.training.evaluation import Scored
from tapestry.training.tokenizer import BYTE_VOCABULARY

ADDED = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Values of k that are tried."""
HELD_OUT = 0.1
"""Share of the training text, at its end, on which k is chosen."""
_BLOCK = 1 << 20

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bigrams:
    """Counts of pairs of symbols (256 bytes and the end of a document) with k added to each.

    Args:
        counts: (257, 257), first symbol by second.
        added: k.
    """

    counts: Counts
    added: float

    @classmethod
    def fit(cls, corpus: Corpus) -> Bigrams:
        """Counts of the training text, k chosen on its last tenth with the counts of the rest.

        `corpus` must be tokenized by the byte tokenizer.
        """
        tokens = corpus.train.tokens
        cut = int(len(tokens) * (1 - HELD_OUT))
        rest = cls.count(tokens[:cut])
        held_out = cls.count(tokens[cut:])
        losses = [float((held_out * cls(rest, k).bits()).sum()) for k in ADDED]
        return cls(rest + held_out, ADDED[int(np.argmin(losses))])

    @staticmethod
    def count(tokens: npt.NDArray[np.generic]) -> Counts:
        size = BYTE_VOCABULARY
        total = np.zeros(size * size, np.int64)
        for start in range(0, len(tokens) - 1, _BLOCK):
            block = np.asarray(tokens[start : start + _BLOCK + 1]).astype(np.int64)
            total += np.bincount(block[:-1] * size + block[1:], minlength=size * size)
        return total.reshape(size, size)

    def bits(self) -> npt.NDArray[np.float64]:
        """(257, 257) −log2 p(second | first)."""
        smooth = self.counts + self.added
        bits: npt.NDArray[np.float64] = -np.log2(smooth / smooth.sum(axis=1, keepdims=True))
        return bits

    def score(self, split: SplitTokens, *, max_tokens: int) -> Scored:
        """Bits per byte by the convention of `evaluation`, over the same text if that is byte-level too."""
        tokens = np.asarray(split.tokens[:max_tokens]).astype(np.int64)
        end = BYTE_VOCABULARY - 1
        before = np.concatenate([[end], tokens[:-1]])
        counted = tokens != end
        bits = self.bits()[before, tokens][counted]
        return Scored(bits_per_byte=float(bits.mean()), bytes=int(counted.sum()))
