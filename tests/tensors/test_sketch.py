"""Sketches tell angles, whatever the deltas look like, and only to whom knows the secret."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor

from tapestry.tensors import sketch
from tapestry.tensors.sketch import BUCKETS, SPAN, ShardSketch, Signs, overlaps, unit

SIGNS = Signs(bytes(range(32)))
N = 3 * SPAN + 1234


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def drawn(values: Tensor, signs: Signs = SIGNS, shard: int = 0, **more: float) -> Tensor:
    """Of a shard that holds just these."""
    found = ShardSketch(signs, shard, values.numel(), **more)
    found.dense(0, values)
    return unit(found.sums())


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.double(), b.double()) / (a.double().norm() * b.double().norm()))


@pytest.mark.parametrize("wanted", [0.0, 0.3, -0.7, 0.99, -1.0])
def test_an_angle_is_told_about_as_well_as_so_many_buckets_can(wanted: float) -> None:
    errors = []
    for seed in range(12):
        a = normal(N, seed)
        b = wanted * a + sqrt(1 - wanted**2) * normal(N, 100 + seed)
        told = float(torch.dot(drawn(a), drawn(b)))
        errors.append(told - cosine(a, b))
    # The deviation of one is (1 - c²) / sqrt(BUCKETS).
    assert max(map(abs, errors)) < 4 * (1 - wanted**2) / sqrt(BUCKETS) + 1e-5


@pytest.mark.parametrize("columns", [64, 512, 4096, BUCKETS])
def test_what_stands_in_one_column_of_a_matrix_does_not_fall_into_one_bucket(columns: int) -> None:
    a, b = torch.zeros(1 << 20), torch.zeros(1 << 20)
    rows = len(a) // columns
    a[5 : 5 + columns * rows : columns] = normal(rows, 1)
    b[5 : 5 + columns * rows : columns] = normal(rows, 2)
    # Where a column is as long as the buckets are many it does, within a span, and signs alone tell.
    assert abs(float(torch.dot(drawn(a), drawn(b))) - cosine(a, b)) < 0.25
    sums = ShardSketch(SIGNS, 0, len(a))
    sums.dense(0, a)
    held = int((sums.sums() != 0).sum())
    assert held > 0.5 * min(rows, BUCKETS) if columns != BUCKETS else held >= len(a) // SPAN


def test_pieces_and_places_give_the_sketch_of_the_whole() -> None:
    values = normal(N, 3).where(torch.rand(N) < 0.02, torch.zeros(()))
    whole = ShardSketch(SIGNS, 2, N)
    whole.dense(0, values)
    pieces = ShardSketch(SIGNS, 2, N)
    sparse = ShardSketch(SIGNS, 2, N)
    for start, stop in ((0, 7), (7, SPAN), (SPAN, SPAN + 1), (SPAN + 1, N)):
        piece = values[start:stop]
        pieces.dense(start, piece)
        places = piece.nonzero().view(-1).flip(0)  # in any order
        sparse.sparse(start, places, piece[places])
    assert torch.allclose(whole.sums(), pieces.sums(), atol=1e-5)
    assert torch.allclose(whole.sums(), sparse.sums(), atol=1e-5)
    assert not torch.allclose(drawn(values, shard=3), unit(whole.sums()), atol=1e-2), "shards differ"


def test_another_secret_gives_another_sketch() -> None:
    values = normal(N, 4)
    other = drawn(values, Signs(bytes(31) + b"\1"))
    assert abs(float(torch.dot(drawn(values), other))) < 5 / sqrt(BUCKETS)
    # Whoever knew the secret could add what a sketch does not show.
    hidden = torch.zeros(N)
    moved, table = SIGNS.spans(0, 1)[1], SIGNS.table[int(SIGNS.spans(0, 1)[0]) :]
    assert int(moved) < BUCKETS
    hidden[0], hidden[BUCKETS] = table[0], -table[BUCKETS]
    assert float((drawn(values + 100 * hidden) - drawn(values)).norm()) < 1e-3
    assert (
        float((drawn(values + 100 * hidden, Signs(bytes(32))) - drawn(values, Signs(bytes(32)))).norm()) > 0.1
    )


def test_values_near_the_largest_float() -> None:
    values = normal(N, 5).clamp(-1, 1) * 3e38
    plain = ShardSketch(SIGNS, 0, N)
    plain.dense(0, values)
    assert not bool(torch.isfinite(plain.sums()).all())
    assert float(torch.dot(drawn(values, scale=2.0**-100), drawn(values * 2.0**-120))) > 0.9999
    assert bool((drawn(torch.zeros(N)) == 0).all())


def honest(common: float, n: int, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """A delta and n others of a round before, which have a part in common."""
    shared = normal(N, 1000 + seed)

    def one(number: int) -> Tensor:
        return common * shared + sqrt(1 - common**2) * normal(N, 2000 + 50 * seed + number)

    return one(0), [one(number) for number in range(1, n + 1)]


@pytest.mark.parametrize("n", [2, 8])
def test_what_a_round_has_in_common_is_no_copy(n: int) -> None:
    mine, others = honest(0.95, n)
    rows = torch.stack([drawn(each) for each in others])
    bare, beyond = overlaps(drawn(mine), rows)
    assert float(bare.min()) > 0.85, "they are very much alike"
    assert float(beyond.max()) < 1 / n + 0.05, "of updates that may change places, never above 1 / n"
    noise = normal(N, 9)
    for copy in (others[0], -0.01 * others[0], others[0] + 0.05 * noise):
        bare, beyond = overlaps(drawn(copy), rows)
        assert int(beyond.argmax()) == 0 and float(beyond[0]) > 0.95


def test_a_sum_of_several_is_a_copy_of_each() -> None:
    mine, others = honest(0.6, 5)
    rows = torch.stack([drawn(each) for each in others])
    for parts in ([0, 1, 2, 3, 4], [1, 3]):
        _, beyond = overlaps(drawn(torch.stack([others[i] for i in parts]).sum(0)), rows)
        assert all(float(beyond[i]) > 0.99 for i in parts)
    assert float(overlaps(drawn(mine), rows)[1].max()) < 0.3


def test_two_that_are_one_say_nothing_beyond_it() -> None:
    mine, (one, other) = honest(0.5, 2)
    rows = torch.stack([drawn(one), drawn(one), drawn(other), torch.zeros(BUCKETS)])
    bare, beyond = overlaps(drawn(mine), rows)
    assert bool(torch.isfinite(beyond).all()) and float(beyond[:2].max()) == 0.0
    assert float(bare[3]) == float(beyond[3]) == 0.0
    bare, _ = overlaps(drawn(one), rows)
    assert float(bare[:2].min()) > 0.999
    assert float(overlaps(torch.zeros(BUCKETS), rows)[0].max()) == 0.0
    assert sketch.OWN_PART > 0
