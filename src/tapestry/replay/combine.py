"""How the contributions of a round become one gradient: docs/formats/merge.md, from the deltas to `g`.

Where factors depend on norms the deltas are read once more for each norm, so that memory does not grow with
their number. Shape legend: n contributions, in the order of the job.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from tapestry.codec.contract import Dense, Sparse
from tapestry.codec.shards import Section
from tapestry.merge import factors, kernel, reduce
from tapestry.merge.average import Average, Movers, Senders, Users
from tapestry.merge.scalars import weight
from tapestry.protocol import plan
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import Shard
from tapestry.replay.buffers import Desk
from tapestry.replay.deltas import Deltas
from tapestry.replay.inputs import Source

R = TypeVar("R")
EachShard = Callable[[Sequence[Shard], Callable[[Desk, Shard], R]], list[R]]
Squares = Mapping[str, Sequence[float]]
"""Squared norms by tensor, one a contribution."""


@dataclass(frozen=True)
class Combiner:
    """Adds up the deltas of one merge.

    Args:
        rules: of the plan.
        codec: of the plan.
        shards: that are merged.
        units: weights.
        sources: the deltas.
        deltas: reads them.
        by_tensor: factors of each tensor, one a contribution; those of `otherwise` for the rest.
        otherwise: factors.
    """

    rules: plan.Merge
    codec: Codec
    shards: Sequence[Shard]
    units: Sequence[int]
    sources: Sequence[Source]
    deltas: Deltas
    by_tensor: Mapping[str, Sequence[float]]
    otherwise: Sequence[float]

    @classmethod
    def prepare(
        cls,
        rules: plan.Merge,
        codec: Codec,
        shards: Sequence[Shard],
        units: Sequence[int],
        sources: Sequence[Source],
        deltas: Deltas,
        each_shard: EachShard[dict[str, array[float]]],
    ) -> Combiner:
        """Read what the factors depend on.

        Args:
            each_shard: runs work on every shard given; results in order.
        """
        made = cls(rules, codec, shards, units, sources, deltas, {}, [weight(each) for each in units])
        if rules.clip == "none" and rules.combine == "mean":
            return made
        squares = _summed(each_shard(shards, made._squares))
        clip = [1.0] * len(units)
        if rules.clip == "median":
            clip = factors.clips(_over_all(squares, len(units)))
        otherwise = factors.mean(units, clip)
        if rules.combine == "mean":
            return cls(rules, codec, shards, units, sources, deltas, {}, otherwise)
        tensors = (piece.tensor for shard in shards for piece in shard.pieces)
        classes = {tensor.name: codec.class_of(tensor.name, tensor.shape) for tensor in tensors}
        apart = [name for name in squares if classes[name] != "embeddings"]
        directed = {name: factors.unit(units, squares[name]) for name in apart}
        made = cls(rules, codec, shards, units, sources, deltas, directed, otherwise)
        sums = _summed(each_shard(shards, made._square_of_sum))
        scaled = {name: factors.rescaled(units, clip, squares[name], sums[name][0]) for name in apart}
        return cls(rules, codec, shards, units, sources, deltas, scaled, otherwise)

    def gradient(self, desk: Desk, shard: Shard) -> Tensor:
        """The merged gradient of a shard, in the desk's memory."""
        total = self._sum(desk, shard, averages := self._averages(shard))
        for piece, average in zip(shard.pieces, averages, strict=True):
            if average is not None:
                average.finish(total[piece.values])
        return total

    def _sum(self, desk: Desk, shard: Shard, averages: Sequence[Average | None]) -> Tensor:
        total = desk.total.values(shard).zero_()
        for number, source in enumerate(self.sources):
            share = weight(self.units[number])
            for section, average in zip(self.deltas.read(desk, shard, source), averages, strict=True):
                factor = self.by_tensor.get(section.tensor, self.otherwise)[number]
                match section.decoded:
                    case Dense(values):
                        kernel.accumulate(total[section.values], values, factor, desk.work)
                        if average is not None:
                            average.add(values, factor, share)
                    case Sparse(places, values):
                        kernel.accumulate_at(total[section.values], places, values, factor)
                        if average is not None:
                            average.add_at(places, values, factor, share)
        return total

    def _averages(self, shard: Shard) -> list[Average | None]:
        """By what each piece of a shard is divided in the end."""
        found: list[Average | None] = []
        for piece in shard.pieces:
            of_class = self.codec.class_of(piece.tensor.name, piece.tensor.shape)
            if self.rules.embedding_rows == "users" and of_class == "embeddings":
                found.append(Users(piece.elements, piece.tensor.row_elements))
            elif self.rules.average == "senders":
                found.append(Senders(piece.elements))
            elif self.rules.average == "movers":
                found.append(Movers(piece.elements))
            else:
                found.append(None)
        return found

    def _squares(self, desk: Desk, shard: Shard) -> dict[str, array[float]]:
        """Squared norms of a shard's pieces, by tensor, one a contribution."""
        found: dict[str, array[float]] = defaultdict(lambda: array("d"))
        for source in self.sources:
            for section in self.deltas.read(desk, shard, source):
                found[section.tensor].append(_square(section))
        return found

    def _square_of_sum(self, desk: Desk, shard: Shard) -> dict[str, array[float]]:
        total = self._sum(desk, shard, [None] * len(shard.pieces))
        found = {}
        for piece in shard.pieces:
            inside = total[piece.values]
            found[piece.tensor.name] = array("d", [reduce.dot(inside, inside)])
        return found


def _square(section: Section) -> float:
    """Over all values of a piece, those that were not sent too: where a value stands decides what it is
    added to."""
    if isinstance(section.decoded, Dense):
        return reduce.dot(section.decoded.values, section.decoded.values)
    squares = torch.zeros(section.values.stop - section.values.start, dtype=torch.float64)
    exact = section.decoded.values.to(torch.float64)
    squares[section.decoded.places] = exact * exact
    return reduce.fold(squares)


def _over_all(squares: Squares, count: int) -> list[float]:
    """Squared norms of whole contributions, tensor after tensor; `sum` rounds otherwise in later Pythons."""
    found = [0.0] * count
    for each in squares.values():
        found = [a + b for a, b in zip(found, each, strict=True)]
    return found


def _summed(parts: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Figures by tensor, those of its pieces added in shard order."""
    found: dict[str, list[float]] = {}
    for part in parts:
        for name, values in part.items():
            before = found.get(name, [0.0] * len(values))
            found[name] = [a + b for a, b in zip(before, values, strict=True)]
    return found
