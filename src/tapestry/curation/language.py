"""Is a document in a language that is stated? By py3langid: a model of 4 MB that comes with the package.

The beginning, the middle and the end of a document are looked at, which is enough and saves most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tapestry.curation import settings
from tapestry.curation.letters import Document
from tapestry.curation.step import Look, Step, missing

EXCERPT: Final = 70
"""Characters of each of the three excerpts."""
UNTOLD: Final = "und"
"""BCP 47 for a language that is not determined."""
_PARTS: Final = {
    "wuu": "zh", "yue": "zh", "lzh": "zh", "cmn": "zh", "nan": "zh", "hak": "zh",
    "nb": "no", "nn": "no", "prs": "fa", "pes": "fa", "arz": "ar", "ary": "ar", "apc": "ar",
    "uzs": "uz", "uzn": "uz", "swh": "sw", "zsm": "ms", "ekk": "et", "lvs": "lv", "ydd": "yi",
}  # fmt: skip
"""Languages that cards often name by the wider one, which counts for them here."""


class Language(Step):
    """Finds the language of each document.

    Args:
        given: where the line is.
        expected: BCP 47 tags of what there should be; empty where anything may be.
    """

    name = "language"
    library = "py3langid"

    def __init__(self, given: settings.Language, expected: Sequence[str]) -> None:
        try:
            from py3langid import langid
        except ImportError as e:
            raise missing("py3langid") from e
        self._settings = given
        self._identifier: Any = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
        known = {wider(label) for label in self._identifier.labels}
        self.expected = frozenset(wider(tag.partition("-")[0]) for tag in expected)
        self.unknown = sorted(self.expected - known)
        """Stated languages that the model has not learnt. It would take them for others, so nothing is left
        out then."""

    def look(self, document: Document) -> Look:
        if document.letter_count < self._settings.min_letters:
            return Look(language=UNTOLD, counts={"too-short": 1})
        label, probability = self._identifier.classify(excerpts(document.text))
        found = wider(label)
        sure = float(probability) >= self._settings.min_probability
        if found in self.expected or not self.expected:
            return Look(language=found)
        if not sure or self.unknown:
            return Look(language=found if sure else UNTOLD, counts={"not-told": 1})
        return Look(language=found, why="other-language")


def wider(label: str) -> str:
    """The language that a label counts for."""
    return _PARTS.get(label, label)


def excerpts(text: str) -> str:
    """The beginning, the middle and the end."""
    if len(text) <= 3 * EXCERPT:
        return text
    middle = (len(text) - EXCERPT) // 2
    return "\n".join((text[:EXCERPT], text[middle : middle + EXCERPT], text[-EXCERPT:]))
