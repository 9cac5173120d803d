"""Topics and holdings that a community protects: which documents are withheld from training.

Format and meaning of `protected.toml`: docs/formats/protected.md. Terms are compared as plain text, never as
patterns, so no file can make the search hang.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from tapestry.catalog.words import Label, Language, Prose
from tapestry.errors import SettingsError
from tapestry.protocol import toml
from tapestry.protocol.canonical import Sha256
from tapestry.protocol.message import Part, explain

FILE: Final = "protected.toml"
"""Of a node's home."""
MAX_FILE_BYTES: Final = 4 << 20
MAX_TERMS: Final = 20_000
MAX_TERM: Final = 200
"""Letters of a term."""
MATCHING: Final = f"2 {unicodedata.unidata_version}"
"""The way terms are compared, and Unicode's tables. Text that was read in another way is read anew."""
HINT: Final = "see docs/formats/protected.md"

UNSPACED: Final = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aad\ua9e0-\ua9ff\uaa60-\uaadf"
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U000323af"
)
"""For a class in a pattern: scripts written without blanks between words, which are Thai, Lao, Tibetan,
Burmese, Khmer and others of the region, Han, kana, bopomofo."""
_IS_UNSPACED: Final = re.compile(f"[{UNSPACED}]")
_CHUNK: Final = re.compile(rf"[^\W{UNSPACED}]+")
_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Soft hyphens, joiners, directions, variants of shape (Unicode's Default_Ignorable_Code_Point): two words
that differ in these look the same."""
_APOSTROPHE: Final = re.compile("[\u02bb\u02bc\u2018\u2019]")
_DASH: Final = re.compile("[\u2010-\u2015\u2212]")
_SLACK: Final = 64


def fold(text: str) -> str:
    """Text as terms are compared: NFKC and case folding, without what is invisible, blanks made one, one
    apostrophe and one dash."""
    if text.isascii():
        return " ".join(text.lower().split())
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    plain = _DASH.sub("-", _APOSTROPHE.sub("'", unicodedata.normalize("NFKC", plain)))
    return " ".join(plain.split())


def is_unspaced(letter: str) -> bool:
    """Whether a letter belongs to a script without blanks between words."""
    return _IS_UNSPACED.match(letter) is not None


Term = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TERM)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class Topic(Part):
    """What is not to be trained on, by the words it is spoken of in."""

    name: Label
    why: Prose = ""
    terms: dict[Language, tuple[Term, ...]]

    @field_validator("terms")
    @classmethod
    def _words(cls, terms: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if not any(terms.values()):
            raise ValueError("names no term")
        for term in (term for each in terms.values() for term in each):
            if not any(letter.isalnum() for letter in fold(term)):
                raise ValueError("holds a term without a letter or digit")
        return terms


class Holding(Part):
    """Documents or files that are not to be trained on."""

    name: Label
    why: Prose = ""
    documents: tuple[Sha256, ...] = ()
    """SHA-256 of the UTF-8 text of each."""
    files: tuple[Glob, ...] = ()
    """Paths below the corpus folder; `*` is any letters, also `/`."""

    @model_validator(mode="after")
    def _something(self) -> Holding:
        if not self.documents and not self.files:
            raise ValueError("names neither documents nor files")
        return self


class ProtectedFile(Part):
    """All of the file."""

    format: Literal["tapestry.protected"]
    version: Literal[1]
    topics: Annotated[tuple[Topic, ...], Field(max_length=1000)] = ()
    holdings: Annotated[tuple[Holding, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _bounded(self) -> ProtectedFile:
        names = [*(each.name for each in self.topics), *(each.name for each in self.holdings)]
        if len(set(names)) != len(names):
            raise ValueError("two topics or holdings have one name")
        if sum(len(terms) for topic in self.topics for terms in topic.terms.values()) > MAX_TERMS:
            raise ValueError(f"has more than {MAX_TERMS} terms")
        return self


@dataclass(frozen=True)
class _Wanted:
    """A folded term, and the topic it belongs to."""

    text: str
    topic: str
    number: int
    """In the file: of several that stand in a text, the first counts."""


class Protected:
    """What one file protects.

    Args:
        data: its bytes, which another process may be given.
        file: what they say.
    """

    def __init__(self, data: bytes, file: ProtectedFile) -> None:
        self.data = data
        self.digest = hashlib.sha256(data).hexdigest()
        self.file = file
        self._by_chunk: dict[str, list[_Wanted]] = {}
        """Terms by the first run of letters of a script with blanks in them."""
        self._unspaced: list[_Wanted] = []
        self._longest = number = 0
        for topic in file.topics:
            for term in (term for terms in topic.terms.values() for term in terms):
                number += 1
                wanted = _Wanted(fold(term), topic.name, number)
                self._longest = max(self._longest, len(wanted.text))
                if _IS_UNSPACED.search(wanted.text):
                    self._unspaced.append(replace(wanted, text=wanted.text.replace(" ", "")))
                else:
                    found = _CHUNK.search(wanted.text)
                    self._by_chunk.setdefault(found[0] if found else wanted.text, []).append(wanted)
        self._documents = {digest: each.name for each in file.holdings for digest in each.documents}
        self._globs = [(_composed(glob), each.name) for each in file.holdings for glob in each.files]

    @classmethod
    def parse(cls, data: bytes, where: str) -> Protected:
        """Raises `SettingsError` naming file and field; what is in terms is not repeated."""
        value, _ = toml.parse(data, what=where, max_bytes=MAX_FILE_BYTES, error=SettingsError, hint=HINT)
        try:
            return cls(data, ProtectedFile.model_validate(toml.as_tuples(value)))
        except ValidationError as e:
            raise SettingsError(f"{where}: {explain(e).replace('Value error, ', '')}", hint=HINT) from e

    def file_holding(self, path: str) -> str | None:
        """The holding that a file belongs to, by its path below the corpus folder."""
        path = _composed(path)
        return next((name for glob, name in self._globs if fnmatch.fnmatchcase(path, glob)), None)

    def topic(self, folded: str) -> str | None:
        """The topic that a text, folded, speaks of."""
        if self._unspaced:
            joined = folded.replace(" ", "")  # a line may end in the middle of a word
            letters = set(joined)
            for each in self._unspaced:
                if each.text[0] in letters and each.text in joined:
                    return each.topic
        if not self._by_chunk:
            return None
        chunks = self._by_chunk.keys() & set(_CHUNK.findall(folded))
        likely = sorted(
            (each for chunk in chunks for each in self._by_chunk[chunk]), key=lambda it: it.number
        )
        return next((each.topic for each in likely if _stands_alone(each.text, folded)), None)

    def look(self, pieces: Iterable[str], path: str = "") -> str | None:
        """The topic or holding that a document belongs to, in a file at that path below the corpus folder."""
        watch = Watch(self, path)
        for _ in watch.through(pieces):
            pass
        return watch.found()

    def held(self, digest: str) -> str | None:
        """The holding of a document, by the SHA-256 of its text."""
        return self._documents.get(digest)

    @property
    def by_topic(self) -> bool:
        """Whether text has to be looked at."""
        return self._longest > 0

    def end(self, folded: str) -> str:
        """What of the end of a folded text a term may begin in that ends in what follows: as far as the
        longest goes with a blank between all letters; from the beginning of a word on, where one is near."""
        found = folded[-2 * self._longest - _SLACK :]
        return found[found.find(" ", 0, _SLACK) + 1 :] if len(found) < len(folded) else found

    @property
    def by_document(self) -> bool:
        """Whether documents have to be hashed."""
        return bool(self._documents)


class Watch:
    """Looks at one document as it is read, in pieces.

    Args:
        protected: what to look for.
        path: of the document's file, below the corpus folder.
    """

    def __init__(self, protected: Protected, path: str = "") -> None:
        self._protected = protected
        self._hash = hashlib.sha256()
        self._end = ""
        self._found = protected.file_holding(path)
        self.any = False
        """Whether there was text."""

    def through(self, pieces: Iterable[str]) -> Iterator[str]:
        """The pieces, as long as nothing protected is found. What was given before that is to be undone."""
        for piece in pieces:
            self.any = self.any or piece != ""
            if self._found is None:
                if self._protected.by_topic:
                    self._look(self._end + piece)
                if self._protected.by_document:
                    self._hash.update(piece.encode())
            if self._found is None:
                yield piece

    def _look(self, text: str) -> None:
        folded = fold(text)
        self._found = self._protected.topic(folded)
        blank = " " if _INVISIBLE.sub("", text[-_SLACK:])[-1:].isspace() else ""  # which folding took away
        self._end = self._protected.end(folded) + blank

    def found(self) -> str | None:
        """The topic or holding, once all pieces went through."""
        if self._found is None and self._protected.by_document:
            return self._protected.held(self._hash.hexdigest())
        return self._found


def _composed(path: str) -> str:
    """Of a path: some systems write é as one letter, others as two."""
    return unicodedata.normalize("NFC", path)


def _stands_alone(term: str, text: str) -> bool:
    """Whether a term is in a text with no letter of a word before or after it."""
    at = text.find(term)
    while at >= 0:
        end = at + len(term)
        before = at and _goes_on(text[at - 1]) and _goes_on(term[0])
        after = end < len(text) and _goes_on(text[end]) and _goes_on(term[-1])
        if not before and not after:
            return True
        at = text.find(term, at + 1)
    return False


def _goes_on(letter: str) -> bool:
    """Whether a word goes on with it. Marks belong to the letter before: vowel signs of Devanagari, say."""
    if _IS_UNSPACED.match(letter):
        return False
    return letter.isalnum() or letter == "_" or unicodedata.category(letter).startswith("M")
