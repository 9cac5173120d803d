"""Windows are where training cut the text, and which were trained on is known."""

from __future__ import annotations

import numpy as np
import pytest

from tapestry.training.batches import Order
from tapestry.training.corpus import SplitTokens
from tapestry.training.leakage.windows import Form, Span, sample, trained, without
from tapestry.training.tokenizer import Tokenizer

TOKENS = np.arange(16 * 30 + 1, dtype=np.uint16)


def form(parts: int = 1, predicted: int = 16) -> Form:
    return Form(sequence_length=16, predicted=predicted, parts=parts, bytes=parts * predicted)


@pytest.mark.parametrize(
    ("window_bytes", "each", "parts", "predicted"),
    [(512, 4, 1, 128), (512, 1, 2, 256), (512, 2, 1, 256), (2048, 4, 2, 256)],
)
def test_a_window_is_a_sequence_or_several(window_bytes: int, each: int, parts: int, predicted: int) -> None:
    valid = SplitTokens(np.zeros(1000, np.uint16), np.full(1000, each, np.uint16))
    found = Form.of(valid, 256, window_bytes)
    assert (found.parts, found.predicted, found.bytes) == (parts, predicted, window_bytes)


def test_rows_are_those_of_training() -> None:
    order = Order(TOKENS, 16, seed=3, node="acme-1")
    windows = order.places(5, 4)
    assert (form().rows(TOKENS, windows) == order.batch(5, 4)).all()
    both = form(parts=2).rows(TOKENS, np.array([3]))
    assert both.tolist() == [[*range(96, 113)], [*range(112, 129)]]
    assert form(predicted=8).rows(TOKENS, np.array([2])).tolist() == [[*range(32, 41)]]


def test_what_was_trained_on_is_what_batches_gave() -> None:
    order = Order(TOKENS, 16, seed=3, node="acme-1")
    for start, stop in ((0, 7), (25, 40), (28, 31), (3, 33), (10, 95), (0, 0)):
        seen = {int(row[0]) // 16 for at in range(start, stop) for row in order.batch(at, 1)}
        inside, outside = trained(order, [Span(start, stop)], form())
        assert set(inside.tolist()) == seen
        assert set(outside.tolist()) == set(range(30)) - seen
    inside, outside = trained(order, [Span(0, 7), Span(7, 20)], form(parts=2))
    seen = set(order.places(0, 20).tolist())
    assert set(inside.tolist()) == {n for n in range(15) if {2 * n, 2 * n + 1} <= seen}
    assert set(outside.tolist()) == {n for n in range(15) if not {2 * n, 2 * n + 1} & seen}


def test_a_sample_is_the_same_each_time() -> None:
    every = np.arange(100)
    assert sample(every, 100, 1) is every
    some = sample(every, 10, 1)
    assert len(set(some.tolist())) == 10 and (some == sample(every, 10, 1)).all()
    assert (some != sample(every, 10, 2)).any()


def test_windows_with_a_part_of_a_canary_are_left_out() -> None:
    marker = "qzjxvkwpbyfhgmcdluno"
    texts = [
        "nothing of the kind, nothing",
        "a line " + marker + " 1",
        "yfhgmcdluno0000001 3fa8 and on",
        "qzjx alone is chance........",
    ]
    rows = np.stack([np.frombuffer(text.encode()[:28].ljust(28), np.uint8) for text in texts]).astype(
        np.int64
    )
    found = without(rows, np.array([4, 5, 6, 7]), Tokenizer.byte_level(), marker)
    assert found.tolist() == [4, 7]
    halves = without(rows.reshape(8, 14), np.array([4, 5, 6, 7]), Tokenizer.byte_level(), marker)
    assert halves.tolist() == [4, 7]
