"""A member's constitution: what its models are to hold to, as a file that its own people read and edit.

It keeps documents out of training, judges answers, and gives prompts to evaluate with. What holds is what the
file says: nothing comes with it, and nothing of it is the core's. Format: docs/formats/constitution.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from tapestry.catalog.protected import Protected, ProtectedFile, Topic, fold
from tapestry.catalog.words import Label, Language, Prose
from tapestry.errors import ConstitutionError, TapestryError
from tapestry.host import files
from tapestry.protocol import toml
from tapestry.protocol.message import Part
from tapestry.sovereign.checks import Check, Passage, Terms, check_terms, flat, found, matches, plain_passage

FORMAT: Final = "tapestry.constitution"
MAX_FILE_BYTES: Final = 4 << 20
HINT: Final = (
    "begin with: tapestry build constitution init FILE; the fields are in docs/formats/constitution.md"
)
Text = Annotated[Passage, AfterValidator(plain_passage)]
Sentence = Annotated[Prose, StringConstraints(min_length=1)]
Words = Annotated[Terms, AfterValidator(check_terms)]
Kind = Literal["principle", "topic", "tone", "refusal", "still-answered"]


class Example(Part):
    """A prompt, with an answer as it should be, one as it should not be, or both."""

    prompt: Text
    good: Text | None = None
    bad: Text | None = None

    @model_validator(mode="after")
    def _something(self) -> Example:
        if self.good is None and self.bad is None:
            raise ValueError("has neither a good nor a bad answer")
        if self.good is not None and self.bad is not None and fold(self.good) == fold(self.bad):
            raise ValueError("has the same answer as good and as bad")
        return self


class _Entry(Part):
    id: Label
    examples: Annotated[tuple[Example, ...], Field(max_length=1000)] = ()
    prompts: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()
    """To try the finished model with, beside those of the examples."""


class Principle(_Entry):
    """What an answer should be."""

    text: Sentence
    when: Words = Field(default_factory=dict)
    """Patterns of the prompts it is about; all where none is given."""
    check: Check | None = None
    """What of it a program can check."""
    training: bool = False
    """Whether documents with words of `check.never` are kept out of training."""

    @model_validator(mode="after")
    def _filters(self) -> Principle:
        if self.training and (self.check is None or not flat(self.check.never)):
            raise ValueError(
                "training = true keeps out documents with words of check.never, and there are none"
            )
        return self

    def about(self, folded: str) -> bool:
        """Whether it is about a prompt, which is folded."""
        patterns = flat(self.when)
        return not patterns or any(matches(each, folded) for each in patterns)


class ProtectedTopic(_Entry):
    """What is not spoken of, by the words it is spoken of in."""

    why: Prose = ""
    terms: Words
    training: bool = True
    """Whether documents that speak of it are kept out of training."""
    answers: bool = True
    """Whether an answer may not speak of it."""

    @field_validator("terms")
    @classmethod
    def _some(cls, terms: Terms) -> Terms:
        if not flat(terms):
            raise ValueError("names no word")
        return terms

    @model_validator(mode="after")
    def _protects(self) -> ProtectedTopic:
        if not self.training and not self.answers:
            raise ValueError("protects nothing: training and answers are both false")
        return self


class Tone(Part):
    """How everything is said."""

    text: Sentence
    check: Check | None = None
    examples: Annotated[tuple[Example, ...], Field(max_length=1000)] = ()
    prompts: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()


class Refusal(_Entry):
    """What is asked for in vain, and what is said instead."""

    why: Prose = ""
    when: Words
    """Patterns of the prompts."""
    answers: Annotated[dict[Language, Text], Field(min_length=1)]
    """What is said, by language."""
    known_by: Words
    """Words of which every refusal holds at least one."""
    still_answered: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()
    """Prompts that look alike and are answered all the same."""

    @field_validator("when", "known_by")
    @classmethod
    def _some(cls, terms: Terms) -> Terms:
        if not flat(terms):
            raise ValueError("names no words")
        return terms


class ConstitutionFile(Part):
    """All of the file."""

    format: Literal["tapestry.constitution"]
    version: Literal[1]
    title: Annotated[Prose, StringConstraints(min_length=1, max_length=200)]
    languages: Annotated[tuple[Language, ...], Field(min_length=1, max_length=100)]
    """That the community speaks; coverage is shown for each."""
    principles: Annotated[tuple[Principle, ...], Field(max_length=1000)] = ()
    topics: Annotated[tuple[ProtectedTopic, ...], Field(max_length=1000)] = ()
    tone: Tone | None = None
    refusals: Annotated[tuple[Refusal, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _distinct(self) -> ConstitutionFile:
        ids = [each.id for each in (*self.principles, *self.topics, *self.refusals)]
        for one in ids:
            if ids.count(one) > 1:
                raise ValueError(f"two entries have the id {one!r}")
            if one == TONE:
                raise ValueError(f"the id {TONE!r} is the tone's")
        if not ids and self.tone is None:
            raise ValueError("says nothing: it has no principle, no topic, no tone and no refusal")
        return self


TONE: Final = "tone"


@dataclass(frozen=True)
class Broken:
    """A rule that an answer breaks."""

    id: str
    said: str


@dataclass(frozen=True)
class Case:
    """A prompt to try a model with. `id`: of the entry it comes from."""

    id: str
    kind: Kind
    prompt: str


class Constitution:
    """What one file says.

    Args:
        data: its bytes.
        file: what they say.
    """

    def __init__(self, data: bytes, file: ConstitutionFile) -> None:
        self.data = data
        self.digest = hashlib.sha256(data).hexdigest()
        self.file = file

    @classmethod
    def load(cls, path: Path) -> Constitution:
        """Raises `ConstitutionError` naming file, line and field, and what to write instead."""
        try:
            data = files.read_limited(path, MAX_FILE_BYTES)
        except FileNotFoundError as e:
            raise ConstitutionError(f"{path} does not exist", hint=HINT) from e
        except (OSError, TapestryError) as e:
            raise ConstitutionError(f"{path} cannot be read: {e}", hint=HINT) from e
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, where: str) -> Constitution:
        """As `load`, of bytes; `where` names them in errors."""
        value, text = toml.read(
            data, what=where, format=FORMAT, version=1, max_bytes=MAX_FILE_BYTES, error=ConstitutionError
        )
        try:
            return cls(data, ConstitutionFile.model_validate(toml.as_tuples(value)))
        except ValidationError as e:
            raise ConstitutionError(toml.describe(e, text, where), hint=_way_out(toml.faults(e)[0])) from e

    # -- training text --------------------------------------------------------------------------------------

    @cached_property
    def protected(self) -> Protected:
        """What is kept out of training, as `training.corpus` takes it."""
        return Protected(
            self.data,
            ProtectedFile.model_construct(
                format="tapestry.protected", version=1, topics=self._topics(), holdings=()
            ),
        )

    def _topics(self) -> tuple[Topic, ...]:
        named = [(each.id, each.terms) for each in self.file.topics if each.training]
        for each in self.file.principles:
            if each.training and each.check is not None:
                named.append((each.id, each.check.never))
        return tuple(Topic.model_construct(name=name, why="", terms=terms) for name, terms in named)

    def beside(self, other: Protected | None) -> Protected:
        """What is kept out of training by this file and by a node's protected.toml, together."""
        if other is None:
            return self.protected
        topics, holdings = (*self._topics(), *other.file.topics), other.file.holdings
        file = ProtectedFile.model_construct(
            format="tapestry.protected", version=1, topics=topics, holdings=holdings
        )
        return Protected(self.data + b"\0" + other.data, file)

    def keeps_out(self, text: str) -> str | None:
        """The id of the topic or principle that keeps a text out of training; None where it may be used."""
        return self.protected.look((text,))

    # -- answers --------------------------------------------------------------------------------------------

    def refusal(self, prompt: str) -> Refusal | None:
        """The first refusal that a prompt falls under."""
        folded = fold(prompt)
        return next(
            (each for each in self.file.refusals if any(matches(one, folded) for one in flat(each.when))),
            None,
        )

    def refuses(self, answer: str) -> bool:
        """Whether an answer is a refusal, by the words of any."""
        folded = fold(answer)
        return any(found(flat(each.known_by), folded) is not None for each in self.file.refusals)

    def judge(self, prompt: str, answer: str) -> list[Broken]:
        """Rules that an answer to a prompt breaks; none where it keeps to all that a program can check."""
        broken: list[Broken] = []
        asked, said = fold(prompt), fold(answer)
        if not said:
            broken.append(Broken(TONE, "is empty"))
        refusal = self.refusal(prompt)
        if refusal is not None and found(flat(refusal.known_by), said) is None:
            broken.append(Broken(refusal.id, "does not refuse"))
        for topic in self.file.topics:
            if topic.answers and (term := found(flat(topic.terms), said)) is not None:
                broken.append(Broken(topic.id, f"says {term!r}"))
        for principle in self.file.principles:
            # Who is refused is told so, and nothing else.
            if principle.check is not None and principle.about(asked) and refusal is None:
                broken += [Broken(principle.id, each.said) for each in principle.check.faults(answer)]
        if self.file.tone is not None and self.file.tone.check is not None:
            broken += [Broken(TONE, each.said) for each in self.file.tone.check.faults(answer)]
        return broken

    def fails(self, case: Case, answer: str) -> list[Broken]:
        """What an answer to a case breaks of the entry that the case is of."""
        if case.kind == "still-answered":
            refused = self.refuses(answer) or not answer.strip()
            return [Broken(case.id, "refuses, or says nothing")] if refused else []
        return [each for each in self.judge(case.prompt, answer) if each.id == case.id or not answer.strip()]

    def cases(self) -> tuple[Case, ...]:
        """Every prompt that there is something to check of, in the order of the file, once for each entry."""
        return tuple(dict.fromkeys(self._cases()))

    def _cases(self) -> Iterator[Case]:
        for principle in self.file.principles:
            if principle.check is not None:
                yield from _of(principle.id, "principle", principle)
        for topic in self.file.topics:
            if topic.answers:
                yield from _of(topic.id, "topic", topic)
        if self.file.tone is not None and self.file.tone.check is not None:
            yield from _of(TONE, "tone", self.file.tone)
        for refusal in self.file.refusals:
            yield from _of(refusal.id, "refusal", refusal)
            for prompt in refusal.still_answered:
                yield Case(refusal.id, "still-answered", prompt)

    def example_pairs(self) -> tuple[tuple[str, str, str, str], ...]:
        """Id, prompt, good and bad answer of every example that has both."""
        entries: list[tuple[str, _Entry | Tone]] = [
            *((each.id, each) for each in (*self.file.principles, *self.file.topics)),
            *([(TONE, self.file.tone)] if self.file.tone is not None else []),
            *((each.id, each) for each in self.file.refusals),
        ]
        return tuple(
            (name, one.prompt, one.good, one.bad)
            for name, entry in entries
            for one in entry.examples
            if one.good is not None and one.bad is not None
        )


