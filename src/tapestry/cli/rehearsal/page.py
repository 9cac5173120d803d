"""The report as one HTML page for a board: no scripts, nothing fetched, all words escaped."""

from __future__ import annotations

from html import escape

from tapestry.cli.output import human_seconds
from tapestry.cli.rehearsal import style, timeline, words
from tapestry.cli.rehearsal.telling import good, verdict
from tapestry.cli.rehearsal.told import Chapter, Check, Member, Report

YES = (
    '<svg width="26" height="26" viewBox="0 0 26 26" aria-hidden="true"><circle cx="13" cy="13" r="12" '
    'fill="none" stroke="currentColor" stroke-width="2"/><path d="M7.5 13.5l4 4 7-8.5" fill="none" '
    'stroke="currentColor" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)
NO = (
    '<svg width="26" height="26" viewBox="0 0 26 26" aria-hidden="true"><circle cx="13" cy="13" r="12" '
    'fill="none" stroke="currentColor" stroke-width="2"/><path d="M8.5 8.5l9 9m0-9l-9 9" fill="none" '
    'stroke="currentColor" stroke-width="2.4" stroke-linecap="round"/></svg>'
)


def page(report: Report) -> str:
    """The whole document."""
    title = "Rehearsal of a consortium"
    passed = report.passed
    body = [
        f'<p class="kicker">{_e(_when(report))}</p>',
        f"<h1>{_e(title)}</h1>",
        f'<p class="lead">{_e(words.lead(report))}</p>',
        f'<div class="verdict{"" if passed else " no"}">{YES if passed else NO}'
        f"<span>{_e(words.GOOD if passed else words.BAD)}</span></div>",
        _outline(report),
        f"<figure>{timeline.draw(report)}<figcaption>Merges of the shared model over time. Each shaded "
        "band is one of the faults above, by its number: where the curve rests, the "
        "consortium waited.</figcaption></figure>",
        _facts(report),
        f"<p>{_e(words.CHECKED)}</p>",
        *(_chapter(number, chapter) for number, chapter in enumerate(report.chapters, start=1)),
        _people(report.members),
        _limits(),
        f"<footer>Consortium <code>{_e(report.consortium)}</code>. Written by <code>tapestry "
        f"rehearse</code>, "
        f"release {_e(report.release)}, on {_e(report.machine)}. The same as data: report.json.</footer>",
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{style.POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{style.STYLE}</style></head>\n<body><main>\n"
    )
    return head + "\n".join(body) + "\n</main></body></html>\n"


def _e(text: object) -> str:
    return escape(str(text), quote=True)


def _when(report: Report) -> str:
    day, _, rest = report.began.partition("T")
    quick = ", in its quick form" if report.quick else ""
    return f"{day}, {rest[:5]} UTC · {human_seconds(report.seconds)} · Tapestry {report.release}{quick}"


def _outcome(chapter: Chapter) -> tuple[bool, str]:
    """Whether it is good, and in words: what is not stands out."""
    said = verdict(chapter)
    return good(chapter), said if "NOT" in said else said.lower()


def _outline(report: Report) -> str:
    rows = []
    for number, chapter in enumerate(report.chapters, start=1):
        well, said = _outcome(chapter)
        held = sum(check.held for check in chapter.checks)
        rows.append(
            f'<tr><td>{number}</td><td><a href="#{_e(chapter.key)}">{_e(chapter.title)}</a></td>'
            f'<td class="mark{"" if well else " no"}">{_e(said)}</td>'
            f'<td class="n">{held} of {len(chapter.checks)}</td>'
            f'<td class="n">{human_seconds(chapter.ended_s - chapter.began_s)}</td></tr>'
        )
    return (
        '<table class="outline"><thead><tr><th></th><th>What went wrong</th><th>Outcome</th>'
        '<th class="n">Checks</th><th class="n">Took</th></tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table>"
    )


def _facts(report: Report) -> str:
    items = (f"<li><b>{_e(each.value)}</b><span>{_e(each.name)}</span></li>" for each in report.figures)
    return f'<ul class="facts">{"".join(items)}</ul>'


def _chapter(number: int, chapter: Chapter) -> str:
    well, said = _outcome(chapter)
    parts = [
        f'<section id="{_e(chapter.key)}"><header><h2><span class="no-of">{number}</span> '
        f"{_e(chapter.title)}</h2>"
        f'<span class="pill{"" if well else " no"}">{_e(said)}</span></header>',
        f'<div class="two"><div><h3>What we did</h3><p>{_e(chapter.fault)}</p></div>'
        f"<div><h3>What should happen</h3><p>{_e(chapter.expected)}</p></div></div>",
    ]
    for kind, heading in (("detected", "Was it noticed?"), ("recovered", "Was anything lost?")):
        own = [check for check in chapter.checks if check.kind == kind]
        if own:
            parts.append(f'<h3>{heading}</h3><ul class="checks">{"".join(map(_check, own))}</ul>')
    if chapter.failure:
        parts.append(f'<p class="fail">Broke off: {_e(chapter.failure)}</p>')
    if chapter.done:
        done = "".join(f"<li>{_e(each)}</li>" for each in chapter.done)
        parts.append(f'<h3>Step by step</h3><ol class="did">{done}</ol>')
    parts += [_records(chapter), _look(chapter), "</section>"]
    return "".join(parts)


def _check(check: Check) -> str:
    tick = '<span class="tick">✓</span>' if check.held else '<span class="tick no">✗</span>'
    return f'<li>{tick}<span>{_e(_upper(check.what))}<span class="seen">{_e(check.seen)}</span></span></li>'


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _records(chapter: Chapter) -> str:
    if not chapter.records:
        return ""
    rows = []
    for each in chapter.records:
        entry = "" if each.entry is None else f"ledger entry {each.entry:,} · "
        rows.append(f"<tr><td>{_e(_upper(each.what))}</td><td>{entry}<code>{_e(each.where)}</code></td></tr>")
    return f'<h3>Where it is recorded</h3><table class="rec">{"".join(rows)}</table>'


def _look(chapter: Chapter) -> str:
    if not chapter.look:
        return ""
    pairs = "".join(f"<dt><code>{_e(e.command)}</code></dt><dd>{_e(e.shows)}</dd>" for e in chapter.look)
    return f'<h3>Look for yourself</h3><dl class="look">{pairs}</dl>'


def _people(members: tuple[Member, ...]) -> str:
    rows = "".join(
        f"<tr><td>{_e(each.name)}</td><td>{_e(each.about)}</td><td>{_e(each.part)}</td>"
        f'<td class="n">{each.merged}</td><td class="n">{_bits(each)}</td></tr>'
        for each in members
    )
    return (
        "<section><h2>Who took part</h2><p>Each trained on a part of Python's standard library, which stayed "
        'with its node.</p><table class="people"><thead><tr><th>member</th><th>its text</th><th>in this '
        'story</th><th class="n">updates merged</th><th class="n">bits per byte</th></tr></thead>'
        f"<tbody>{rows}</tbody></table><p class='seen'>Bits per byte of the shared model on the member's own "
        "held-out text, from its first score to its last; lower is better.</p></section>"
    )


def _bits(member: Member) -> str:
    if member.start is None or member.end is None:
        return "–"
    return f"{member.start:.2f} → {member.end:.2f}"


def _limits() -> str:
    items = "".join(f"<li>{_e(each)}</li>" for each in words.LIMITS)
    return (
        f"<section><h2>What this does not show</h2><ul>{items}</ul>"
        f"<h3>The commands above</h3><p>{_e(words.COMMANDS)}</p></section>"
    )
