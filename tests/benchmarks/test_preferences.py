"""The task that preferences are measured with: what the answer tells by itself, and what is held out."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import preference_task as task
from benchmarks import preferences


@pytest.mark.parametrize("seed", preferences.SEEDS)
def test_an_answer_alone_tells_nothing(seed: int) -> None:
    train, held_out = task.pairs("train", preferences.PAIRS, seed), task.pairs("held-out", 400, seed)
    for pairs in (train, held_out):
        chosen, rejected = (Counter(getattr(pair, side) for pair in pairs) for side in ("chosen", "rejected"))
        assert max(abs(chosen[answer] - rejected[answer]) for answer in chosen | rejected) <= 1
    assert task.by_response_alone(train, held_out) <= preferences.MOST_ALONE
    polite = [pair for pair in train if pair.who in task.ELDERS]
    assert task.by_response_alone(polite, [pair for pair in held_out if pair.who in task.ELDERS]) == 1, (
        "the control: where one form is always right, it is found"
    )


def test_nothing_that_is_held_out_is_learnt_from() -> None:
    train, held_out = task.pairs("train", preferences.PAIRS, 0), task.pairs("held-out", 400, 0)
    preferences._require_disjoint(train, held_out)
    for parts in (task.TEMPLATES, task.NAMES, task.QUESTIONS):
        assert not set(parts["train"]) & set(parts["held-out"])
    read = " ".join(each["text"] for each in task.text(400, 1000)) + str(task.answers(1200, 0))
    assert not [name for name in task.NAMES["held-out"] if name in read]
    assert not [what for what in task.QUESTIONS["held-out"] if what in read]


def test_what_is_kept_is_of_these_settings() -> None:
    assert preferences._measured(quick=False) != preferences._measured(quick=True)
