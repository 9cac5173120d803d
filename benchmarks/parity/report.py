"""The comparison as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from benchmarks.parity.compare import Comparison, Row
from benchmarks.parity.methods import ALONE, METHODS, Knobs
from benchmarks.parity.trials import Record, mean

NOT_SHOWN: Final = (
    "Other sizes of model, more text, other languages, members of unequal speed or with unequal text.",
    "Knobs are chosen on the valid text that the scores are of, for every method alike.",
    "Bytes are counted from the blobs, not measured on a network: no signed messages, no HTTP.",
    "Time: members train one after the other in one process.",
)


def text(comparisons: Sequence[Comparison]) -> str:
    """The whole report."""
    now = datetime.now(UTC)
    hardware = sorted({record["hardware"] for one in comparisons for record in one.records})
    head = [
        "# Loss against bytes: one member a language",
        "\n".join([f"- date: {now:%Y-%m-%d %H:%M} UTC", *(f"- hardware: {each}" for each in hardware)])
        + "\n- intervals: 95 %, Student's t, differences seed by seed; none where there is one seed"
        + "\n- MB = 10^6 bytes, sent plus received by one member, the initial base included",
    ]
    if not comparisons:
        head.append("No trial is finished.")
    parts = [_comparison(one) for one in comparisons]
    end = "## What this does not show\n\n" + "\n".join(f"- {line}" for line in NOT_SHOWN)
    return "\n\n".join([*head, *parts, end]) + "\n"


def _comparison(one: Comparison) -> str:
    first = one.records[0]
    longest = max(one.records, key=lambda record: record["tokens"])
    parts = [
        f"## Setting {one.setting}: {', '.join(one.members)}",
        f"{first['parameters']:,} parameters, {longest['tokens']:,} tokens over all members.",
        table(
            [
                "method",
                "trials",
                "chosen",
                "seeds",
                "bits per byte",
                "to synchronous",
                "in %",
                "MB",
                "fewer",
                "MB, fetching",
            ],
            [_row(row) for row in one.rows],
        ),
        "\n".join(f"- {row.method}: {METHODS[row.method].about}" for row in one.rows),
        "MB: members repeat each merge. Fetching: they get the merged base instead. Fewer: how many times "
        "fewer bytes than ring all-reduce at the batch that won.",
        "### By language",
        table(
            ["method", *one.members],
            [[row.method, *(row.language(name).text(3) for name in one.members)] for row in one.rows],
        ),
    ]
    parts += [
        f"`{ALONE}` is each member's own model on its own text; these models on everybody's text: "
        f"{row.on_all:.3f}."
        for row in one.rows
        if row.on_all is not None
    ]
    if rows := _by_length(one):
        share = one.rows[0].tuning[0]["share"]
        parts += [
            "### By steps a round",
            f"Of the trials that chose the knobs, with {share:.0%} of the tokens.",
            table(["method", "H", "best", "bits per byte", "MB"], rows),
        ]
    if doubts := one.doubts():
        parts += ["### To keep in mind", "\n".join(f"- {doubt}" for doubt in doubts)]
    return "\n\n".join(parts)


def _row(row: Row) -> list[str]:
    silent = row.method == ALONE
    return [
        row.method,
        str(len(row.tuning)),
        Knobs(**row.winner["knobs"]).describe(),
        str(len(row.finals)),
        row.bits_per_byte.text(4),
        row.difference.text(4, sign=True) if row.difference else "",
        row.percent.text(2, sign=True) if row.percent else "",
        _megabytes(row.total),
        f"{row.fewer:,.1f}×" if row.fewer and not silent else "",
        _megabytes(row.fetching) if METHODS[row.method].kind == "rounds" else "",
    ]


def _by_length(one: Comparison) -> list[list[str]]:
    """Of each method the best trial of the tuning at each length of a round."""
    found = []
    for row in one.rows:
        lengths = sorted({r["knobs"]["steps"] for r in row.tuning if r["knobs"]["steps"] is not None})
        for length in lengths:
            best: Record = min((r for r in row.tuning if r["knobs"]["steps"] == length), key=mean)
            if best["diverged"]:
                continue
            moved = _megabytes(best["sent"] + best["received"])
            knobs = Knobs(**best["knobs"]).describe()
            found.append([row.method, str(length), knobs, f"{mean(best):.4f}", moved])
    return found


def _megabytes(size: float) -> str:
    """Three digits at least."""
    value = size / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *rows])
