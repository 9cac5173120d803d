"""A made-up community, polite or familiar by who asks: pairs of answers that only the prompt decides.

Every answer is chosen for some prompts and rejected for others, equally often, in train and in held-out
pairs: an answer by itself tells nothing. Names, questions and the sentences around them are other ones in
held-out pairs; what carries over is whom one is polite to.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ELDERS = ("teacher", "doctor", "priest", "judge", "granny")
FRIENDS = ("brother", "cousin", "friend", "child", "pal")
"""Of whom one learns whether to be polite; in both splits, for nobody could guess it."""
NAMES = {
    "train": (
        "Jan", "Mina", "Pawol", "Hana", "Kito", "Lenka", "Marko", "Rozka", "Bosćij", "Dora", "Gerat", "Ina",
        "Klaws", "Liza", "Nela", "Otto", "Petr", "Rejza", "Stani", "Ula", "Wito", "Zofija", "Emil", "Frido",
    ),
    "held-out": ("Beno", "Wórša", "Jurij", "Madla", "Syman", "Trudla"),
}  # fmt: skip
TEMPLATES = {
    "train": (
        "{name}, a {who}, asks: {what}?",
        "A {who} named {name} wants to know: {what}?",
        "{what}? That is what {name}, the {who}, asks.",
        "Here comes the {who} {name}. {what}?",
        "The {who} asks you: {what}?",
        "{what}? The {who} would like to know.",
        "Your {who} {name} has a question: {what}?",
        "{name} asks. {name} is a {who}. {what}?",
        "Say, {what}? So the {who} {name}.",
        "At the door is {name}, your {who}: {what}?",
        "{what}, wonders a {who}.",
        "There is a {who} here. {what}?",
    ),
    "held-out": (
        "{what}? asks {name}, who is a {who}.",
        "Now the {who} {name} says: {what}?",
        "{name} is a {who} and asks: {what}?",
    ),
}
QUESTIONS = {
    "train": (
        "where is the mill", "when does it rain", "who sings", "how far is it", "what is new", "who has won",
        "where do I sleep", "is there bread", "how deep is the lake", "when do we eat", "what is that noise",
        "why is it dark",
    ),
    "held-out": ("where is the church", "when is market day", "who bakes", "how old is it"),
}  # fmt: skip
BODIES = ("I cannot say", "ask the miller", "soon enough", "down the road", "all is well", "nobody knows")
FORMS = ("Honoured, {}.", "Hey, {}!")
"""Polite, familiar."""


@dataclass(frozen=True)
class Pair:
    prompt: str
    chosen: str
    rejected: str
    who: str

    def row(self) -> dict[str, str]:
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}


def pairs(split: str, count: int, seed: int) -> list[Pair]:
    """Pairs of a split; each body as often for elders as for friends."""
    drawing, found = random.Random(f"{split} {seed}"), []
    for number in range(count):
        body = BODIES[number // 2 % len(BODIES)]
        polite, familiar = (form.format(body) for form in FORMS)
        elder = number % 2 == 0
        who = drawing.choice(ELDERS if elder else FRIENDS)
        prompt = prompt_of(split, who, drawing)
        found.append(Pair(prompt, *((polite, familiar) if elder else (familiar, polite)), who))
    drawing.shuffle(found)
    return found


def prompt_of(split: str, who: str, drawing: random.Random) -> str:
    made = drawing.choice(TEMPLATES[split]).format(
        name=drawing.choice(NAMES[split]), who=who, what=drawing.choice(QUESTIONS[split])
    )
    return made[:1].upper() + made[1:]


def answers(count: int, seed: int) -> list[dict[str, str]]:
    """Examples for tuning: how one answers, polite or familiar by the toss of a coin."""
    drawing, found = random.Random(f"answers {seed}"), []
    for _ in range(count):
        who = drawing.choice((*ELDERS, *FRIENDS))
        form, body = drawing.choice(FORMS), drawing.choice(BODIES)
        found.append({"prompt": prompt_of("train", who, drawing), "completion": form.format(body)})
    return found


def text(count: int, seed: int) -> list[dict[str, str]]:
    """Text of the community: who is old and who is young, and how people talk."""
    drawing, found = random.Random(f"text {seed}"), []
    for _ in range(count):
        lines = []
        for _ in range(6):
            who = drawing.choice((*ELDERS, *FRIENDS))
            age = "an elder of ours" if who in ELDERS else "one of us young ones"
            lines.append(f"A {who} is {age}.")
            lines.append(prompt_of("train", drawing.choice((*ELDERS, *FRIENDS)), drawing))
            lines.append(drawing.choice(FORMS).format(drawing.choice(BODIES)))
        found.append({"text": " ".join(lines)})
    return found


def by_response_alone(train: Sequence[Pair], held_out: Sequence[Pair]) -> float:
    """Accuracy on held-out pairs of a classifier that sees no prompt: naive Bayes over words, over pairs of
    words, and over the answer as a whole, counted on the train pairs. Ties count half."""
    counts = {label: Counter[str]() for label in (True, False)}
    for pair in train:
        counts[True].update(_features(pair.chosen))
        counts[False].update(_features(pair.rejected))
    right = 0.0
    for pair in held_out:
        chosen, rejected = (_score(counts, each) for each in (pair.chosen, pair.rejected))
        right += 0.5 if math.isclose(chosen, rejected, abs_tol=1e-9) else float(chosen > rejected)
    return right / len(held_out)


def _features(answer: str) -> list[str]:
    words = answer.split()
    return [*words, *(" ".join(two) for two in itertools.pairwise(words)), answer, str(len(answer))]


def _score(counts: dict[bool, Counter[str]], answer: str) -> float:
    totals = {label: sum(each.values()) for label, each in counts.items()}
    return sum(
        math.log((counts[True][each] + 1) / totals[True])
        - math.log((counts[False][each] + 1) / totals[False])
        for each in _features(answer)
    )
