from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapestry.errors import EvaluationError
from tapestry.sovereign.evaluation import survey
from tapestry.sovereign.evaluation.resampling import Bootstrap, jensen_shannon

EXAMPLE = Path(__file__).parents[2] / "examples" / "survey.json"


def value() -> Any:
    return json.loads(EXAMPLE.read_bytes())


def parse(given_: object) -> survey.Survey:
    return survey.parse(json.dumps(given_).encode(), "s.json")


def test_the_example_is_one() -> None:
    one = survey.load(EXAMPLE)
    assert one.communities == ["vallorne", "sorne"]
    assert len(one.questions) == 5


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no such community": (lambda v: v.update(target="nowhere"), "no answers of the target 'nowhere'"),
    "shares": (lambda v: v["questions"][0]["answers"].update(sorne=[0.5, 0.6]), "add up to 1.100"),
    "too few shares": (
        lambda v: v["questions"][1]["answers"].update(sorne=[1.0]),
        "1 shares, and there are 4",
    ),
    "scale": (lambda v: v["questions"][0].update(scale="mood"), "no scale 'mood'"),
    "twice": (lambda v: v["questions"][0].update(id="trust-2"), "two questions have the id 'trust-2'"),
    "one value": (lambda v: v["questions"][0]["options"][0].update(value=0), "the same value"),
    "field": (
        lambda v: v["questions"][0].update(langage="fr"),
        "questions.0.langage: there is no such field",
    ),
    "format": (lambda v: v.update(format="x"), "format: "),
    "nothing": (lambda v: v.update(questions=[]), "questions: "),
    "no number": (lambda v: v["questions"][0]["answers"].update(sorne=[float("nan"), 1]), "sorne"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_shape_is_named(name: str) -> None:
    change, said = CHANGES[name]
    wrong = value()
    change(wrong)
    with pytest.raises(EvaluationError) as caught:
        parse(wrong)
    assert said in caught.value.message
    assert "examples/survey.json" in (caught.value.hint or "")


def test_what_is_no_json_has_its_line() -> None:
    with pytest.raises(EvaluationError, match=r"s\.json, line 2: not JSON"):
        survey.parse(b'{"format":\n oh}', "s.json")
    with pytest.raises(EvaluationError, match="does not exist"):
        survey.load(Path("/nowhere/s.json"))


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789eE.ax', max_size=200).map(str.encode))
def test_no_bytes_escape_as_another_error(data: bytes) -> None:
    with pytest.raises(EvaluationError):
        survey.parse(data, "s.json")


@given(st.data())
def test_any_change_of_a_value_is_read_or_refused(data: st.DataObject) -> None:
    wrong = value()
    question = data.draw(st.sampled_from(wrong["questions"]))
    junk = (
        st.none() | st.integers(-3, 3) | st.floats() | st.text(max_size=3) | st.lists(st.floats(), max_size=5)
    )
    question[data.draw(st.sampled_from(sorted(question)))] = data.draw(
        junk | st.dictionaries(st.sampled_from(["vallorne", "sorne", "text", "value"]), junk, max_size=3)
    )
    try:
        one = parse(wrong)
    except EvaluationError:
        return
    for each in one.questions:
        assert 0 <= each.place(each.human(one.target)) <= 1


def test_positions_and_distances_of_known_answers() -> None:
    one = survey.load(EXAMPLE)
    own = [each.human("vallorne") for each in one.questions]
    assert survey.distances(one, "vallorne", own) == pytest.approx(np.zeros(5), abs=1e-7)
    draws = {"trust": Bootstrap(3, seed=0), "change": Bootstrap(2, seed=0)}
    places = {each.scale: each.value for each in survey.positions(one, "vallorne", None, draws)}
    # trust-2: (3 · 0.4 + 2 · 0.35 + 0.15) / 3
    assert places["trust"].value == pytest.approx((0.68 + 2.05 / 3 + 0.55) / 3)
    assert places["change"].value == pytest.approx((0.2 + 0.2) / 2)
    assert places["trust"].low <= places["trust"].value <= places["trust"].high
    others = {each.who: each.value.value for each in survey.beside(one, Bootstrap(5, seed=0))}
    theirs = [jensen_shannon(each.human("vallorne"), each.human("sorne")) for each in one.questions]
    assert others["sorne"] == pytest.approx(sum(theirs) / 5)
    assert 0 < others["at random"] < 1


class Partial:
    """A model that likes the first letter, whatever stands behind it, and one text a little."""

    def __init__(self, text: str, likes: float) -> None:
        self._text, self._likes = text, likes

    def prompt(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def answer(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def log_probs(self, rows: list[tuple[list[int], list[int]]]) -> tuple[Any, Any]:
        nats = []
        for before, after in rows:
            prompt, letter = "".join(map(chr, before)), chr(after[0])
            option = prompt.split(f"\n{letter}. ")[1].split("\n")[0]
            nats.append(-1.0 - 2.0 * (letter != "A") + self._likes * (option == self._text))
        return np.asarray(nats), None


def test_one_question_on_a_scale_is_no_certainty() -> None:
    one = Bootstrap(1, seed=0).mean(np.asarray([0.4]), survey.WHOLE)
    assert (one.value, one.low, one.high) == (0.4, pytest.approx(0.01), pytest.approx(0.985))
    assert Bootstrap(1, seed=0).mean(np.asarray([0.4])).high == 0.4, "the control: resampling alone sees none"
    many = Bootstrap(40, seed=0).mean(np.full(40, 0.4), survey.WHOLE)
    assert 0.3 < many.low < 0.4 < many.high < 0.5


def test_a_liking_for_the_first_letter_averages_out() -> None:
    one = survey.load(EXAMPLE)
    even: Any = Partial("", 0.0)
    taken = survey.take(even, one, 0)
    for shares in taken.shares:
        assert shares == pytest.approx(np.full(len(shares), 1 / len(shares)))
    assert taken.unrest > 0.1
    likes: Any = Partial("Oui", 1.0)
    shares = survey.take(likes, one, 0).shares[2]
    assert shares[0] > 0.6 and shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("options", range(2, 11))
def test_every_option_is_as_often_in_every_place(options: int) -> None:
    orders = survey._orders(options, 3)
    assert len(orders) <= survey.MAX_ORDERS
    for place in range(options):
        seen = [order[place] for order in orders]
        assert {seen.count(option) for option in range(options)} == {len(orders) / options}


def test_golden_jensen_shannon() -> None:
    """By hand: of (1, 0) and (½, ½) the divergence is ½ log2(4/3) + ½ (½ log2(2/3) + ½)."""
    p, q = np.asarray([1.0, 0.0]), np.asarray([0.5, 0.5])
    divergence = 0.5 * math.log2(4 / 3) + 0.5 * (0.5 * math.log2(2 / 3) + 0.5 * math.log2(2))
    assert divergence == pytest.approx(0.31127812445913283, abs=1e-15)
    assert jensen_shannon(p, q) == pytest.approx(0.5579230452841438, abs=1e-15)
    assert jensen_shannon(p, p) == 0
    assert jensen_shannon(p, np.asarray([0.0, 1.0])) == 1


SHARES = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda each: sum(each) > 1e-3)


@example([0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 5e-324])  # half of which is 0
@given(SHARES, SHARES, SHARES)
def test_the_distance_is_a_metric(a: list[float], b: list[float], c: list[float]) -> None:
    p, q, r = (np.asarray(each) for each in (a, b, c))
    assert 0 <= jensen_shannon(p, q) <= 1
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), abs=1e-7)
    assert jensen_shannon(p, r) <= jensen_shannon(p, q) + jensen_shannon(q, r) + 1e-6
