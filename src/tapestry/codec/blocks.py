"""How a piece is cut into blocks, and where a value of a block stands in the piece.

Shape legend: a piece is (rows, width); a group holds blocks of one size, `tall` × `wide`, in `down` rows of
`across` blocks. B = down · across blocks, v = tall · wide values each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Blocks of one size; the first begins at (`top`, `left`) of the piece."""

    width: int
    top: int
    left: int
    tall: int
    wide: int
    down: int
    across: int

    @property
    def blocks(self) -> int:
        return self.down * self.across

    @property
    def values(self) -> int:
        """Of one block."""
        return self.tall * self.wide

    def parts(self, most_values: int) -> Iterator[Group]:
        """The same blocks in smaller groups, whole rows of blocks each, near `most_values` values."""
        step = max(1, most_values // (self.across * self.values))
        for first in range(0, self.down, step):
            yield Group(
                width=self.width,
                top=self.top + first * self.tall,
                left=self.left,
                tall=self.tall,
                wide=self.wide,
                down=min(step, self.down - first),
                across=self.across,
            )

    def view(self, values: Tensor) -> Tensor:
        """The group's values (down, across, tall, wide), sharing the memory of a piece's flat values."""
        matrix = values.view(-1, self.width)
        inside = matrix[
            self.top : self.top + self.down * self.tall, self.left : self.left + self.across * self.wide
        ]
        return inside.view(self.down, self.tall, self.across, self.wide).transpose(1, 2)

    def places(self, block: Tensor, number: Tensor) -> Tensor:
        """Where the values with these numbers in these blocks stand in the piece; int64.

        By two small tables: dividing every number costs more than all the rest of reading a section.
        """
        import torch  # sizes, which a core computes, need no tensor

        device = number.device
        down = torch.arange(self.down, device=device).view(-1, 1) * (self.tall * self.width)
        across = torch.arange(self.across, device=device) * self.wide
        first = (down + across).view(-1) + (self.top * self.width + self.left)
        row = torch.arange(self.tall, device=device).view(-1, 1) * self.width
        within = (row + torch.arange(self.wide, device=device)).view(-1)
        return first[block].add_(within[number])


def cut(shape: Shape, side: int) -> tuple[Group, ...]:
    """The groups of a piece: full blocks, right edge, bottom edge, corner; those that hold none left out."""
    if len(shape) >= 2:
        rows, width, tall, wide = shape[0], prod(shape[1:]), side, side
    else:
        rows, width, tall, wide = 1, prod(shape), 1, side * side
    found = []
    for top, height, down in _spans(rows, tall):
        for left, breadth, across in _spans(width, wide):
            found.append(
                Group(width=width, top=top, left=left, tall=height, wide=breadth, down=down, across=across)
            )
    return tuple(found)


def _spans(length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Start, size and count of the full parts of a length, then of the rest."""
    whole, rest = divmod(length, size)
    if whole:
        yield 0, size, whole
    if rest:
        yield whole * size, rest, 1
