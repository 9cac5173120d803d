"""Prompts that a model answers, and what it holds of given answers: instructions, pairs, constitution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tapestry.sovereign.constitution import Case, Constitution
from tapestry.sovereign.evaluation.candidate import Candidate
from tapestry.sovereign.evaluation.given import Instruction, Pair
from tapestry.sovereign.evaluation.outcome import Outcome, counted
from tapestry.sovereign.evaluation.report import Answered, Measure

_MAX_LINE = 1000


def instructions(model: Candidate, given: Sequence[Instruction], tokens: int) -> list[Outcome]:
    """Which instructions it follows: all of an instruction's check, or not."""
    answers = model.ask([each.prompt for each in given], tokens)
    kept, broken = [], []
    for one, answer in zip(given, answers, strict=True):
        faults = [each.said for each in one.check.faults(answer)]
        kept.append(float(not faults))
        if faults:
            broken.append(_answered("instructions", one.language, one.prompt, answer, faults))
    return counted("instructions", [each.language for each in given], kept, broken)


def preferences(model: Candidate, given: Sequence[Pair]) -> list[Outcome]:
    """Of which pairs the chosen answer is the likelier: as a whole (Σ ln p), and by length (ln p a byte)."""
    chosen = model.say([(each.prompt, each.chosen) for each in given])
    rejected = model.say([(each.prompt, each.rejected) for each in given])
    both = list(zip(chosen, rejected, strict=True))
    whole = [_wins(a.nats, b.nats) for a, b in both]
    by_length = [_wins(a.nats / a.bytes, b.nats / b.bytes) for a, b in both]
    parts = [each.language for each in given]
    return [*counted("preferences", parts, whole), *counted("preferences-by-length", parts, by_length)]


def _wins(a: float, b: float) -> float:
    return 1.0 if a > b else 0.0


def constitution(model: Candidate, given: Constitution, tokens: int) -> list[Outcome]:
    """Cases of a constitution: principles, topics and tone; refusals; what looks alike and is answered."""
    cases = given.cases()
    prompts = list(dict.fromkeys(case.prompt for case in cases))
    answers = dict(zip(prompts, model.ask(prompts, tokens), strict=True))
    groups: dict[Measure, list[Case]] = defaultdict(list)
    for case in cases:
        groups[_measure(case)].append(case)
    found: list[Outcome] = []
    for measure, some in groups.items():
        kept, broken = [], []
        for case in some:
            faults = [each.said for each in given.fails(case, answers[case.prompt])]
            kept.append(float(not faults))
            if faults:
                broken.append(_answered(measure, case.id, case.prompt, answers[case.prompt], faults))
        found += counted(measure, [case.id for case in some], kept, broken)
    return found


def _measure(case: Case) -> Measure:
    if case.kind == "refusal":
        return "refusals"
    return "still-answered" if case.kind == "still-answered" else "constitution"


def _answered(measure: Measure, part: str, prompt: str, answer: str, faults: Sequence[str]) -> Answered:
    prompt, answer, said = (each[:_MAX_LINE] for each in (prompt, answer, "; ".join(faults)))
    return Answered(measure=measure, part=part, prompt=prompt, answer=answer, said=said)
