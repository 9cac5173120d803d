"""Rows of a model between shards and ranks: a base comes in shard by shard, a delta goes out likewise.

R: ranks. Rank k holds rows k · ⌈rows / R⌉ onwards of each parameter, as FSDP2 splits the first axis. Shards
are those of the layout whatever R is: of each R in a row one is read or written by each rank, which sends
or collects the rows of it that others hold. So a shard is read and hashed once an island, and memory is a
shard or so a rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tapestry.protocol.layout import ELEMENT_BYTES, Layout, Shard
from tapestry.tensors import shards
from tapestry.tensors.flat import ReadBuffer
from tapestry.training.island import Island


def local(tensor: Tensor) -> Tensor:
    """The part of a parameter, gradient or moment that this rank holds; shares its memory."""
    found = tensor.detach()
    return found.to_local() if isinstance(found, DTensor) else found


def held(rows: int, ranks: int, rank: int) -> tuple[int, int]:
    """First row a rank holds, and the one after its last."""
    each = -(-rows // ranks)
    return min(rank * each, rows), min((rank + 1) * each, rows)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one rank holds of one piece of a shard, in elements of flat memory."""

    name: str
    elements: int
    in_shard: int
    in_rank: int


class Rows:
    """The parameters of one rank, filled from shards and read as shards.

    Args:
        layout: of the model.
        parameters: by name; sharded ones are DTensors.
        island: all ranks call each method together.
    """

    def __init__(self, layout: Layout, parameters: Mapping[str, nn.Parameter], island: Island) -> None:
        self._layout = layout
        self._island = island
        self._flat = {name: local(parameter).view(-1) for name, parameter in parameters.items()}

    def fill(
        self, read: Callable[[Shard], ReadBuffer], over: Sequence[Shard] | None = None, *, keep: float = 0.0
    ) -> None:
        """Set rows from shards. Raises `ArtifactError` where a shard's header is another.

        Args:
            read: gives a shard's bytes.
            over: these shards; all if None.
            keep: what part of the values they had stays in them.
        """
        me = self._island.rank
        for group in self._groups(over):
            outgoing: list[Tensor] = [torch.empty(0)] * self._island.ranks
            if me < len(group):
                values = shards.values(group[me], read(group[me]))
                for rank in range(self._island.ranks):
                    outgoing[rank] = _joined(
                        values[p.in_shard : p.in_shard + p.elements] for p in self._parts(group[me], rank)
                    )
            mine = [self._parts(shard, me) for shard in group]
            sizes = [sum(p.elements for p in parts) for parts in mine]
            sizes += [0] * (self._island.ranks - len(group))
            arrived = self._island.exchange(outgoing, sizes)
            for parts, values in zip(mine, arrived, strict=False):
                self._put(parts, values, keep)

    def copies(self) -> dict[str, Tensor]:
        """Of all rows this rank holds, for `restore`."""
        return {name: values.clone() for name, values in self._flat.items()}

    @torch.no_grad()
    def restore(self, copies: Mapping[str, Tensor]) -> None:
        for name, values in copies.items():
            self._flat[name].copy_(values)

    def shards(self, over: Sequence[Shard] | None = None) -> Iterator[tuple[Shard, Tensor]]:
        """The shards this rank writes, of `over` or of all, each with its values: flat, fp32, on the CPU."""
        me = self._island.rank
        for group in self._groups(over):
            outgoing = [
                _joined(self._flat[p.name][p.in_rank : p.in_rank + p.elements] for p in self._parts(s, me))
                for s in group
            ]
            outgoing += [torch.empty(0, device=self._island.device)] * (self._island.ranks - len(group))
            own = group[me] if me < len(group) else None
            parts = [self._parts(own, rank) if own else [] for rank in range(self._island.ranks)]
            sizes = [sum(p.elements for p in each) for each in parts]
            arrived = self._island.exchange(outgoing, sizes)
            if own is None:
                continue
            values = torch.empty(own.elements)
            for each, flat in zip(parts, arrived, strict=True):
                start = 0
                for p in each:
                    values[p.in_shard : p.in_shard + p.elements] = flat[start : start + p.elements]
                    start += p.elements
            yield own, values

    def _groups(self, over: Sequence[Shard] | None) -> Iterator[tuple[Shard, ...]]:
        """As many shards at a time as there are ranks."""
        every = tuple(over) if over is not None else self._layout.shards
        for start in range(0, len(every), self._island.ranks):
            yield every[start : start + self._island.ranks]

    def _parts(self, shard: Shard, rank: int) -> list[_Part]:
        found = []
        for piece in shard.pieces:
            tensor, wide = piece.tensor, piece.tensor.row_elements
            first, behind = held(tensor.rows, self._island.ranks, rank)
            start, stop = max(first, piece.row_start), min(behind, piece.row_stop)
            if start < stop:
                in_shard = piece.byte_start // ELEMENT_BYTES + (start - piece.row_start) * wide
                found.append(_Part(tensor.name, (stop - start) * wide, in_shard, (start - first) * wide))
        return found

    @torch.no_grad()
    def _put(self, parts: list[_Part], values: Tensor, keep: float) -> None:
        start = 0
        for p in parts:
            into, new = (
                self._flat[p.name][p.in_rank : p.in_rank + p.elements],
                values[start : start + p.elements],
            )
            if keep:
                into.mul_(keep).add_(new.to(into.device), alpha=1 - keep)
            else:
                into.copy_(new)
            start += p.elements


def _joined(pieces: Iterator[Tensor]) -> Tensor:
    found = list(pieces)
    if len(found) == 1:
        return found[0]
    return torch.cat(found) if found else torch.empty(0)
