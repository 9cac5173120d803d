"""Bytes that would cross the network: what one member sends and receives, in the mean over members.

A member of a run gets the initial base once. Each round it sends its delta and, repeating the merge, receives
everybody else's; or (`sync = "fetch"`) the merged base instead. In a ring all-reduce of n members each sends
2 (n − 1) / n times the gradient, in 4 bytes a parameter, and receives as much.

Manifests count, signed messages and HTTP do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tapestry.protocol.artifact import Artifact

GRADIENT_BYTES = 4
"""Of a parameter."""


def artifact_bytes(artifact: Artifact) -> int:
    """Shards and their manifest."""
    return artifact.total_bytes + len(artifact.to_bytes())


@dataclass(kw_only=True)
class Traffic:
    """Of one member.

    Args:
        members: n.
    """

    members: int
    _sent: Fraction = Fraction(0)
    _received: Fraction = Fraction(0)
    _fetched: Fraction = Fraction(0)

    @property
    def sent(self) -> int:
        return round(self._sent)

    @property
    def received(self) -> int:
        """By replay, or of gradients."""
        return round(self._received)

    @property
    def fetched(self) -> int:
        """Received in place of `received` where members fetch each base."""
        return round(self._fetched)

    @property
    def total(self) -> int:
        """Sent and received."""
        return round(self._sent + self._received)

    def warm_start(self, base_bytes: int) -> None:
        """The initial base arrives."""
        self._received += base_bytes
        self._fetched += base_bytes

    def replay(self, deltas: Sequence[int], base_bytes: int) -> None:
        """A round with deltas of these sizes, one a member."""
        mean = Fraction(sum(deltas), len(deltas))
        self._sent += mean
        self._received += mean * (len(deltas) - 1)
        self._fetched += base_bytes

    def all_reduce(self, steps: int, parameters: int) -> None:
        """So many steps of data parallel."""
        each = Fraction(2 * (self.members - 1), self.members) * GRADIENT_BYTES * parameters * steps
        self._sent += each
        self._received += each
        self._fetched += each
