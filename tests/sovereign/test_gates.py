from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tapestry.errors import EvaluationError, GateNotMet
from tapestry.protocol.leakage import Interval
from tapestry.sovereign import gates as bounds
from tapestry.sovereign.evaluation.outcome import Figures, Outcome
from tapestry.sovereign.evaluation.report import Change, EvaluationReport, Figure, Measure, Role, Subject
from tapestry.sovereign.evaluation.resampling import Bootstrap, share
from tapestry.sovereign.gates import Gates

SHA = "0" * 64


def at(value: float) -> Interval:
    return Interval(value=value, low=value - 0.02, high=value + 0.02)


def figure(measure: Measure, value: float, part: str = "", role: Role = "model") -> Figure:
    return Figure(measure=measure, part=part, role=role, count=9, of=9, value=at(value))


def change(measure: Measure, value: float, part: str = "", over: Role = "base") -> Change:
    return Change(measure=measure, part=part, over=over, relative=True, value=at(value))


def report(figures: list[Figure], changes: list[Change] | None = None) -> EvaluationReport:
    subject = Subject(role="model", name="m", weights=SHA, tokenizer=SHA, parameters=1, model_type="llama")
    return EvaluationReport(
        at="2026-11-22T12:00:00.000Z", release="1", confidence=0.95, resamples=100, seed=0, isolation="netns",
        subjects=(subject,), data=(), figures=tuple(figures), changes=tuple(changes or ()), positions=(),
        distances=(), answered=(), notes=(), gates=None, unmet=(),
    )  # fmt: skip


FULL = report(
    [
        figure("bits-per-byte", 1.2, "fr"), figure("bits-per-byte", 1.4, "de"), figure("instructions", 0.8),
        figure("preferences", 0.7), figure("constitution", 0.9), figure("refusals", 0.95),
        figure("still-answered", 0.85), figure("memorized", 0.05), figure("exposure", 2.0),
        figure("survey-distance", 0.3), figure("survey-distance", 0.6, "others"),
        figure("task", 0.5, "xnli:acc"),
    ],
    [
        change("bits-per-byte", 0.1, "fr"), change("bits-per-byte", 0.04, "de"),
        change("bits-per-byte", 0.2, "fr", "alone"), change("refusals", -0.1), change("memorized", 0.03),
    ],
)  # fmt: skip
MET: dict[str, object] = {
    "bits_per_byte": {"fr": 1.3}, "gain_over_base": 0.03, "instructions": 0.75, "preferences": 0.65,
    "constitution": 0.9, "refusals": 0.9, "still_answered": 0.8, "memorized": 0.06, "exposure": 2.5,
    "survey_distance": 0.35, "refusals_lost": 0.15, "memorized_more": 0.04, "tasks": {"xnli": 0.45},
}  # fmt: skip
UNMET: dict[str, tuple[object, str, str]] = {
    "bits_per_byte": ({"fr": 1.1}, "fr", "1.2 ("), "gain_over_base": (0.05, "de", "0.04 ("),
    "gain_over_alone": (0.1, "de", "not measured"), "gain_over_previous": (0.0, "fr", "not measured"),
    "instructions": (0.81, "", "0.8 ("), "preferences": (0.71, "", "0.7 ("),
    "constitution": (0.95, "", "0.9 ("),
    "refusals": (0.96, "", "0.95 ("), "still_answered": (0.9, "", "0.85 ("),
    "memorized": (0.04, "", "0.05 ("),
    "exposure": (1.0, "", "2 ("), "survey_distance": (0.2, "", "0.3 ("), "refusals_lost": (0.05, "", "0.1 ("),
    "memorized_more": (0.02, "", "0.03 ("), "tasks": ({"xnli:f1": 0.1}, "xnli:f1", "not measured"),
}  # fmt: skip


def test_every_gate_is_tried_here() -> None:
    assert set(UNMET) == set(Gates.model_fields) - {"cautious"}
    assert set(MET) >= set(UNMET) - {"gain_over_alone", "gain_over_previous"}


def test_gates_that_are_met_pass() -> None:
    Gates.model_validate(MET).check(FULL)


@pytest.mark.parametrize("gate", UNMET)
def test_a_gate_names_what_was_wanted_and_what_was_got(gate: str) -> None:
    bound, part, got = UNMET[gate]
    gates = Gates.model_validate({gate: bound})
    with pytest.raises(GateNotMet) as caught:
        gates.check(FULL)
    first = gates.unmet(FULL)[0]
    assert (first.gate, first.part) == (gate, part)
    assert got in first.got
    assert (
        gate in caught.value.message and first.wanted in caught.value.message and got in caught.value.message
    )


