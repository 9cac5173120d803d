"""Where a model stands among communities that were asked the same. Format: docs/formats/evaluation.md.

A question is put with its options under letters, in several orders; how likely the model holds each letter,
made to add up to one and averaged over the orders, is its distribution of answers. Beside each community's
own distribution that gives a distance (`resampling.jensen_shannon`, averaged over questions), and on each
scale a position: the mean value of the answers, from 0 (lowest option) to 1. What that does not tell is in
docs/guides/survey.md.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from tapestry.catalog.words import Label, Language, Prose
from tapestry.errors import EvaluationError
from tapestry.protocol.message import Part
from tapestry.sovereign.checks import Passage, plain_passage
from tapestry.sovereign.evaluation.candidate import Candidate
from tapestry.sovereign.evaluation.given import content, frozen, said
from tapestry.sovereign.evaluation.report import Distance, Position
from tapestry.sovereign.evaluation.resampling import Bootstrap, Numbers, jensen_shannon

HINT: Final = "an example is examples/survey.json; the fields are in docs/formats/evaluation.md"
NOISE_BELOW: Final = 1_000_000_000
"""Parameters under which answers to such questions are noise."""
WHOLE: Final = (0.0, 1.0)
"""Where positions and distances lie."""
MAX_ORDERS: Final = 24
LETTERS: Final = "ABCDEFGHIJ"
MAX_DEPTH: Final = 8
Text = Annotated[Passage, AfterValidator(plain_passage)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=False)]
Value = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False, strict=False)]


class Option(Part):
    """One answer, and where it lies on the question's scale."""

    text: Annotated[Text, StringConstraints(max_length=500)]
    value: Value


class Question(Part):
    id: Label
    scale: Label
    language: Language
    text: Text
    options: Annotated[tuple[Option, ...], Field(min_length=2, max_length=len(LETTERS))]
    answers: Annotated[dict[Label, tuple[Share, ...]], Field(min_length=1, max_length=200)]
    """By community: the part of those asked that took each option, in the options' order."""

    @model_validator(mode="after")
    def _holds_together(self) -> Question:
        for community, shares in self.answers.items():
            if len(shares) != len(self.options):
                raise ValueError(
                    f"{community} has {len(shares)} shares, and there are {len(self.options)} options"
                )
            if abs(math.fsum(shares) - 1) > 0.01:
                raise ValueError(f"the shares of {community} add up to {math.fsum(shares):.3f}, not to 1")
        values = [each.value for each in self.options]
        if min(values) == max(values):
            raise ValueError("all options have the same value")
        if len({each.text for each in self.options}) < len(self.options):
            raise ValueError("two options have the same text")
        return self

    def place(self, shares: Numbers) -> float:
        """Of a distribution on the scale, from 0 to 1."""
        values = np.asarray([each.value for each in self.options], np.float64)
        return float(shares @ (values - values.min()) / (values.max() - values.min()))

    def human(self, community: str) -> Numbers:
        shares = np.asarray(self.answers[community], np.float64)
        return np.asarray(shares / shares.sum())


class Scale(Part):
    """What its ends mean."""

    low: Annotated[Prose, StringConstraints(min_length=1, max_length=200)]
    high: Annotated[Prose, StringConstraints(min_length=1, max_length=200)]


