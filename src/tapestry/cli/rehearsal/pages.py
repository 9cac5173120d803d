"""The report in three forms: for programs, for people at a terminal, for a board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tapestry.cli.output import console, human_seconds
from tapestry.cli.rehearsal import markdown, page
from tapestry.cli.rehearsal.telling import good, verdict
from tapestry.host import files

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.told import Report

JSON: Final = "report.json"
HTML: Final = "report.html"
MARKDOWN: Final = "report.md"


def write(report: Report, out: Path) -> None:
    """All of them below `out`."""
    text = json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    files.write_atomic(out / JSON, text.encode())
    files.write_atomic(out / HTML, page.page(report).encode())
    files.write_atomic(out / MARKDOWN, markdown.page(report).encode())


def print_report(report: Report, out: Path) -> None:
    """The end of it, for people, on stdout."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("fault")
    table.add_column("outcome", no_wrap=True)
    table.add_column("checks", justify="right", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    for chapter in report.chapters:
        held = sum(check.held for check in chapter.checks)
        table.add_row(
            chapter.title,
            Text(verdict(chapter), style="green" if good(chapter) else "bold red"),
            f"{held}/{len(chapter.checks)}",
            human_seconds(chapter.ended_s - chapter.began_s),
        )
    shown.print()
    shown.print(table)
    for name, file in (("for a board", HTML), ("as text", MARKDOWN), ("for programs", JSON)):
        shown.print(f"{name:<13} {out / file}", markup=False, soft_wrap=True)
    shown.print(f"{'kept':<13} {out}: every command in the report works there", markup=False, soft_wrap=True)
