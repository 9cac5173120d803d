"""The report as one page for people: no script, nothing fetched, light and dark. All words are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from tapestry.protocol.leakage import Interval
from tapestry.sovereign.evaluation import look
from tapestry.sovereign.evaluation.report import (
    LOWER_IS_BETTER,
    SHARES,
    EvaluationReport,
    Figure,
    Measure,
    Role,
)

WIDTH, HEIGHT = 150, 16
SHOWN = 0.0005
"""A smaller change is shown as zero, and called neither better nor worse."""


def page(report: EvaluationReport) -> bytes:
    """The whole document."""
    title = f"Evaluation of {report.subjects[0].name}"
    measures = list(dict.fromkeys(each.measure for each in report.figures))
    body = [
        f"<h1>{_e(title)}</h1>",
        f'<p class="lead">{_e(look.LEAD.format(100 * report.confidence))}</p>',
        _verdict(report),
        _overlaps(report),
        _subjects(report),
        *(_measure(report, measure) for measure in measures),
        _survey(report),
        _answers(report),
        _notes(report),
        _data(report),
        f'<p class="lead">Written {_e(report.at)} by Tapestry {_e(report.release)}; the same figures, for '
        "programs, "
        "are in report.json.</p>",
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{look.POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{look.STYLE}</style></head>\n<body><main>\n"
    )
    return (head + "\n".join(each for each in body if each) + "\n</main></body></html>\n").encode()


def _e(text: object) -> str:
    return escape(str(text), quote=True)


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(f"<th>{_e(head)}</th>" for head in heads)
        + f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _verdict(report: EvaluationReport) -> str:
    if report.gates is None:
        return '<p class="verdict none">No release gates were asked for.</p>'
    if not report.unmet:
        return '<p class="verdict met">All release gates are met.</p>'
    rows = (
        f"<tr><td>{_e(each.gate)}</td><td>{_e(each.part)}</td><td>{_e(each.wanted)}</td><td>{_e(each.got)}</td></tr>"
        for each in report.unmet
    )
    count = len(report.unmet)
    which = "1 release gate is" if count == 1 else f"{count} release gates are"
    said = f"{which} not met: this build is not to be released."
    return f'<p class="verdict unmet">{said}</p>' + _table(("gate", "of", "wanted", "got"), rows)


def _overlaps(report: EvaluationReport) -> str:
    """A warning, where it was trained on what it is evaluated with."""
    found = [each for each in report.overlaps if each.trained_on]
    if not found:
        return ""
    rows = (
        f'<tr><td>{_e(each.kind)}</td><td>{_e(each.name)}</td><td class="n">{each.trained_on:,} of '
        f"{each.documents:,}</td></tr>"
        for each in found
    )
    said = "This build was trained on some of what it is evaluated with: these figures are too good."
    return f'<p class="verdict unmet">{said}</p>' + _table(("", "of", "documents trained on"), rows)


def _subjects(report: EvaluationReport) -> str:
    rows = (
        f'<tr><td><span class="dot {each.role}"></span>{_e(look.ROLES[each.role])}</td>'
        f"<td>{_e(each.name)}</td>"
        f'<td class="n">{each.parameters:,}</td><td>{_e(each.model_type)}</td>'
        f"<td><code>{_e(each.weights[:16])}</code></td></tr>"
        for each in report.subjects
    )
    return "<h2>Models</h2>" + _table(("", "name", "parameters", "type", "weights (SHA-256)"), rows)


# -- figures ----------------------------------------------------------------------------------------------


def _measure(report: EvaluationReport, measure: Measure) -> str:
    roles = [each.role for each in report.subjects]
    figures = {(each.part, each.role): each for each in report.figures if each.measure == measure}
    changes = {(each.part, each.over): each.value for each in report.changes if each.measure == measure}
    parts = list(dict.fromkeys(part for part, _ in figures))
    others = [role for role in roles if role != "model"]
    scale = 1.0 if measure in SHARES else max(each.value.high for each in figures.values()) or 1.0
    what = look.MEASURES[measure]
    heads = [
        what.part,
        *(look.ROLES[role] for role in roles),
        *(f"against {look.SHORT[role]}" for role in others),
    ]
    rows = []
    for part in parts:
        cells = [f"<td>{_e(part or 'all')}<small>{_count(figures, part, what.unit)}</small></td>"]
        cells += [_cell(figures.get((part, role)), measure, role, scale) for role in roles]
        cells += [_change(changes.get((part, role)), measure) for role in others]
        rows.append("<tr>" + "".join(cells) + "</tr>")
    better = "Lower is better." if measure in LOWER_IS_BETTER else "Higher is better."
    return f"<h2>{_e(what.title)}</h2><p>{_e(what.told)} <em>{better}</em></p>" + _table(heads, rows)


def _count(figures: dict[tuple[str, Role], Figure], part: str, unit: str) -> str:
    found = next(each for (name, _), each in figures.items() if name == part)
    return f"{_e(unit)}: {found.count:,}" + (f", {found.of:,} bytes" if found.of != found.count else "")


def _cell(figure: Figure | None, measure: Measure, role: Role, scale: float) -> str:
    if figure is None:
        return "<td>-</td>"
    said = _value(figure.value.value, measure)
    low, high = (_value(each, measure) for each in (figure.value.low, figure.value.high))
    return f'<td class="n"><b>{said}</b><small>{low} to {high}</small>{_bar(figure.value, role, scale)}</td>'


def _bar(one: Interval, role: Role, scale: float) -> str:
    """A bar to the value, and a line over the interval."""

    def x(value: float) -> float:
        return round(WIDTH * min(max(value / scale, 0.0), 1.0), 1)

    middle = HEIGHT / 2
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{one.value:.4g}, {one.low:.4g} to {one.high:.4g}">'
        f'<rect class="back" x="0" y="4" width="{WIDTH}" height="8" rx="2"/>'
        f'<rect class="{role}" x="0" y="4" width="{x(one.value)}" height="8" rx="2"/>'
        f'<path class="reach" d="M{x(one.low)} {middle}H{x(one.high)}M{x(one.low)} 3V13M{x(one.high)} 3V13"/>'
        "</svg>"
    )


def _change(value: Interval | None, measure: Measure) -> str:
    if value is None:
        return "<td>-</td>"
    sign = -1 if measure in LOWER_IS_BETTER and measure != "bits-per-byte" else 1
    kind = "same"
    if abs(value.value) >= SHOWN and (sign * value.low > 0 or sign * value.high < 0):
        kind = "better" if sign * value.value > 0 else "worse"
    said, low, high = (_moved(each, measure) for each in (value.value, value.low, value.high))
    words = {"better": "better", "worse": "worse", "same": "no clear difference"}[kind]
    return (
        f'<td class="n"><b class="{kind}">{said}</b><small>{low} to {high}</small><small>{words}</small></td>'
    )


def _value(value: float, measure: Measure) -> str:
    return f"{100 * value:.1f} %" if measure in SHARES else f"{value:.3f}"


def _moved(value: float, measure: Measure) -> str:
    if measure == "bits-per-byte":
        return f"{100 * value:+.1f} %"
    return f"{100 * value:+.1f} points" if measure in SHARES else f"{value:+.3f}"


# -- survey -----------------------------------------------------------------------------------------------


def _survey(report: EvaluationReport) -> str:
    if not report.positions:
        return ""
    parts = ["<h2>Where the answers stand</h2>", f"<p>{_e(look.SURVEY)}</p>"]
    for scale in dict.fromkeys(each.scale for each in report.positions):
        rows = []
        for each in report.positions:
            if each.scale == scale:
                kind = "community" if each.community else each.who
                who = each.who if each.community else look.ROLES[each.who]  # type: ignore[index]
                place = f"{each.value.value:.2f} <small>{each.value.low:.2f} to {each.value.high:.2f}</small>"
                rows.append(
                    f'<tr><td><span class="dot {_e(kind)}"></span>{_e(who)}</td>'
                    f"<td>{_dot(each.value, kind)}</td>"
                    f'<td class="n">{place}</td></tr>'
                )
        parts.append(_table((scale, "lowest option to highest", "0 to 1"), rows))
    others = (
        f'<tr><td>{_e(each.who)}</td><td class="n">{each.value.value:.3f} '
        f"<small>{each.value.low:.3f} to {each.value.high:.3f}</small></td></tr>"
        for each in report.distances
    )
    parts += [f"<p>{_e(look.BESIDE)}</p>", _table(("answers of", "distance to the target"), others)]
    return "".join(parts)


def _dot(one: Interval, kind: str) -> str:
    width = 2 * WIDTH

    def x(value: float) -> float:
        return round(6 + (width - 12) * min(max(value, 0.0), 1.0), 1)

    return (
        f'<svg width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{one.value:.3f}"><path class="axis" d="M6 8H{width - 6}"/>'
        f'<path class="reach" d="M{x(one.low)} 8H{x(one.high)}M{x(one.low)} 4V12M{x(one.high)} 4V12"/>'
        f'<circle class="{_e(kind)}" cx="{x(one.value)}" cy="8" r="5"/></svg>'
    )


# -- the rest ---------------------------------------------------------------------------------------------


def _answers(report: EvaluationReport) -> str:
    if not report.answered:
        return ""
    rows = (
        f"<tr><td>{_e(each.measure)}<small>{_e(each.part)}</small></td><td class='p'>{_e(each.prompt)}</td>"
        f"<td class='p'>{_e(each.answer) or '<i>nothing</i>'}</td><td class='p'>{_e(each.said)}</td></tr>"
        for each in report.answered
    )
    return (
        f"<h2>Answers that broke something</h2><details><summary>{len(report.answered)} answers of the model"
        f"</summary>{_table(('', 'prompt', 'answer', 'what'), rows)}</details>"
    )


def _notes(report: EvaluationReport) -> str:
    own = list(report.notes)
    if report.isolation != "netns":
        own.append(look.NO_ISOLATION)
    if not own:
        return ""
    return "<h2>To be known</h2><ul>" + "".join(f"<li>{_e(each)}</li>" for each in own) + "</ul>"


def _data(report: EvaluationReport) -> str:
    if not report.data:
        return ""
    rows: Sequence[str] = [
        f"<tr><td>{_e(each.kind)}</td><td>{_e(each.name)}</td><td><code>{_e(each.sha256[:16])}</code></td>"
        f"<td>{f'<code>{_e(each.card[:16])}</code>' if each.card else '-'}</td></tr>"
        for each in report.data
    ]
    return "<h2>What the figures are over</h2>" + _table(("", "name", "SHA-256", "card"), rows)
