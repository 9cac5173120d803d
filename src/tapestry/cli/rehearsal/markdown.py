"""The report as Markdown."""

from __future__ import annotations

from tapestry.cli.output import human_seconds
from tapestry.cli.rehearsal import words
from tapestry.cli.rehearsal.telling import place, verdict
from tapestry.cli.rehearsal.told import Chapter, Report


def page(report: Report) -> str:
    """The whole document."""
    lines = [
        "# Rehearsal of a consortium",
        "",
        f"**{words.GOOD if report.passed else words.BAD}**",
        "",
        words.lead(report),
        "",
        f"Begun {report.began}, {human_seconds(report.seconds)}, {report.machine}, Tapestry {report.release}"
        f"{', in its quick form' if report.quick else ''}. Consortium `{report.consortium}`.",
        "",
        "| fault | outcome | checks |",
        "|---|---|---|",
    ]
    for chapter in report.chapters:
        held = sum(check.held for check in chapter.checks)
        lines.append(f"| {chapter.title} | {verdict(chapter)} | {held} of {len(chapter.checks)} |")
    lines += ["", "| | |", "|---|---|", *(f"| {each.name} | {each.value} |" for each in report.figures)]
    for number, chapter in enumerate(report.chapters, start=1):
        lines += _chapter(number, chapter)
    lines += ["", "## What this does not show", "", *(f"- {each}" for each in words.LIMITS), ""]
    return "\n".join(lines)


def _chapter(number: int, chapter: Chapter) -> list[str]:
    lines = ["", f"## {number}. {chapter.title}", ""]
    lines += [f"**What was done.** {chapter.fault}", "", f"**Expected.** {chapter.expected}", ""]
    lines += [f"- {each}" for each in chapter.done]
    lines += ["", "| | what had to be seen | what was seen |", "|---|---|---|"]
    for check in chapter.checks:
        seen = check.seen.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {'yes' if check.held else '**no**'} | {check.what} | {seen} |")
    if chapter.failure:
        lines += ["", f"**Broke off:** {chapter.failure}"]
    if chapter.records:
        lines += ["", "Recorded:", "", *(f"- {each.what}: {place(each)}" for each in chapter.records)]
    if chapter.look:
        lines += ["", "```sh", *(f"{each.command}    # {each.shows}" for each in chapter.look), "```"]
    return lines
