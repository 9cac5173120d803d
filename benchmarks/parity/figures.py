"""Plots: loss against bytes, and against tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.parity.compare import Comparison
from benchmarks.parity.methods import ALONE, METHODS
from benchmarks.parity.trials import mean

COLOURS: Final = (
    *("#202020", "#8a8a8a", "#2a6fbb", "#d2691e", "#2e8b57", "#8b3a8b", "#b8860b", "#c0392b"),
    *("#16a3a3", "#6b5b2a"),
)


def draw(one: Comparison, folder: Path) -> list[Path]:
    """Two pictures of a comparison, as PNG and as SVG; the files."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "parity"
    written = []
    for what, label, logarithmic in (
        ("bytes", "MB sent and received by a member", True),
        ("tokens", "million tokens over all members", False),
    ):
        figure = _figure(one, what, label, logarithmic)
        for ending in ("png", "svg"):
            path = folder / f"{one.setting}-{len(one.members)}-{one.setup}-{what}.{ending}"
            figure.savefig(path)
            written.append(path)
    return written


def _figure(one: Comparison, what: str, label: str, logarithmic: bool) -> Any:
    """The course of each winner; with bytes, a dot at the end of every other trial of the same length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    colours = dict(zip(METHODS, COLOURS * 3, strict=False))
    for row in one.rows:
        colour, curve = colours[row.method], row.winner["curve"]
        losses = [loss for _, _, loss in curve]
        name = f"{row.method} {mean(row.winner):.3f}"
        if what == "bytes" and row.method == ALONE:
            axes.axhline(losses[-1], color=colour, linestyle="--", linewidth=1.2, label=name)
            continue
        places = [(moved if what == "bytes" else tokens) / 1e6 for tokens, moved, _ in curve]
        axes.plot(places, losses, color=colour, marker="o", markersize=4, linewidth=1.8, label=name)
        if what == "bytes":
            others = [r for r in row.tuning if r["share"] == 1.0 and not r["diverged"]]
            moved = [(r["sent"] + r["received"]) / 1e6 for r in others]
            axes.scatter(moved, [mean(r) for r in others], color=colour, s=12, alpha=0.45, linewidths=0)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("bits per byte, mean over languages")
    axes.set_title(f"{one.setting}: {', '.join(one.members)}", fontsize=10)
    axes.grid(True, alpha=0.25, linewidth=0.6)
    if one.rows:
        axes.legend(fontsize=8, frameon=False)
    return figure
