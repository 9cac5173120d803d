"""Leakage reports in a release: each its node's word, signed with its key; `leakage.json` holds them all.

A draft carries the envelopes. Each holder opens them with the keys of its own ledger, and makes file and
section anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal

from pydantic import FailFast, Field

from tapestry.errors import ReleaseError, TapestryError
from tapestry.governance.state import Assembly
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import NODE_ONLY
from tapestry.protocol.canonical import Name
from tapestry.protocol.leakage import Exposure, Inference, Interval, LeakageReport
from tapestry.protocol.message import Message
from tapestry.release.view import Facts

MAX_REPORT_BYTES: Final = 1 << 20
"""In its envelope; a report of some hundred updates has less."""
MAX_REPORTS: Final = 1000


class Leakages(Message):
    """What nodes measured of one release's base and of updates that led to it."""

    format: Literal["tapestry.leakage-reports"] = "tapestry.leakage-reports"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = MAX_REPORTS * MAX_REPORT_BYTES

    release: Name
    reports: Annotated[tuple[LeakageReport, ...], FailFast(), Field(max_length=MAX_REPORTS)]
    """By node; each node once."""


def reports(lines: Iterable[bytes], facts: Facts, assembly: Assembly) -> Leakages:
    """What the envelopes of a draft hold, checked; none where the charter keeps scores to the members.

    Raises:
        ReleaseError: one that its node did not sign, of another run, of a member that contributed nothing,
            that says nothing of this base, or a second one of a node.
    """
    found: dict[str, LeakageReport] = {}
    for line in lines:
        said = _opened(line, facts, assembly)
        if said.node in found:
            raise ReleaseError(f"there are two leakage reports of node {said.node}")
        found[said.node] = said
    if len(found) > MAX_REPORTS:
        raise ReleaseError(f"a release has at most {MAX_REPORTS} leakage reports, not {len(found)}")
    if not _public(facts):
        found = {}
    return Leakages(release=facts.release, reports=tuple(report for _, report in sorted(found.items())))


def _opened(line: bytes, facts: Facts, assembly: Assembly) -> LeakageReport:
    try:
        envelope = Envelope.from_bytes(line)
        said = envelope.unverified(LeakageReport)
    except TapestryError as e:
        raise ReleaseError(
            f"a leakage report is none that a node has signed: {e.message}",
            hint="have its owner write it with: tapestry node leakage ./node --signed leakage.json",
        ) from e
    what = f"the leakage report of node {said.node}"
    key = assembly.ring.keys.get(envelope.signatures[0].keyid)
    own = key.certificate if key is not None else None
    if own is None or own.role not in NODE_ONLY or (own.member, own.node) != (said.member, said.node):
        raise ReleaseError(f"{what} is not signed by that node")
    envelope.open_as(LeakageReport, own.public_key)
    if said.run != facts.run:
        raise ReleaseError(f"{what} is of run {said.run}, the release of {facts.run}")
    if said.member not in {each.member for each in facts.parts}:
        raise ReleaseError(f"{what} is of a member that contributed nothing to this base")
    rows: tuple[Inference | Exposure, ...] = (*said.inference, *said.exposure)
    if not any(row.subject == "base" and row.target == facts.state for row in rows):
        raise ReleaseError(
            f"{what} says nothing of the base that is released, state {facts.state[:12]}",
            hint="measure once the node has that base: tapestry node leakage",
        )
    return said


def _public(facts: Facts) -> bool:
    return facts.charter.public.scores == "public"


def section(facts: Facts, found: Leakages) -> list[str]:
    """Of the model card."""
    head = ["## What it gives away of the text", ""]
    if not _public(facts):
        return [*head, "The charter keeps to the members what nodes measured, as it does scores.", ""]
    if not found.reports:
        return [*head, "No node has published a leakage report for this release.", ""]
    told = (
        "What nodes measured on their own text and state themselves; nobody else has seen it. Membership "
        "inference: part of the windows trained on that are found at the stated part of false alarms. "
        "Exposure: bits by which planted canaries stand out. A low figure is no proof that nothing leaks. "
        f"Updates are seen by the members only. All rows are in `{FILE}`."
    )
    names = ("node", "of", "found", "AUC", "exposure, bits (by chance)")
    lines = [*head, told, "", f"| {' | '.join(names)} |", "|---|---|---|---|---|"]
    for report in found.reports:
        lines += [f"| {' | '.join(row)} |" for row in _rows(report)]
    return [*lines, ""]


FILE: Final = "leakage.json"


def _rows(report: LeakageReport) -> Iterable[tuple[str, ...]]:
    names = {"base": "base", "own-update": "its own update", "other-update": "another's update (control)"}
    for each in report.inference:
        at = f" at {report.false_positives:.1%} false alarms"
        found = _figure(each.true_positives, 100, " %") + at
        what = f"{names[each.subject]}, round {each.round}"
        yield report.node, what, found, _figure(each.area), ""
    for row in report.exposure:
        told = f"{_figure(row.bits)} ({row.by_chance:.2f})"
        yield report.node, f"{names[row.subject]}, round {row.round}", "", "", told


def _figure(one: Interval, times: float = 1.0, unit: str = "") -> str:
    value, low, high = (f"{times * each:.2f}" for each in (one.value, one.low, one.high))
    return f"{value}{unit} ({low}–{high})"
