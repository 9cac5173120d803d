"""What every step of curation obeys. Conformance: tests/curation/test_steps.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import ClassVar

from tapestry import __version__
from tapestry.curation.letters import Document
from tapestry.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one step makes of one document. None of it holds text but `text`.

    Args:
        why: a reason to leave it out, one word of the step's own; None for none.
        counts: what was found, by words of the step's own.
        key: what `settle` needs.
        text: to take the document's place.
        of: number of the document that this one resembles.
        language: what it is written in.
    """

    why: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    key: bytes = b""
    text: str | None = None
    of: int | None = None
    language: str | None = None


class Step(ABC):
    """One step. `look` is pure: any process, any order; `settle` sees documents in their order."""

    name: ClassVar[str]
    library: ClassVar[str] = "tapestry"

    @abstractmethod
    def look(self, document: Document) -> Look:
        """At one document."""

    def settle(self, number: int, look: Look) -> Look:
        """The final word, given all documents before that no earlier step left out.

        Args:
            number: of the document, from 0, growing.
            look: what `look` gave for it.
        """
        return look

    @property
    def version(self) -> str:
        """Of the library."""
        return __version__ if self.library == "tapestry" else version(self.library)


def missing(library: str) -> SettingsError:
    """What to raise where a library of the extra is not installed."""
    return SettingsError(
        f"curation needs the package {library}, which is not installed",
        hint="install the extra that brings it: pip install 'tapestry[curation]'",
    )
