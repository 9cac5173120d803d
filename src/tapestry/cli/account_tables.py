"""The account as tables, CSV and JSON. Numbers are whole; a weight is in units of 2^-24."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Final

from tapestry.cli.output import emit_table, human_bytes, human_seconds
from tapestry.governance.accounting import NUMBERS, Account, Row, Sums
from tapestry.rounds.weights import UNIT

ALL: Final = ""
"""Run of the total."""
OF_ROW: Final = (
    "run", "round", "member", "expected", "accepted", "late", "merged", "weight", "tokens", "steps", "bytes",
    "unsized", "claimed_ms", "plausible_ms", "untimed", "refused",
)  # fmt: skip
OF_SUMS: Final = ("run", "member", "rounds_of_run", "merges_of_run", *NUMBERS, "refused")
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


def percent(part: Fraction) -> str:
    """For people."""
    return f"{float(part * 100):.2f} %"


def _refused(refused: dict[str, int]) -> str:
    return "; ".join(f"{why} {count}" for why, count in sorted(refused.items()))


def of_runs(account: Account, only: str | None) -> Table:
    """A row for each member and run; without `only` also for all runs together, whose `run` is empty."""
    return OF_SUMS, [
        (run, member, rounds, merges, *(getattr(sums, name) for name in NUMBERS), _refused(sums.refused))
        for run, member, rounds, merges, sums in _lines(account, only)
    ]


def of_rows(account: Account, rows: Iterable[Row]) -> Table:
    return OF_ROW, ([_cell(value) for value in _row(account, each).values()] for each in rows)


def _cell(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value


def _row(account: Account, row: Row) -> dict[str, Any]:
    known = {name: getattr(row, name) for name in OF_ROW if name != "plausible_ms"}
    known["plausible_ms"] = account.plausible(row)
    return {name: known[name] for name in OF_ROW}


def _lines(account: Account, only: str | None) -> list[tuple[str, str, int, int, Sums]]:
    runs = [each for each in account.runs.values() if only in (None, each.run)]
    found = [
        (each.run, member, each.rounds, each.merges, sums)
        for each in runs
        for member, sums in each.members.items()
    ]
    if only is None:
        rounds, merges = sum(each.rounds for each in runs), sum(each.merges for each in runs)
        found += [(ALL, member, rounds, merges, sums) for member, sums in account.total().items()]
    return found


def write_csv(table: Table) -> None:
    """On stdout: the names of the columns, then a line each (RFC 4180)."""
    columns, rows = table
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    sys.stdout.write(text.getvalue())
    sys.stdout.flush()


def as_json(
    account: Account, only: str | None, rows: Sequence[Row] | None, member: str | None = None
) -> dict[str, Any]:
    """`runs` with their members, `total`; `rounds` where rows are given. `member`: of one alone."""

    def mine(sums: dict[str, Sums]) -> dict[str, Any]:
        return {name: _sums(each) for name, each in sums.items() if member in (None, name)}

    runs = [
        {"run": each.run, "rounds": each.rounds, "merges": each.merges, "members": mine(each.members)}
        for each in account.runs.values()
        if only in (None, each.run)
    ]
    found: dict[str, Any] = {"weight_of_a_merge": UNIT, "runs": runs}
    if only is None:
        found["total"] = mine(account.total())
    if rows is not None:
        found["rounds"] = [_row(account, each) for each in rows]
    return found


def _sums(sums: Sums) -> dict[str, Any]:
    return {**{name: getattr(sums, name) for name in NUMBERS}, "refused": dict(sorted(sums.refused.items()))}


def show_runs(account: Account, only: str | None) -> None:
    """For people."""
    columns = (
        "run", "member", "rounds", "expected", "merged", "weight", "tokens", "steps", "time told",
        "plausible", "bytes", "refused",
    )  # fmt: skip
    emit_table(
        columns,
        [
            (
                run or "all",
                member,
                sums.rounds,
                sums.expected,
                sums.merged,
                percent(Fraction(sums.weight, UNIT * merges)) if merges else "-",
                f"{sums.tokens:,}",
                f"{sums.steps:,}",
                human_seconds(sums.claimed_ms / 1000) if sums.claimed_ms else "-",
                human_seconds(sums.plausible_ms / 1000) if sums.claimed_ms else "-",
                human_bytes(sums.bytes) if sums.bytes else "-",
                _refused(sums.refused) or "-",
            )
            for run, member, _, merges, sums in _lines(account, only)
        ],
        right=columns[2:-1],
    )


def _accepted(row: Row) -> str:
    if not row.accepted:
        return "none" if row.expected else "-"
    return f"{row.accepted}{' late' if row.late else ''}"


def show_rows(account: Account, rows: Iterable[Row]) -> None:
    """For people."""
    columns = (
        "run", "round", "member", "accepted", "weight", "tokens", "steps", "time told", "plausible", "bytes",
        "refused",
    )  # fmt: skip
    emit_table(
        columns,
        [
            (
                row.run,
                row.round,
                row.member,
                _accepted(row),
                percent(Fraction(row.weight, UNIT)),
                f"{row.tokens:,}",
                f"{row.steps:,}",
                human_seconds(row.claimed_ms / 1000) if row.claimed_ms else "-",
                human_seconds(account.plausible(row) / 1000) if row.claimed_ms else "-",
                human_bytes(row.bytes) if row.bytes else "-",
                ", ".join(row.refused) or "-",
            )
            for row in rows
        ],
        right=("round", *columns[3:-1]),
    )