class Survey(Part):
    """All of the file."""

    format: Literal["tapestry.survey"]
    version: Literal[1]
    title: Annotated[Prose, StringConstraints(min_length=1, max_length=200)]
    source: Annotated[Prose, StringConstraints(min_length=1)]
    """Who asked whom, when, and under what licence the answers are."""
    target: Label
    """The community that the model is to be near to."""
    scales: Annotated[dict[Label, Scale], Field(min_length=1, max_length=100)]
    questions: Annotated[tuple[Question, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _holds_together(self) -> Survey:
        ids = [each.id for each in self.questions]
        if len(set(ids)) < len(ids):
            raise ValueError(f"two questions have the id {next(one for one in ids if ids.count(one) > 1)!r}")
        for each in self.questions:
            if each.scale not in self.scales:
                raise ValueError(f"question {each.id}: there is no scale {each.scale!r} in scales")
            if self.target not in each.answers:
                raise ValueError(f"question {each.id}: there are no answers of the target {self.target!r}")
        return self

    @property
    def communities(self) -> list[str]:
        """Those that answered every question; the target first."""
        every = set.intersection(*(set(each.answers) for each in self.questions))
        return [self.target, *sorted(every - {self.target})]


def load(path: Path) -> Survey:
    """Raises `EvaluationError`."""
    return parse(content(path, HINT), str(path))


def parse(data: bytes, where: str) -> Survey:
    """Raises `EvaluationError` naming file and field, or the line that is no JSON."""
    import json

    try:
        value: Any = json.loads(data.decode("utf-8-sig"))
        return Survey.model_validate(frozen(value))
    except json.JSONDecodeError as e:
        raise EvaluationError(f"{where}, line {e.lineno}: not JSON: {e.msg}", hint=HINT) from e
    except ValidationError as e:
        raise EvaluationError(f"{where}: {said(e)}", hint=HINT) from e
    except UnicodeDecodeError as e:
        raise EvaluationError(f"{where}: not UTF-8", hint="convert the file to UTF-8") from e
    except (ValueError, RecursionError) as e:
        raise EvaluationError(f"{where}: not JSON: {str(e)[:100]}", hint=HINT) from e


@dataclass(frozen=True)
class Taken:
    """A model's answers: a distribution for each question, and how much the order of options matters."""

    shares: tuple[Numbers, ...]
    unrest: float
    """Mean Jensen–Shannon distance of single orders to their average; 0 if the order does not matter."""


def take(model: Candidate, survey: Survey, seed: int) -> Taken:
    """Put the questions to a model."""
    found, unrest = [], []
    for number, question in enumerate(survey.questions):
        orders = _orders(len(question.options), seed + number)
        each = np.stack([_shares(model, question, order) for order in orders])
        mean = each.mean(axis=0)
        found.append(mean)
        unrest.append(float(np.mean([jensen_shannon(one, mean) for one in each])))
    return Taken(tuple(found), float(np.mean(unrest)))


def _orders(options: int, seed: int) -> list[tuple[int, ...]]:
    """All orders of a few options; of more, drawn ones with each option as often in each place."""
    if math.factorial(options) <= MAX_ORDERS:
        return list(itertools.permutations(range(options)))
    draw = random.Random(seed)  # noqa: S311 - no secret
    found: list[tuple[int, ...]] = []
    while len(found) + options <= MAX_ORDERS or not found:
        first = draw.sample(range(options), options)
        found += [tuple(first[i:] + first[:i]) for i in range(options)]
    return found


def _shares(model: Candidate, question: Question, order: Sequence[int]) -> Numbers:
    """In the options' own order."""
    letters = LETTERS[: len(order)]
    lines = [f"{letter}. {question.options[i].text}" for letter, i in zip(letters, order, strict=True)]
    prompt = "\n".join([question.text, *lines, f"({' / '.join(letters)})"])
    before = model.prompt(prompt)
    nats = model.log_probs([(before, model.answer(letter)) for letter in letters])[0]
    shares = np.exp(nats - nats.max())
    found = np.empty(len(order))
    found[list(order)] = shares / shares.sum()
    return found


# -- figures ----------------------------------------------------------------------------------------------


def distances(survey: Survey, community: str, shares: Sequence[Numbers]) -> Numbers:
    """(Q,) of distributions to a community's, question by question."""
    both = zip(survey.questions, shares, strict=True)
    return np.asarray([jensen_shannon(each, question.human(community)) for question, each in both])


def beside(survey: Survey, draws: Bootstrap) -> list[Distance]:
    """What a distance to the target means: those of other communities, and of answers at random."""
    even = [np.full(len(each.options), 1 / len(each.options)) for each in survey.questions]
    found = [Distance(who="at random", value=draws.mean(distances(survey, survey.target, even), WHOLE))]
    for community in survey.communities[1:]:
        theirs = [each.human(community) for each in survey.questions]
        value = draws.mean(distances(survey, survey.target, theirs), WHOLE)
        found.append(Distance(who=community, value=value))
    return found


def positions(
    survey: Survey, who: str, shares: Sequence[Numbers] | None, draws: dict[str, Bootstrap]
) -> list[Position]:
    """On each scale, of a model's answers, or of a community's own where none are given."""
    found = []
    for scale in survey.scales:
        places = [
            question.place(question.human(who) if shares is None else shares[i])
            for i, question in enumerate(survey.questions)
            if question.scale == scale
        ]
        if places:
            value = draws[scale].mean(np.asarray(places), WHOLE)
            found.append(Position(who=who, community=shares is None, scale=scale, value=value))
    return found
