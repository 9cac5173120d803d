from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.training.batches import Order, Permutation, sequences


@given(st.integers(1, 700), st.binary(max_size=8))
def test_a_permutation_takes_each_place_once(n: int, key: bytes) -> None:
    assert sorted(Permutation(n, key)(np.arange(n)).tolist()) == list(range(n))


def test_keys_give_other_orders_and_the_same_key_the_same() -> None:
    places = np.arange(1000)
    first = Permutation(1000, b"a")(places)
    assert (first == Permutation(1000, b"a")(places)).all()
    assert (first != Permutation(1000, b"b")(places)).mean() > 0.9
    assert (first != places).mean() > 0.9


def test_orders_are_frozen() -> None:
    """The order of a run must not change with a release: a restart after an upgrade goes on with it."""
    assert Permutation(10, b"frozen")(np.arange(10)).tolist() == FROZEN


FROZEN = [7, 9, 3, 0, 2, 5, 6, 1, 8, 4]


def order(tokens: int = 101, seed: int = 0, node: str = "n") -> Order:
    return Order(np.arange(tokens, dtype=np.uint16), 10, seed=seed, node=node)


def test_an_epoch_shows_every_window_once() -> None:
    one = order()
    assert one.count == 10
    first = one.batch(0, 10)
    assert first.shape == (10, 11)
    assert sorted(row[0] for row in first.tolist()) == list(range(0, 100, 10))
    assert all((row[1:] - row[:-1] == 1).all() for row in first)


def test_a_batch_is_a_function_of_its_position() -> None:
    whole = order().batch(0, 47)
    one = order()
    for start in (40, 3, 17, 9):  # also over the end of an epoch, and backwards
        assert (one.batch(start, 7) == whole[start : start + 7]).all()


def test_epochs_seeds_and_nodes_differ() -> None:
    first = order().batch(0, 10)
    assert (first != order().batch(10, 10)).any()
    assert (first != order(seed=1).batch(0, 10)).any()
    assert (first != order(node="m").batch(0, 10)).any()


@pytest.mark.parametrize(("tokens", "count"), [(0, 0), (1, 0), (10, 0), (11, 1), (20, 1), (21, 2)])
def test_sequences(tokens: int, count: int) -> None:
    assert sequences(tokens, 10) == count


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no window"):
        order(tokens=10)
