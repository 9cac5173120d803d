"""Weighted sum and outer step on flat fp32 tensors, block by block in preallocated memory.

Only elementwise multiply, add and subtract, each an operation of its own: torch's `add(alpha=)`,
`addcmul` and `lerp` may fuse and then round otherwise at another SIMD level. Elements do not depend
on each other, so block size and threads change no bit.

Shape legend: every tensor is 1-D, fp32, contiguous; those of one call have one length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tapestry.merge.scalars import fp32

BLOCK = 1 << 16
"""Elements a pass: 256 KiB a tensor, so that a block's three or four tensors stay in a core's cache.
Measured: at 2^12 calls dominate (a third of the speed), at 2^18 the cache misses."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """The outer step: its scalars as in the plan."""

    rate: float
    momentum: float
    keeps_momentum: bool
    refresh: int | None = None
    """Merges between two refreshes of a delayed momentum; None where it is no delayed one."""
    is_refresh: bool = True
    """Whether this merge is one; of a delayed momentum."""

    @classmethod
    def nesterov(cls, *, rate: float, momentum: float) -> Outer:
        return cls(rate=rate, momentum=momentum, keeps_momentum=True)

    @classmethod
    def delayed(cls, *, rate: float, momentum: float, refresh: int, is_refresh: bool) -> Outer:
        """Delayed Nesterov (arXiv 2401.09135): momentum once in `refresh` merges, of their mean gradient."""
        return cls(rate=rate, momentum=momentum, keeps_momentum=True, refresh=refresh, is_refresh=is_refresh)

    @classmethod
    def sgd(cls, *, rate: float) -> Outer:
        return cls(rate=rate, momentum=0.0, keeps_momentum=False)

    @classmethod
    def fedavg(cls) -> Outer:
        """SGD of rate 1: the weighted mean of the local models."""
        return cls.sgd(rate=1.0)


def scratch() -> Tensor:
    """Working memory for one thread."""
    return torch.empty(BLOCK, dtype=torch.float32)


def accumulate(total: Tensor, delta: Tensor, factor: float, work: Tensor) -> None:
    """total ← total + factor · delta; the factor is an fp32 number."""
    for a, d, t in _blocks(work, total, delta):
        torch.mul(d, factor, out=t)
        a.add_(t)


def accumulate_at(total: Tensor, places: Tensor, values: Tensor, factor: float) -> None:
    """As `accumulate` of a delta that is `values` at `places` (int64, each once) and +0 elsewhere; the same
    bits, since a sum that began at +0 is never -0."""
    total[places] += values * factor


def step(base: Tensor, momentum: Tensor | None, gradient: Tensor, outer: Outer, work: Tensor) -> None:
    """One outer step in place on `base`, and on `momentum` where `outer` keeps one (else None)."""
    if outer.keeps_momentum:
        if momentum is None:
            raise ValueError("this outer step needs a momentum tensor; it is zero in the first round")
        if outer.refresh is None:
            _nesterov(base, momentum, gradient, fp32(outer.rate), fp32(outer.momentum), work)
        else:
            _delayed(base, momentum, gradient, outer, outer.refresh, work)
    else:
        rate = fp32(outer.rate)
        for b, g, t in _blocks(work, base, gradient):
            b.sub_(g if rate == 1.0 else torch.mul(g, rate, out=t))


def _nesterov(base: Tensor, momentum: Tensor, gradient: Tensor, rate: float, mu: float, work: Tensor) -> None:
    for b, v, g, t in _blocks(work, base, momentum, gradient):
        v.mul_(mu)
        v.add_(g)
        torch.mul(v, mu, out=t)
        t.add_(g)
        t.mul_(rate)
        b.sub_(t)


def _delayed(
    base: Tensor, momentum: Tensor, gradient: Tensor, outer: Outer, refresh: int, work: Tensor
) -> None:
    """`momentum` holds the momentum times mu, and the gradients since the last refresh by their part."""
    rate, mu, part = fp32(outer.rate), fp32(outer.momentum), fp32(1.0 / refresh)
    for b, u, g, w in _blocks(work, base, momentum, gradient):
        t = g if refresh == 1 else torch.mul(g, part, out=w)
        u.add_(t)
        if outer.is_refresh:
            u.mul_(mu)
            t = torch.add(u, t, out=w)
        b.sub_(torch.mul(t, rate, out=w))


def _blocks(work: Tensor, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Corresponding blocks of `tensors`, and a block of `work` of their length last."""
    length = tensors[0].numel()
    if any(tensor.numel() != length for tensor in tensors):
        raise ValueError("tensors of one call have one length")
    for blocks in zip(*(torch.split(tensor, BLOCK) for tensor in tensors), strict=True):
        size = blocks[0].numel()
        yield [*blocks, work if size == BLOCK else work[:size]]
