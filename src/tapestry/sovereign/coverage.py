"""What a constitution covers and where it contradicts itself, for its authors to see before a model does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tapestry.catalog.protected import fold
from tapestry.sovereign.checks import Check, Terms, flat, found, matches
from tapestry.sovereign.constitution import TONE, Constitution, Example, Kind, Refusal


@dataclass(frozen=True)
class Contradiction:
    """Two things of one file that cannot both hold."""

    id: str
    said: str
    way_out: str


@dataclass(frozen=True)
class Covered:
    """One entry."""

    id: str
    kind: Kind
    good: int
    bad: int
    prompts: int
    """To try a model with, those of examples included."""
    checked: bool
    """Whether a program can check any of it."""
    missing: tuple[str, ...]
    """What would make it more than words."""
    kept_out: int | None = None
    """Documents of a folder that it would keep out of training; None where it keeps out none at all."""


# -- coverage ---------------------------------------------------------------------------------------------


def coverage(constitution: Constitution, kept_out: Counter[str] | None = None) -> list[Covered]:
    """Of every entry, in the order of the file.

    Args:
        constitution: that is looked at.
        kept_out: documents by entry, where a folder was looked at.
    """
    file, prompts = constitution.file, Counter((case.id, case.kind) for case in constitution.cases())
    rows: list[Covered] = []

    def add(
        name: str, kind: Kind, examples: tuple[Example, ...], checked: bool, missing: list[str], out: bool
    ) -> None:
        good, bad = (
            sum(each.good is not None for each in examples),
            sum(each.bad is not None for each in examples),
        )
        lacking = [*missing, *([] if good else ["a good example"]), *([] if bad else ["a bad example"])]
        if checked and not prompts[name, kind]:
            lacking.append("a prompt to test with")
        count = kept_out[name] if kept_out is not None and out else None
        rows.append(Covered(name, kind, good, bad, prompts[name, kind], checked, tuple(lacking), count))

    for principle in file.principles:
        checked = principle.check is not None
        lacking = [] if checked else ["a check"]
        if principle.check is not None:
            lacking += _languages(principle.check.never, file.languages, "check.never")
        add(principle.id, "principle", principle.examples, checked, lacking, principle.training)
    for topic in file.topics:
        lacking = _languages(topic.terms, file.languages, "terms")
        add(topic.id, "topic", topic.examples, topic.answers, lacking, topic.training)
    if file.tone is not None:
        checked = file.tone.check is not None
        add(TONE, "tone", file.tone.examples, checked, [] if checked else ["a check"], False)
    for refusal in file.refusals:
        lacking = [f"an answer in {each}" for each in file.languages if each not in refusal.answers]
        lacking += _languages(refusal.when, file.languages, "when")
        lacking += [] if refusal.still_answered else ["a prompt that is still answered"]
        add(refusal.id, "refusal", refusal.examples, True, lacking, False)
    return rows


def _languages(terms: Terms, languages: Iterable[str], field: str) -> list[str]:
    return [f"{field} in {each}" for each in languages if terms and not terms.get(each)]


def kept_out(constitution: Constitution, documents: Iterable[Iterable[str]]) -> tuple[Counter[str], int]:
    """Documents that each entry would keep out of training, and how many there are."""
    counts: Counter[str] = Counter()
    total = 0
    for document in documents:
        total += 1
        if (name := constitution.protected.look(document)) is not None:
            counts[name] += 1
    return counts, total


# -- contradictions ---------------------------------------------------------------------------------------


def contradictions(constitution: Constitution) -> list[Contradiction]:
    """Everything in the file that cannot hold together, in words."""
    found_ = [
        *_examples(constitution),
        *_required(constitution),
        *_refusals(constitution),
        *_both(constitution),
    ]
    return list(dict.fromkeys(found_))


def _entries(constitution: Constitution) -> Iterator[tuple[str, tuple[Example, ...], tuple[str, ...]]]:
    file = constitution.file
    for each in (*file.principles, *file.topics, *file.refusals):
        yield each.id, each.examples, each.prompts
    if file.tone is not None:
        yield TONE, file.tone.examples, file.tone.prompts


def _examples(constitution: Constitution) -> Iterator[Contradiction]:
    """Good answers that break a rule, and bad ones of checked entries that break none."""
    checked = {case.id for case in constitution.cases()}
    refusals = {each.id for each in constitution.file.refusals}
    for name, examples, _ in _entries(constitution):
        for number, example in enumerate(examples, start=1):
            where = f"example {number}"
            if example.good is not None:
                refusal = constitution.refusal(example.prompt)
                for broken in constitution.judge(example.prompt, example.good):
                    if refusal is not None and broken.id == refusal.id and broken.id != name:
                        yield Contradiction(
                            name,
                            f"{where}: its prompt would be refused by {refusal.id}, and its good answer does "
                            "not refuse",
                            f"narrow the patterns of {refusal.id}, or take another prompt",
                        )
                    else:
                        whose = "itself" if broken.id == name else broken.id
                        yield Contradiction(
                            name,
                            f"{where}: the good answer breaks {whose}: it {broken.said}",
                            f"change the answer, or the rule of {broken.id}",
                        )
            if example.bad is not None and name in checked:
                broken_ids = {each.id for each in constitution.judge(example.prompt, example.bad)}
                if name not in broken_ids:
                    yield Contradiction(
                        name,
                        f"{where}: the bad answer breaks nothing that {name} checks",
                        "add what is bad about it to the check, or take another answer",
                    )
            if (
                name in refusals
                and (other := constitution.refusal(example.prompt)) is not None
                and other.id != name
            ):
                yield Contradiction(
                    name,
                    f"{where}: its prompt falls under the refusal {other.id}, which comes first",
                    f"narrow the patterns of {other.id}, or move {name} before it",
                )


def _required(constitution: Constitution) -> Iterator[Contradiction]:
    """Words that one entry wants in an answer and another forbids there."""
    file = constitution.file
    forbidden = [(each.id, flat(each.terms)) for each in file.topics if each.answers]
    checks: list[tuple[str, Check, bool]] = [
        (each.id, each.check, not flat(each.when)) for each in file.principles if each.check is not None
    ]
    if file.tone is not None and file.tone.check is not None:
        checks.append((TONE, file.tone.check, True))
    forbidden += [(name, flat(check.never)) for name, check, everywhere in checks if everywhere]
    for name, check, _ in checks:
        for term in (*flat(check.one_of), *flat(check.all_of), check.begins, check.ends):
            for other, words in forbidden:
                if term and (clash := found(words, fold(term))) is not None:
                    whose = "itself" if other == name else other
                    yield Contradiction(
                        name,
                        f"asks for {term!r} in an answer, and {whose} forbids {clash!r} there",
                        f"take the word out of {name} or out of {other}",
                    )
    least = [(check.min_words, name) for name, check, everywhere in checks if everywhere and check.min_words]
    most = [(check.max_words, name) for name, check, everywhere in checks if everywhere and check.max_words]
    for low, name in least:
        for high, other in most:
            if name != other and low > high:
                yield Contradiction(
                    name,
                    f"wants at least {low} words, and {other} at most {high}",
                    f"change min_words of {name} or max_words of {other}",
                )


def _refusals(constitution: Constitution) -> Iterator[Contradiction]:
    for refusal in constitution.file.refusals:
        for language, answer in refusal.answers.items():
            if found(flat(refusal.known_by), fold(answer)) is None:
                yield Contradiction(
                    refusal.id,
                    f"the answer in {language} holds none of the words that known_by names",
                    "add words of that answer to known_by",
                )
            for broken in _refused(constitution, refusal, answer):
                yield Contradiction(
                    refusal.id,
                    f"the answer in {language} breaks {broken[0]}: it {broken[1]}",
                    f"change the answer, or {broken[0]}",
                )
        for prompt in refusal.prompts:
            other = constitution.refusal(prompt)
            if other is None:
                yield Contradiction(
                    refusal.id,
                    f"the prompt {_short(prompt)} is matched by none of its patterns",
                    "add a pattern to when that it matches",
                )
        for prompt in refusal.still_answered:
            if any(matches(each, fold(prompt)) for each in flat(refusal.when)):
                yield Contradiction(
                    refusal.id,
                    f"the prompt {_short(prompt)} is to be answered, and its patterns refuse it",
                    "narrow the pattern, or take the prompt out of still_answered",
                )


def _refused(constitution: Constitution, refusal: Refusal, answer: str) -> Iterator[tuple[str, str]]:
    """What a refusal breaks of topics and tone, which hold for refusals too."""
    prompt = next(iter(refusal.prompts), "")
    for each in (
        constitution.judge(prompt, answer) if prompt and constitution.refusal(prompt) is refusal else ()
    ):
        if each.id != refusal.id:
            yield each.id, each.said


def _both(constitution: Constitution) -> Iterator[Contradiction]:
    """An answer to one prompt that is good in one place and bad in another."""
    good: dict[tuple[str, str], str] = {}
    for name, examples, _ in _entries(constitution):
        for each in examples:
            if each.good is not None:
                good.setdefault((fold(each.prompt), fold(each.good)), name)
    for name, examples, _ in _entries(constitution):
        for each in examples:
            if each.bad is not None and (other := good.get((fold(each.prompt), fold(each.bad)))) is not None:
                yield Contradiction(
                    name,
                    f"calls an answer to {_short(each.prompt)} bad that {other} calls good",
                    "decide which it is",
                )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
