"""What a sum of contributions is divided by, element by element. Elementwise operations only.

Shape legend: `total`, and each contribution's `values`, are flat, fp32, of one piece; `places` are int64,
each once; `width` is the number of values of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Senders:
    """Divides by the weights of those that sent an element: what only one moved is not diluted."""

    def __init__(self, count: int) -> None:
        self._share = torch.zeros(count)

    def add(self, values: Tensor, factor: float, weight: float) -> None:
        """A dense contribution; 0 counts as not sent."""
        self._share += (values != 0).float() * weight

    def add_at(self, places: Tensor, values: Tensor, factor: float, weight: float) -> None:
        self._share[places] += weight

    def finish(self, total: Tensor) -> None:
        """total ← the average."""
        total.div_(_no_zeros(self._share))


class Users:
    """Divides each row by the weights of those whose contribution holds anything in it: the rows of an
    embedding belong to those whose text has the token."""

    def __init__(self, count: int, width: int) -> None:
        self._width = width
        self._share = torch.zeros(count // width)

    def add(self, values: Tensor, factor: float, weight: float) -> None:
        self._share += (values.view(-1, self._width) != 0).any(1).float() * weight

    def add_at(self, places: Tensor, values: Tensor, factor: float, weight: float) -> None:
        used = torch.zeros(self._share.numel(), dtype=torch.bool)
        used[places // self._width] = True
        self._share += used.float() * weight

    def finish(self, total: Tensor) -> None:
        total.view(-1, self._width).div_(_no_zeros(self._share).view(-1, 1))


class Movers:
    """Divides by the effective part of those that moved an element, (Σ w|d|)² / Σ w d²: 1 where all moved it
    alike, w where one did alone."""

    def __init__(self, count: int) -> None:
        self._sizes = torch.zeros(count)
        self._squares = torch.zeros(count)

    def add(self, values: Tensor, factor: float, weight: float) -> None:
        if weight == 0.0:
            return
        term = values * factor
        self._sizes += term.abs()
        self._squares += (term * term).div_(weight)

    def add_at(self, places: Tensor, values: Tensor, factor: float, weight: float) -> None:
        if weight == 0.0:
            return
        term = values * factor
        self._sizes[places] += term.abs()
        self._squares[places] += (term * term).div_(weight)

    def finish(self, total: Tensor) -> None:
        size = self._sizes * self._sizes
        by = self._squares / _no_zeros(size)
        total.mul_(torch.where(size > 0, by, 1.0))


Average = Senders | Users | Movers


def _no_zeros(divisor: Tensor) -> Tensor:
    """Where nobody sent anything the sum is 0, and stays 0."""
    return torch.where(divisor > 0, divisor, 1.0)
