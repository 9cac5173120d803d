"""Rows of numbers that come for as long as a run goes on, in memory that does not grow with it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

MOST: Final = 4096


class Columns:
    """When it is full, every other row goes, and from then on only every other, every fourth, … is taken. The
    last row is there in any case.

    Args:
        names: of the columns; all values are floats.
        most: rows that are kept.
    """

    def __init__(self, *names: str, most: int = MOST) -> None:
        self.names = names
        self._most = most
        self._columns = {name: array("d") for name in names}
        self._stride = 1
        self._count = 0
        self.last: tuple[float, ...] | None = None

    def __len__(self) -> int:
        """Rows that were given."""
        return self._count

    @property
    def stride(self) -> int:
        """Of how many rows one is kept."""
        return self._stride

    def add(self, *values: float) -> None:
        if self._count % self._stride == 0:
            kept = 0
            for name, value in zip(self.names, values, strict=True):
                self._columns[name].append(value)
                kept = len(self._columns[name])
            if kept > self._most:
                self._columns = {name: column[::2] for name, column in self._columns.items()}
                self._stride *= 2
        self.last = values
        self._count += 1

    def rows(self) -> Iterator[tuple[float, ...]]:
        """Kept rows, oldest first, and the last one. One that is added meanwhile may be missing."""
        columns = [self._columns[name] for name in self.names]
        size = min(map(len, columns), default=0)
        last = self.last
        final: tuple[float, ...] | None = None
        for i in range(size):
            final = tuple(column[i] for column in columns)
            yield final
        if last is not None and final != last:
            yield last
