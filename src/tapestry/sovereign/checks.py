"""What a program can check of an answer: words in it, its length, language and form, whether it refuses.

One kind of check for a constitution's rules and for instructions to evaluate with. Words are compared as
`catalog.protected` compares terms.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from tapestry.catalog.protected import UNSPACED, Protected, ProtectedFile, Term, Topic, fold
from tapestry.catalog.words import Language
from tapestry.protocol.message import Part

if TYPE_CHECKING:
    from tapestry.curation.language import Language as Identifier

Terms = dict[Language, tuple[Term, ...]]
"""Words and phrases by language. The language is for readers: a word counts wherever it stands."""
MAX_PASSAGE: Final = 20_000
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
Passage = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PASSAGE)]
"""A prompt or an answer; may have several lines."""
GAP: Final = "*"
"""In a pattern: any words."""
_WORD: Final = re.compile(rf"[^\W_{UNSPACED}](?:[^\W_{UNSPACED}]|['’\-](?=\w))*|[{UNSPACED}]")
_ITEM: Final = re.compile(r"[ \t]*(?:[-*•·–]|\d{1,3}[.)])[ \t]+\S")


def plain_passage(text: str) -> str:
    """Raises `ValueError` for what is no text that people write."""
    if _CONTROL.search(text):
        raise ValueError("holds a control character; blanks, tabs and line ends are allowed")
    if not text.strip():
        raise ValueError("is empty")
    return text


def check_terms(terms: Terms) -> Terms:
    """Raises `ValueError` for a word, or a part of a pattern, without a letter: it stands everywhere."""
    for term in (term for each in terms.values() for term in each):
        if not all(any(letter.isalnum() for letter in fold(part)) for part in term.split(GAP)):
            raise ValueError(f"holds {term!r}, which has neither a letter nor a digit")
    return terms


def flat(terms: Terms) -> tuple[str, ...]:
    """All words of all languages."""
    return tuple(term for each in terms.values() for term in each)


@lru_cache(maxsize=1 << 14)
def _one(term: str) -> Protected:
    topic = Topic.model_construct(name="it", why="", terms={"und": (term,)})
    file = ProtectedFile.model_construct(format="tapestry.protected", version=1, topics=(topic,), holdings=())
    return Protected(b"", file)


def found(terms: tuple[str, ...], folded: str) -> str | None:
    """The first of some words that stands in a folded text, as whole words."""
    return next((term for term in terms if _one(term).topic(folded) is not None), None)


def matches(pattern: str, folded: str) -> bool:
    """Whether a folded text holds all parts of a pattern: words, with ` * ` where other words may stand.

    Parts are looked for in any order: word order differs between languages.
    """
    parts = tuple(part.strip() for part in pattern.split(GAP))
    return all(_one(part).topic(folded) is not None for part in parts if part)


def words(text: str) -> int:
    """How many words a text has; a letter of a script without blanks between words counts as one."""
    return len(_WORD.findall(text))


@dataclass(frozen=True)
class Fault:
    """What an answer does not keep to."""

    field: str
    """Of the check."""
    said: str
    """In words."""


class Check(Part):
    """What an answer has to keep to. At least one field is given; all that are hold together."""

    never: Terms = Field(default_factory=dict)
    """None of these words."""
    one_of: Terms = Field(default_factory=dict)
    """At least one of these words, of any language."""
    all_of: Terms = Field(default_factory=dict)
    """All words of at least one language."""
    begins: Annotated[str, Field(max_length=200)] = ""
    ends: Annotated[str, Field(max_length=200)] = ""
    language: Language | None = None
    """Told of answers with 40 letters and more; a shorter one passes."""
    min_words: Annotated[int, Field(ge=1, le=100_000)] | None = None
    max_words: Annotated[int, Field(ge=1, le=100_000)] | None = None
    form: Literal["json", "list", "one-line"] | None = None
    """`list`: every line begins with a dash, a dot or a number."""
    refuses: bool | None = None
    """Whether it must, or must not, decline to answer."""
    refusal_words: Terms = Field(default_factory=dict)
    """What a refusal is known by."""

    @field_validator("never", "one_of", "all_of", "refusal_words")
    @classmethod
    def _words(cls, terms: Terms) -> Terms:
        return check_terms(terms)

    @model_validator(mode="after")
    def _holds_together(self) -> Check:
        if not self.model_fields_set - {"refusal_words"}:
            raise ValueError("checks nothing")
        if self.min_words and self.max_words and self.min_words > self.max_words:
            raise ValueError(f"wants at least {self.min_words} words and at most {self.max_words}")
        if self.refuses is not None and not flat(self.refusal_words):
            raise ValueError("refuses needs refusal_words: what a refusal is known by")
        return self

    def faults(self, answer: str) -> list[Fault]:
        """What the answer does not keep to, each in a sentence; none where it does."""
        folded = fold(answer)
        return [*self._of_words(folded), *self._of_length(answer), *self._of_shape(answer, folded)]

    def _of_words(self, folded: str) -> list[Fault]:
        faults = []
        if (term := found(flat(self.never), folded)) is not None:
            faults.append(Fault("never", f"says {term!r}"))
        if flat(self.one_of) and found(flat(self.one_of), folded) is None:
            faults.append(Fault("one_of", "says none of: " + ", ".join(flat(self.one_of)[:8])))
        if flat(self.all_of) and not any(
            each and all(_one(term).topic(folded) is not None for term in each)
            for each in self.all_of.values()
        ):
            faults.append(Fault("all_of", "does not say all of: " + ", ".join(flat(self.all_of)[:8])))
        return faults

    def _of_length(self, answer: str) -> list[Fault]:
        if self.min_words is None and self.max_words is None:
            return []
        count = words(answer)
        if self.min_words is not None and count < self.min_words:
            return [Fault("min_words", f"has {count} words, fewer than {self.min_words}")]
        if self.max_words is not None and count > self.max_words:
            return [Fault("max_words", f"has {count} words, more than {self.max_words}")]
        return []

    def _of_shape(self, answer: str, folded: str) -> list[Fault]:
        faults = []
        if self.begins and not folded.startswith(fold(self.begins)):
            faults.append(Fault("begins", f"does not begin with {self.begins!r}"))
        if self.ends and not folded.endswith(fold(self.ends)):
            faults.append(Fault("ends", f"does not end with {self.ends!r}"))
        if self.form is not None and not _has_form(self.form, answer.strip()):
            faults.append(Fault("form", f"is not of the form {self.form}"))
        if self.refuses is not None:
            refused = found(flat(self.refusal_words), folded) is not None
            if refused != self.refuses:
                faults.append(Fault("refuses", "refuses" if refused else "does not refuse"))
        if self.language is not None and (other := _other_language(answer, self.language)) is not None:
            faults.append(Fault("language", f"is in {other}, not in {self.language}"))
        return faults


def _has_form(form: str, answer: str) -> bool:
    if form == "json":
        try:
            json.loads(answer)
        except (ValueError, RecursionError):
            return False
        return True
    lines = [line for line in answer.splitlines() if line.strip()]
    return len(lines) == 1 if form == "one-line" else bool(lines) and all(map(_ITEM.match, lines))


@lru_cache(maxsize=64)
def _identifier(language: str) -> Identifier:
    from tapestry.curation import settings
    from tapestry.curation.language import Language as Identifier

    return Identifier(settings.Language(), [language])


def _other_language(answer: str, language: str) -> str | None:
    """The language of an answer where it is told to be another; an empty answer is in none."""
    from tapestry.curation.letters import Document

    if not answer.strip():
        return "no language"
    look = _identifier(language).look(Document(answer))
    return look.language if look.why is not None else None
