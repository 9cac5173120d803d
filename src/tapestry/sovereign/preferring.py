"""Preference pairs out of a member's own model: several answers to each prompt, judged by the constitution.

An answer that breaks nothing is preferred to one that breaks something. Nobody else's model or judgement has
a part in it; what a program cannot check makes no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tapestry.catalog.protected import fold
from tapestry.sovereign.checks import matches
from tapestry.sovereign.constitution import Constitution, Entry, Tone
from tapestry.sovereign.evaluation.candidate import Candidate


@dataclass(frozen=True)
class Pair:
    """For DPO."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Made:
    """Pairs, and what became of the prompts."""

    pairs: tuple[Pair, ...]
    prompts: int
    sampled: int
    """Answers that were drawn."""
    all_kept: int
    """Prompts none of whose answers broke anything."""
    none_kept: int
    """Prompts all of whose answers broke something, and for which the file has no good answer."""
    from_examples: int
    """Pairs of good and bad answers that stand in the file."""


def make(
    constitution: Constitution,
    model: Candidate,
    prompts: Sequence[str],
    *,
    answers: int,
    tokens: int,
    temperature: float,
    seed: int,
    most: int = 4,
) -> Made:
    """Pairs for the constitution's own prompts and others.

    Args:
        constitution: that judges.
        model: that answers.
        prompts: beside those of the constitution.
        answers: drawn for each prompt.
        tokens: of an answer, at most.
        temperature: of the drawing.
        seed: of the drawing.
        most: pairs of one prompt.
    """
    good = _good(constitution)
    every = list(dict.fromkeys((*good, *(case.prompt for case in constitution.cases()), *prompts)))
    drawn: dict[str, list[str]] = {prompt: [] for prompt in every}
    for number in range(answers):
        said = model.ask(every, tokens, temperature=temperature, seed=seed + number)
        for prompt, answer in zip(every, said, strict=True):
            drawn[prompt].append(answer)
    pairs = [Pair(prompt, chosen, bad) for _, prompt, chosen, bad in constitution.example_pairs()]
    from_examples, all_kept, none_kept = len(pairs), 0, 0
    for prompt in every:
        kept, broken = _judged(constitution, prompt, drawn[prompt])
        all_kept += not broken
        if broken and not kept:
            kept = good.get(prompt, [])
            none_kept += not kept
        both = [(a, b) for b in broken for a in kept]
        pairs += [Pair(prompt, chosen, rejected) for chosen, rejected in both[:most]]
    unique = tuple(dict.fromkeys(pairs))
    return Made(unique, len(every), answers * len(every), all_kept, none_kept, from_examples)


def _good(constitution: Constitution) -> dict[str, list[str]]:
    """Good answers that stand in the file, by prompt; of refusals what is said instead."""
    found: dict[str, list[str]] = {}
    file = constitution.file
    entries: list[Entry | Tone] = [
        *file.principles,
        *file.topics,
        *file.refusals,
        *([file.tone] if file.tone is not None else []),
    ]
    for entry in entries:
        for each in entry.examples:
            if each.good is not None:
                found.setdefault(each.prompt, []).append(each.good)
    for refusal in file.refusals:
        for prompt in refusal.prompts:
            # Which language a prompt is in is not told of so few words; the pattern that it matches tells.
            languages = [name for name, terms in refusal.when.items() if _about(terms, prompt)]
            found.setdefault(prompt, []).extend(
                refusal.answers[name] for name in languages if name in refusal.answers
            )
    return {prompt: answers for prompt, answers in found.items() if answers}


def _about(patterns: Sequence[str], prompt: str) -> bool:
    return any(matches(each, fold(prompt)) for each in patterns)


def _judged(constitution: Constitution, prompt: str, answers: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that break nothing, and those that break something; empty ones are neither."""
    kept: list[str] = []
    broken: list[str] = []
    for answer in dict.fromkeys(answers):
        if answer.strip():
            (broken if constitution.judge(prompt, answer) else kept).append(answer)
    return kept, broken
