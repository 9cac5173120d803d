"""Windows of text that the attack is tried on, and which of them were trained on.

S: tokens of a training sequence. A window is one sequence, cut where it is longer, or several in a row: so
the attack sees text as training saw it. L: tokens predicted of each sequence. P: sequences of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tapestry.training.batches import Order, sequences
from tapestry.training.corpus import SplitTokens, Tokens
from tapestry.training.tokenizer import Tokenizer

Numbers = npt.NDArray[np.int64]
MIN_TOKENS: Final = 8
MARKER_PART: Final = 6
"""Letters of a marker that a text has by chance hardly ever."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """Of all windows of a report."""

    sequence_length: int
    predicted: int
    """L, at most S."""
    parts: int
    """P; above 1 only where L is S."""
    bytes: float
    """UTF-8 bytes of text in a window, in the mean."""

    @classmethod
    def of(cls, valid: SplitTokens, sequence_length: int, window_bytes: int) -> Form:
        """Windows of about so many bytes; how many a token has is taken from the valid text."""
        assert valid.text_bytes is not None  # noqa: S101 - that split has them
        each = float(valid.text_bytes.mean(dtype=np.float64))
        tokens = max(MIN_TOKENS, round(window_bytes / each))
        parts = max(1, round(tokens / sequence_length))
        predicted = min(tokens, sequence_length) if parts == 1 else sequence_length
        return cls(
            sequence_length=sequence_length, predicted=predicted, parts=parts, bytes=parts * predicted * each
        )

    def count(self, tokens: Tokens) -> int:
        """Windows of a text."""
        return sequences(len(tokens), self.sequence_length) // self.parts

    def rows(self, tokens: Tokens, windows: Numbers) -> Numbers:
        """(N · P, L + 1) ids of windows, by their numbers, those of a window behind each other."""
        if not len(windows):
            return np.empty((0, self.predicted + 1), np.int64)
        first = (windows[:, None] * self.parts + np.arange(self.parts)).ravel() * self.sequence_length
        return np.stack([tokens[at : at + self.predicted + 1] for at in first.tolist()]).astype(np.int64)


@dataclass(frozen=True)
class Span:
    """Sequences a node consumed one after the other, by their positions over all epochs."""

    start: int
    stop: int


def trained(order: Order, spans: Sequence[Span], form: Form) -> tuple[Numbers, Numbers]:
    """Numbers of windows all of which was trained on in these spans, and of those none of which was."""
    seen = np.zeros(order.count, np.bool_)
    for span in spans:
        whole = -(-span.start // order.count) * order.count
        if whole + order.count <= span.stop:
            seen[:] = True
            break
        seen[order.places(span.start, span.stop - span.start)] = True
    count = order.count // form.parts
    inside = seen[: count * form.parts].reshape(count, form.parts)
    return np.flatnonzero(inside.all(axis=1)), np.flatnonzero(~inside.any(axis=1))


def sample(windows: Numbers, most: int, seed: int) -> Numbers:
    """At most so many of them, the same each time, in order."""
    if len(windows) <= most:
        return windows
    return np.sort(np.random.default_rng(seed).choice(windows, most, replace=False))


def without(rows: Numbers, windows: Numbers, tokenizer: Tokenizer, marker: str) -> Numbers:
    """Windows in whose text no part of a marker stands. Canaries are like no other text: left in, they alone
    would tell members from others.

    Args:
        rows: (N · P, L + 1) of them.
        windows: (N,) their numbers.
        tokenizer: that the ids are of.
        marker: what canaries begin with.
    """
    if not len(windows):
        return windows
    parts = {marker[at : at + MARKER_PART] for at in range(len(marker) - MARKER_PART + 1)}
    clean = [
        not any(part in text for part in parts)
        for text in (tokenizer.decode(ids.ravel().tolist()) for ids in np.split(rows, len(windows)))
    ]
    return windows[np.asarray(clean, np.bool_)]
