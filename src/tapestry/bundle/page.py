"""`index.html` of a bundle of evidence: one page, no scripts, nothing fetched. All words are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tapestry.bundle import look, statement
from tapestry.bundle.manifest import LEDGER, Listed
from tapestry.bundle.record import Own
from tapestry.bundle.statement import DataUse, Residency
from tapestry.bundle.summary import ASKED, TEMPLATE, Answer


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A contribution with what its owner says of it."""

    own: Own
    merged: bool
    use: DataUse
    place: Residency


@dataclass(frozen=True, kw_only=True)
class About:
    """What the page is about."""

    member: str
    node: str
    consortium: str
    made: str
    entries: int
    root: str
    contributions: Sequence[Shown]
    answers: Sequence[Answer]
    files: Mapping[str, Listed]


def page(about: About) -> bytes:
    """The whole document."""
    title = f"Evidence of node {about.node}"
    body = [
        f"<h1>{_e(title)}</h1>",
        f'<p class="lead">{_e(look.LEAD)}</p>',
        _facts(about),
        _boxes(),
        f"<h2>Check it yourself</h2><p>{_e(look.CHECK)}</p><pre>{_e(look.COMMANDS)}</pre>",
        "<h2>Contributions</h2>",
        _contributions(about.contributions),
        "<h2>Summary of training content (EU)</h2>",
        _summary(about.answers),
        "<h2>Files</h2>",
        _files(about.files),
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{look.POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{look.STYLE}</style></head>\n<body><main>\n"
    )
    return (head + "\n".join(body) + "\n</main></body></html>\n").encode()


def _e(text: object) -> str:
    return escape(str(text), quote=True)


def _link(path: str, words: str) -> str:
    return f'<a href="{_e(path)}">{_e(words)}</a>'


def _tag(kind: str, words: str) -> str:
    return f'<span class="tag {kind}">{_e(words)}</span>'


def _facts(about: About) -> str:
    rows = [
        ("Member", _e(about.member)),
        ("Node", _e(about.node)),
        ("Consortium", f"<code>{_e(about.consortium)}</code>"),
        ("Ledger", f"{_link(LEDGER, f'{about.entries:,} entries')}, root <code>{_e(about.root)}</code>"),
        ("Written", f"{_e(about.made)} by the node's clock"),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _boxes() -> str:
    boxes = []
    for kind, title, lines in look.BOXES:
        items = "".join(f"<li>{_e(line)}</li>" for line in lines)
        boxes.append(f'<div class="box {kind}"><h3>{_e(title)}</h3><ul>{items}</ul></div>')
    return f'<h2>What this shows</h2><div class="three">{"".join(boxes)}</div>'


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    told = "".join(rows)
    if not told:
        return "<p>None.</p>"
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(f"<th>{_e(head)}</th>" for head in heads)
        + f"</tr></thead><tbody>{told}</tbody></table></div>"
    )


def _contributions(every: Sequence[Shown]) -> str:
    heads = (
        "run, round",
        "recorded",
        "tokens",
        "in a merge",
        "data (asserted)",
        "rules",
        "where (asserted)",
        "papers",
    )
    return _table(heads, map(_contribution, every))


def _contribution(shown: Shown) -> str:
    said, digest, entry = shown.own.said, shown.own.digest, shown.own.entry
    data = "<br>".join(f"{_e(used.name)} <small>for {_e(used.stage)}</small>" for used in shown.use.datasets)
    airlock = _tag("word", f"airlock {shown.place.airlock or 'not said'}")
    papers = (
        _link(statement.path_of(digest, "data-use"), "data use"),
        _link(statement.path_of(digest, "residency"), "residency"),
        _link(f"proofs/{digest}.json", "proof"),
    )
    when = f"{_e(entry.at[:10])}<br><small>{_e(entry.at[11:19])} UTC, entry {entry.sequence:,}</small>"
    cells = (
        ("", f"{_e(said.run)}, {said.round}"),
        ("", when),
        ("n", f"{said.tokens:,}"),
        ("", _tag("yes", "yes") if shown.merged else _tag("no", "no")),
        ("w", data or _e(shown.use.lacking or "none named")),
        ("", _rules(shown)),
        ("", f"{_e(shown.place.residency or 'not said')}<br>{airlock}"),
        ("", "<br>".join(papers)),
    )
    return _row(cells)


def _rules(shown: Shown) -> str:
    """What the rules say of the data, in one word."""
    if shown.use.lacking is not None or not shown.use.datasets:
        return _tag("no", "not known")
    against = sorted({rule for used in shown.use.datasets for rule in used.decision.rules})
    return _tag("no", "refused: " + ", ".join(against)) if against else _tag("yes", "permitted")


def _row(cells: Iterable[tuple[str, str]]) -> str:
    """A row of a table: each cell its class, and HTML."""
    return "<tr>" + "".join(f'<td class="{kind}">{told}</td>' for kind, told in cells) + "</tr>"


def _summary(answers: Sequence[Answer]) -> str:
    asked = sum(answer.value is None for answer in answers)
    rows, before = [], ""
    for answer in answers:
        section, before = ("" if answer.section == before else answer.section), answer.section
        value = _tag("word", ASKED) if answer.value is None else _e(answer.value)
        note = f"<br><small>{_e(answer.note)}</small>" if answer.note else ""
        rows.append(_row((("w", _e(section)), ("", _e(answer.field)), ("", value + note))))
    files = f"{_link('summary.md', 'summary.md')}, {_link('summary.json', 'summary.json')}"
    return (
        f"<p>A draft after the {_e(TEMPLATE)}, from public fields of the node's cards; {asked} of "
        f"{len(answers)} fields are {_e(ASKED)}: {files}, to be copied out of this folder first.</p>"
        + _table(("section", "field", "answer"), rows)
    )


def _files(files: Mapping[str, Listed]) -> str:
    rows = (
        _row((("p", _link(path, path)), ("n", f"{each.bytes:,}"), ("", f"<code>{each.sha256[:16]}…</code>")))
        for path, each in sorted(files.items())
    )
    return _table(("file", "bytes", "SHA-256"), rows) + f"<p><small>{_e(look.HASHES)}</small></p>"
