"""Merges over time with the faults behind them, as SVG."""

from __future__ import annotations

from typing import Final

from tapestry.cli.rehearsal.telling import good
from tapestry.cli.rehearsal.told import Report

WIDTH: Final = 940
HEIGHT: Final = 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 34
TICKS: Final = 5


def draw(report: Report) -> str:
    """One picture; numbers above the bands are those of the chapters."""
    end = max([report.seconds, *(at for at, _ in report.merges)], default=1.0) or 1.0
    most = max((count for _, count in report.merges), default=1) or 1
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(seconds: float) -> float:
        return round(LEFT + (right - LEFT) * seconds / end, 1)

    def y(count: float) -> float:
        return round(floor - (floor - TOP) * count / most, 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Merges over time">']
    for number, chapter in enumerate(report.chapters, start=1):
        left, wide = x(chapter.began_s), x(chapter.ended_s) - x(chapter.began_s)
        kind = "band" if good(chapter) else "band no"
        parts.append(
            f'<rect class="{kind}" x="{left + 1}" y="{TOP}" width="{max(1.0, wide - 2):.1f}" '
            f'height="{floor - TOP}" rx="3"/>'
            f'<text class="num" x="{left + wide / 2:.1f}" y="{TOP - 9}" text-anchor="middle">{number}</text>'
        )
    for count in _ticks(most):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(count)}" y2="{y(count)}"/>'
            f'<text x="{LEFT - 8}" y="{y(count) + 4}" text-anchor="end">{count}</text>'
        )
    for seconds in _ticks(end):
        anchor = "middle" if seconds else "start"
        parts.append(f'<text x="{x(seconds)}" y="{floor + 18}" text-anchor="{anchor}">{seconds:g} s</text>')
    first = x(report.chapters[0].began_s) if report.chapters else 0.0
    if first - LEFT > 90:
        parts.append(f'<text x="{(LEFT + first) / 2:.0f}" y="{TOP - 9}" text-anchor="middle">set-up</text>')
    path, last = f"M{x(0)} {y(0)}", 0
    for at, count in report.merges:
        path += f"L{x(at)} {y(last)}L{x(at)} {y(count)}"
        last = count
    parts.append(f'<path class="curve" d="{path}L{x(end)} {y(last)}"/></svg>')
    return "".join(parts)


def _ticks(most: float) -> list[int]:
    """Round numbers from 0 on."""
    step = next(
        (s for k in range(7) for s in (10**k, 2 * 10**k, 5 * 10**k) if most / s <= TICKS), int(most) or 1
    )
    return list(range(0, int(most) + 1, step))