def _of(name: str, kind: Kind, entry: _Entry | Tone) -> Iterator[Case]:
    for prompt in (*entry.prompts, *(each.prompt for each in entry.examples)):
        yield Case(name, kind, prompt)


_WRITE: Final = {
    "id": 'write: id = "plain-words" (a-z, 0-9, ".", "_" and "-")',
    "text": 'write: text = "what an answer should be, in one sentence"',
    "title": 'write: title = "Values of our language council"',
    "languages": 'write: languages = ["fr", "de"], codes of BCP 47',
    "terms": 'write: terms = { fr = ["chant de pluie"], de = ["Regenlied"] }',
    "never": 'write: never = { fr = ["foutaise"] }, words by language',
    "one_of": 'write: one_of = { fr = ["merci"] }, words by language',
    "all_of": 'write: all_of = { fr = ["oui", "merci"] }, words by language',
    "when": 'write: when = { fr = ["posologie", "dose * enfant"] }, words of the prompts it is about',
    "known_by": 'write: known_by = { fr = ["je ne peux pas"] }, words that every refusal has',
    "answers": 'of a refusal: answers = { fr = "Je ne peux pas…" }; of a topic: answers = true or false',
    "examples": 'write: examples = [{ prompt = "…", good = "…", bad = "…" }]',
    "prompts": 'write: prompts = ["…", "…"]',
    "prompt": 'write: examples = [{ prompt = "…", good = "…", bad = "…" }]',
    "good": 'write: examples = [{ prompt = "…", good = "…", bad = "…" }]',
    "bad": 'write: examples = [{ prompt = "…", good = "…", bad = "…" }]',
    "check": "write below it: [principles.check] and, say, max_words = 80",
    "training": "write: training = true, or training = false",
    "still_answered": 'write: still_answered = ["…"], prompts that are not refused',
}
_FIELDS: Final = {
    "principles": "id, text, when, check, training, examples, prompts",
    "topics": "id, why, terms, training, answers, examples, prompts",
    "tone": "text, check, examples, prompts",
    "refusals": "id, why, when, answers, known_by, still_answered, examples, prompts",
    "check": ", ".join(Check.model_fields),
    "examples": "prompt, good, bad",
}


def _way_out(fault: Any) -> str:
    """What to write instead, by the field that is wrong."""
    names = [part for part in fault["loc"] if isinstance(part, str)]
    if fault["type"] == "extra_forbidden":
        inside = next((name for name in reversed(names[:-1]) if name in _FIELDS), None)
        fields = (
            _FIELDS[inside]
            if inside
            else "format, version, title, languages, principles, topics, tone, refusals"
        )
        return f"fields here are: {fields}"
    return next((_WRITE[name] for name in reversed(names) if name in _WRITE), HINT)