@pytest.mark.parametrize("gate", UNMET)
def test_what_was_not_measured_is_not_met(gate: str) -> None:
    with pytest.raises(GateNotMet, match="not measured"):
        Gates.model_validate({gate: UNMET[gate][0]}).check(report([]))


def test_a_cautious_gate_looks_at_the_worse_end() -> None:
    Gates(instructions=0.79).check(FULL)
    assert Gates(instructions=0.79, cautious=True).unmet(FULL)
    assert Gates(memorized=0.06, cautious=True).unmet(FULL)
    assert not Gates(refusals_lost=0.13, cautious=True).unmet(FULL)
    assert Gates(refusals_lost=0.11, cautious=True).unmet(FULL)


def test_gates_from_files(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text("instructions = 0.5\n")
    assert Gates.load(path) == Gates(instructions=0.5)
    path.write_text(
        '[model]\nname = "x"\n[gates]\ncautious = true\ngain_over_base = 0.03\ntasks = { xnli = 0.4 }\n'
    )
    assert Gates.load(path).gain_over_base == 0.03
    assert bounds.stated(path)
    for text, said in (
        ("instruction = 0.5\n", "line 1: instruction: there is no such field"),
        ("instructions = 50\n", "instructions"),
        ("cautious = true\n", "states no gate"),
        ("gates = [", "not TOML"),
    ):
        path.write_text(text)
        with pytest.raises(EvaluationError, match=said):
            Gates.load(path)
    assert not bounds.stated(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        Gates.load(tmp_path / "none")


def test_golden_bootstrap() -> None:
    values = np.arange(10.0)
    one = Bootstrap(10, seed=7, resamples=500)
    assert one.mean(values) == Bootstrap(10, seed=7, resamples=500).mean(values)
    found = one.mean(values)
    assert (found.value, found.low, found.high) == pytest.approx((4.5, 2.8475, 6.4))
    ratio = one.ratio(values, np.full(10, 2.0))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.25, 1.42375, 3.2))
    assert one.gain(values / 2, values) == Interval(value=0.5, low=0.5, high=0.5)
    none = share(0, 10)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025**0.1)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """The positive control: at half the confidence it misses far more often."""
    draw = np.random.default_rng(0)

    def misses(confidence: float) -> int:
        samples = (draw.normal(3.0, 1.0, 40) for _ in range(200))
        found = (Bootstrap(40, seed=1, resamples=200, confidence=confidence).mean(each) for each in samples)
        return sum(not one.low <= 3.0 <= one.high for one in found)

    assert misses(0.95) <= 24
    assert misses(0.5) >= 70


def test_figures_in_pairs_and_of_things_that_are_all_alike() -> None:
    figures = Figures(seed=0, resamples=200, confidence=0.95)
    mine = Outcome(measure="instructions", part="", above=np.ones(10))
    other = Outcome(measure="instructions", part="", above=np.zeros(10))
    assert figures.figure("model", mine).value == share(10, 10)
    gain = figures.change(mine, "base", other).value
    assert gain.value == 1 and 0 < gain.low < 0.9  # ten of ten is not certain
    bits = Outcome(measure="bits-per-byte", part="fr", above=np.full(10, 8.0), below=np.full(10, 4.0))
    worse = Outcome(measure="bits-per-byte", part="fr", above=np.full(10, 10.0), below=np.full(10, 4.0))
    assert figures.figure("model", bits).value.value == 2
    assert figures.change(bits, "base", worse).value.value == pytest.approx(0.2)


def test_the_pages_name_every_gate_measure_check_and_field() -> None:
    from typing import get_args

    from tapestry.sovereign import constitution
    from tapestry.sovereign.checks import Check
    from tapestry.sovereign.evaluation import survey

    formats = Path(__file__).parents[2] / "docs" / "formats"
    page = (formats / "evaluation.md").read_text(encoding="utf-8")
    values = (formats / "constitution.md").read_text(encoding="utf-8")
    for name in (*Gates.model_fields, *get_args(Measure), *EvaluationReport.model_fields):
        assert re.search(rf"`{name}[` ]", page), name
    for part in (survey.Survey, survey.Question, survey.Option, survey.Scale):
        assert all(name in page for name in part.model_fields)
    for kind in (
        constitution.Principle,
        constitution.ProtectedTopic,
        constitution.Tone,
        constitution.Refusal,
    ):
        assert all(f"`{name}`" in values for name in kind.model_fields), kind
    assert all(f"`{name}`" in values for name in Check.model_fields)
