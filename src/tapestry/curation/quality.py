"""Is a document text at all? Rules of the kind of Gopher (arXiv:2112.11446) and FineWeb (arXiv:2406.17557).

None names a word of a language. Rules for words hold only where there are blanks between words; there are no
lists of stop words, and no rule that lines end in a full stop: verse, and scripts that have none, would fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tapestry.curation import settings
from tapestry.curation.letters import BLANK, DIGIT, MARK, SPACED, SYMBOL, UNSPACED, Document
from tapestry.curation.step import Look, Step

RUN: Final = 30
"""Letters of a run that should not come again and again."""
LINES: Final = 10
"""From so many on lines are judged: a page of a dialogue may end in dots three times of four."""
_ELLIPSIS: Final = ("...", "…", "……")
_BULLETS: Final = tuple("•●○◦‣▪■□*·・►▶")


class Quality(Step):
    """Leaves out what is too short, has too few letters, or repeats itself."""

    name = "quality"

    def __init__(self, given: settings.Quality) -> None:
        self._settings = given

    def look(self, document: Document) -> Look:
        return Look(why=next(self._faults(document), None))

    def _faults(self, document: Document) -> Iterator[str]:
        """Cheap rules first."""
        given, counts, letters = self._settings, document.counts, document.letter_count
        if letters < (given.min_letters_unspaced if document.unspaced else given.min_letters):
            yield "short"
        visible = int(counts.sum() - counts[BLANK])
        if letters < given.min_letter_share * visible:
            yield "few-letters"
        if counts[SYMBOL] > given.max_symbol_share * visible:
            yield "symbols"
        words = len(document.text.split())
        spaced = int(counts[[SPACED, MARK, DIGIT]].sum())
        if not document.unspaced and not counts[UNSPACED] and spaced > given.max_mean_word * words:
            yield "long-words"
        yield from self._line_faults(document)
        runs = document.runs(RUN)
        runs.sort()
        if (runs[1:] == runs[:-1]).sum() > given.max_repeated_text * len(runs):
            yield "repeated-text"

    def _line_faults(self, document: Document) -> Iterator[str]:
        lines = [line for each in document.text.splitlines() if (line := each.strip())]
        if len(lines) < LINES:
            return
        given, total = self._settings, sum(map(len, lines))
        distinct = sum(map(len, set(lines)))
        if total - distinct > given.max_repeated_lines * total:
            yield "repeated-lines"
        if sum(line.endswith(_ELLIPSIS) for line in lines) > given.max_ellipsis_lines * len(lines):
            yield "ellipses"
        if sum(line.startswith(_BULLETS) for line in lines) > given.max_bullet_lines * len(lines):
            yield "bullets"
