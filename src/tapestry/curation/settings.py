"""What each step of curation does and where it draws the line; the file of `--settings`. Closed, frozen."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry.errors import SettingsError
from tapestry.protocol import canonical, toml

MAX_SETTINGS_BYTES: Final = 1 << 20
HINT: Final = "see docs/guides/curation.md"
Action = Literal["drop", "report", "off"]
"""`report` counts what it would drop, and keeps it."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=False)]
Letters = Annotated[int, Field(ge=0, le=1 << 24)]


class Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @property
    def digest(self) -> str:
        """Of all values, so that a lineage says what a step was told."""
        return canonical.sha256(canonical.encode(self.model_dump(mode="json")))


class Language(Table):
    """Documents in another language than is stated."""

    action: Action = "drop"
    min_letters: Letters = 40
    """A document with fewer letters is not judged: languages cannot be told from a few words."""
    min_probability: Share = 0.5
    """Of the other language."""


class Quality(Table):
    """Documents that are hardly text."""

    action: Action = "drop"
    min_letters: Letters = 60
    min_letters_unspaced: Letters = 20
    """The same in scripts without blanks, where a word is a letter or two."""
    min_letter_share: Share = 0.6
    """Of all that is not blank."""
    max_symbol_share: Share = 0.1
    """Of all that is not blank: currency, arithmetic, arrows, frames, pictures."""
    max_repeated_lines: Share = 0.3
    """Letters in lines that were there before, of all letters."""
    max_repeated_text: Share = 0.4
    """Runs of 30 letters that were there before, of all runs."""
    max_ellipsis_lines: Share = 0.5
    max_bullet_lines: Share = 0.9
    max_mean_word: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False, strict=False)] = 16.0
    """Letters of a word, in scripts with blanks."""


class Contamination(Table):
    """Documents that hold text of the evaluation sets."""

    action: Action = "drop"
    letters: Annotated[int, Field(ge=10, le=1000)] = 50
    """A run of so many letters that is in both is shared text."""
    letters_unspaced: Annotated[int, Field(ge=5, le=1000)] = 20
    max_share: Share = 0.1
    """Letters in shared text, of all letters."""
    max_letters: Letters = 200
    """Letters in shared text."""


class Duplicates(Table):
    """Documents that are others, or nearly."""

    action: Action = "drop"
    letters: Annotated[int, Field(ge=3, le=100)] = 8
    """Documents are compared as sets of their runs of so many letters."""
    letters_unspaced: Annotated[int, Field(ge=2, le=100)] = 4
    similarity: Annotated[float, Field(ge=0.5, le=1, allow_inf_nan=False, strict=False)] = 0.8
    """From which share of common runs on the later one is a duplicate; 1 for the same letters only."""


class Pii(Table):
    """Personal data that has a form."""

    action: Action = "report"
    redact: bool = False
    """Put the kind in brackets in its place, `[email]`."""


class CurationSettings(Table):
    """All steps. Format: docs/guides/curation.md."""

    language: Language = Language()
    quality: Quality = Quality()
    contamination: Contamination = Contamination()
    duplicates: Duplicates = Duplicates()
    pii: Pii = Pii()

    @classmethod
    def parse(cls, data: bytes, where: str) -> CurationSettings:
        """Raises `SettingsError` naming file and key."""
        value, text = toml.parse(
            data, what=where, max_bytes=MAX_SETTINGS_BYTES, error=SettingsError, hint=HINT
        )
        try:
            return cls.model_validate(value)
        except ValidationError as e:
            raise SettingsError(toml.describe(e, text, where), hint=HINT) from e
