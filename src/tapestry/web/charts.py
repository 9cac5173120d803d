"""What is drawn of a run: series of numbers, the same for the chart, its table and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from tapestry.web.picture import thinned
from tapestry.web.source import Listing
from tapestry.web.story import Story

BY: Final = ("member", "language")
METRICS: Final = ("bytes", "tokens", "seconds", "busy")
DRAWN: Final = 400
DRAWN_MANY: Final = 160
"""Points of a line, where there are many."""
MANY: Final = 12
ROWS: Final = 16
"""Of the table under a chart; the CSV has all."""
UNSTATED: Final = "?"


@dataclass(frozen=True)
class Chart:
    """Lines over one axis; None where a line has no value there.

    Args:
        x: of all lines, ascending.
        lines: name and values of each.
    """

    x: tuple[float, ...]
    lines: tuple[tuple[str, tuple[float | None, ...]], ...]
    serial: int = field(default_factory=count().__next__, compare=False)
    """Stands for it where what was made of it is held."""

    def drawn(self) -> dict[str, Any]:
        """For the browser, as JSON; with few points."""
        rows = self.rows(DRAWN if len(self.lines) <= MANY else DRAWN_MANY)
        names = [name for name, _ in self.lines]
        columns = list(zip(*rows, strict=True)) if rows else [()] * (len(names) + 1)
        return {
            "x": [_short(value) for value in columns[0]],
            "lines": [
                {"name": name, "values": [_short(value) for value in column]}
                for name, column in zip(names, columns[1:], strict=True)
            ],
        }

    def rows(self, most: int) -> list[tuple[float | None, ...]]:
        """x and the value of each line."""
        every: list[Any] = list(zip(self.x, *(values for _, values in self.lines), strict=True))
        return list(thinned(every, most))

    def csv(self, x_name: str) -> str:
        """RFC 4180."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([x_name, *(cell(name) for name, _ in self.lines)])
        for row in zip(self.x, *(values for _, values in self.lines), strict=True):
            writer.writerow(["" if value is None else _short(value) for value in row])
        return text.getvalue()


def loss(story: Story, by: str, languages: Mapping[str, Sequence[str]]) -> Chart:
    """Bits per byte of the base over merges: by member, or by language, where each member's score counts for
    every language of its datasets by the bytes it was measured on."""
    scores: dict[str, dict[float, tuple[float, float]]] = {}
    for member, columns in list(story.scores.items()):  # grows meanwhile
        found = scores.setdefault(member, {})
        for merges, bits, size in columns.rows():
            before = found.get(merges, (0.0, 0.0))
            found[merges] = before[0] + bits * size, before[1] + size
    x = tuple(sorted({merges for each in scores.values() for merges in each}))
    groups: dict[str, list[str]] = {}
    for member in sorted(scores):
        for name in [member] if by == "member" else languages.get(member) or [UNSTATED]:
            groups.setdefault(name, []).append(member)
    lines = []
    for name in sorted(groups):
        values: list[float | None] = []
        of_group = [scores[member] for member in groups[name]]
        for merges in x:
            given = [each[merges] for each in of_group if merges in each]
            size = sum(each[1] for each in given)
            values.append(sum(each[0] for each in given) / size if size else None)
        lines.append((name, tuple(values)))
    return Chart(x, tuple(lines))


def rounds(story: Story, metric: str, own: str) -> Chart:
    """A figure of each round over merges. `own`: the name of its line."""
    rows = list(story.rounds.rows())
    x = tuple(row[1] for row in rows)
    if metric == "bytes":
        mine = tuple(row[7] or None for row in rows)
        return Chart(x, ((own, mine),))
    if metric == "tokens":
        return Chart(x, ((own, tuple(row[6] for row in rows)),))
    if metric == "seconds":
        return Chart(x, ((own, tuple((row[3] - row[2]) / 1000 for row in rows)),))
    busy = tuple(
        min(1.0, row[8] / ((row[3] - row[2]) * row[4])) if row[3] > row[2] and row[4] else None
        for row in rows
    )
    return Chart(x, ((own, busy),))


def languages_of(listings: Sequence[Listing] | None, *, insider: bool) -> dict[str, list[str]]:
    """Member → languages of the datasets that it shows: to the consortium, or to anybody."""
    found: dict[str, set[str]] = {}
    for each in listings or ():
        if not insider and "languages" not in each.public:
            continue
        found.setdefault(each.member, set()).update(each.card.languages or ())
    return {member: sorted(tags) for member, tags in found.items()}


def _short(value: float | None) -> float | int | None:
    """Six digits are more than a chart shows."""
    if value is None:
        return None
    return int(value) if value == int(value) else float(f"{value:.6g}")


def cell(name: str) -> str:
    """A name in a CSV. What a spreadsheet would take for a formula is none."""
    return "'" + name if name[:1] in "=+-@\t\r" else name
