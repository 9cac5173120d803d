"""Which windows of the text a node trains on, in which order: a pure function of a position.

S: tokens a sequence. N: sequences (windows) of a split. A window has S + 1 tokens, begins every S tokens,
and gives S pairs of token and next token; each token of the text is predicted once an epoch.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint64]

_ROUNDS = 8


class Permutation:
    """A permutation of 0 … n-1 that needs no memory: a keyed Feistel network over the next even power of
    two, walked on until the value is below n. Counter-based, so any position is reached at once.

    Args:
        n: how many there are.
        key: any bytes; other keys give other orders.
    """

    def __init__(self, n: int, key: bytes) -> None:
        self.n = n
        self.half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
        digest = hashlib.blake2b(key, digest_size=8 * _ROUNDS, person=b"tapestry-order").digest()
        self.keys = np.frombuffer(digest, "<u8").astype(np.uint64)

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each of `positions` (0 … n-1) goes."""
        values = positions.astype(np.uint64)
        outside = np.ones(values.shape, np.bool_)
        while outside.any():
            values[outside] = self._feistel(values[outside])
            outside = values >= self.n
        return values.astype(np.int64)

    def _feistel(self, values: Indices) -> Indices:
        shift = np.uint64(self.half_bits)
        mask = np.uint64((1 << self.half_bits) - 1)
        left, right = values >> shift, values & mask
        for key in self.keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        return (left << shift) | right


def _mix(values: Indices) -> Indices:
    """The finalizer of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def sequences(tokens: int, sequence_length: int) -> int:
    """Windows of a text with this many tokens."""
    return max(0, (tokens - 1) // sequence_length)


class Order:
    """Sequences of one node's text: epoch after epoch, each in an order of its own.

    Args:
        tokens: (T,) all token ids of the split, memory-mapped.
        sequence_length: S.
        seed: the plan's.
        node: the node's name; two nodes with the same text see other orders.
    """

    def __init__(
        self, tokens: npt.NDArray[np.generic], sequence_length: int, *, seed: int, node: str
    ) -> None:
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.count = sequences(len(tokens), sequence_length)
        if self.count == 0:
            raise ValueError(f"{len(tokens)} tokens hold no window of {sequence_length + 1}")
        self._key = f"{seed}\0{node}".encode()
        self._epoch: tuple[int, Permutation] | None = None

    def batch(self, position: int, size: int) -> npt.NDArray[np.int64]:
        """The `size` sequences from `position` on: (size, S + 1) token ids.

        `position` counts sequences consumed so far, over all epochs.
        """
        length = self.sequence_length
        starts = (self.places(position, size) * length).tolist()
        return np.stack([self.tokens[start : start + length + 1] for start in starts]).astype(np.int64)

    def places(self, position: int, size: int) -> npt.NDArray[np.int64]:
        """Which windows of the text those sequences are, counted from its beginning."""
        wanted = np.arange(position, position + size, dtype=np.int64)
        epochs = wanted // self.count
        windows = np.empty(size, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            windows[chosen] = self._permutation(int(epoch))(wanted[chosen] - epoch * self.count)
        return windows

    def _permutation(self, epoch: int) -> Permutation:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, Permutation(self.count, self._key + f"\0{epoch}".encode()))
        return self._epoch[1]
