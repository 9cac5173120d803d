"""`tapestry phase`: whether what was pledged is enough to begin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import counted, emit_json, emit_line, emit_table, note, short
from tapestry.cli.proposal import CoreUrl

if TYPE_CHECKING:
    from tapestry.audit.file import Line

app = typer.Typer(help="Phases: what must be brought before a part of the work begins.", no_args_is_help=True)


@app.command()
def status(
    phase: Annotated[
        str | None, typer.Argument(metavar="PHASE", help="Name of the phase; all where it is left out.")
    ] = None,
    member: Annotated[
        Path | None, typer.Option("--member", metavar="FOLDER", help="Folder of the member; asks the core.")
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="A ledger file, a node's or core's folder or a mirror, which is verified; no core is asked.",
        ),
    ] = None,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """What a phase needs, and what was pledged, confirmed and delivered; go or no-go, with reasons.

    What was delivered is what the ledger shows; where it measures nothing the table says so.

    Examples: tapestry phase status pilot --member ./acme

    tapestry phase status --ledger ledger.jsonl
    """
    from tapestry.errors import InputError, NotFound

    if member is not None and ledger is None:
        phases, now = _asked(member, core)
    elif ledger is not None and member is None:
        phases, now = _verified(ledger)
    else:
        raise InputError("say where to look", hint="give --member FOLDER, or --ledger WHERE")
    found = [each for each in phases if phase in (None, each["phase"])]
    if phase is not None and not found:
        there = ", ".join(each["phase"] for each in phases) or "none"
        raise NotFound(
            f"the charter has no phase {phase} (it has: {there})",
            hint="phases stand in the charter: tapestry charter explain",
        )
    if as_json:
        emit_json({"now": now, "phases": found})
        return
    for each in found:
        _print(each)
    if not found:
        note("there is no charter in force with a phase; see: docs/guides/phases.md")


def _asked(member: Path, core: str | None) -> tuple[list[dict[str, Any]], str]:
    from tapestry.node.pledging import Pledging

    with Pledging(member, core) as council:
        _, answer = council.pledges()
    return answer["phases"], answer["now"]


def _verified(where: str) -> tuple[list[dict[str, Any]], str]:
    """From the ledger's bytes alone, as of its last entry."""
    from tapestry.audit.verify import Verifier
    from tapestry.cli.ledger import opened
    from tapestry.governance.delivered import NAMED, Delivered
    from tapestry.governance.phase_status import shown
    from tapestry.governance.thresholds import reckon
    from tapestry.identity.envelope import Envelope
    from tapestry.protocol import canonical
    from tapestry.protocol.messages import Contribution

    delivered, newest = Delivered(), [""]

    def seen(lines: Iterator[Line]) -> Iterator[Line]:
        blobs: dict[str, bytes] = {}
        for kind, value in lines:
            yield kind, value  # it holds where this goes on
            if kind == "blob":
                blobs[canonical.sha256(value)] = value
            elif kind == "entry":
                data = blobs.get(value.body["contribution"]) if value.type in NAMED else None
                said = Envelope.from_bytes(data).unverified(Contribution) if data is not None else None
                delivered.take(value, said)
                blobs, newest[0] = {}, value.at

    with opened(where, None) as (lines, _), counted("entries verified") as progress:
        verifier = Verifier(told=lambda count: progress(count, count + 1))
        verifier.take(seen(lines))
    now = newest[0]
    assembly = verifier.assembly
    charter = assembly.governance.charter
    phases = (charter.phases if charter is not None else None) or {}
    found = [
        shown(reckon(assembly, name, now), delivered.of(each.runs)) for name, each in sorted(phases.items())
    ]
    return found, now


def _print(each: dict[str, Any]) -> None:
    title = f" ({each['title']})" if each["title"] else ""
    emit_line(f"{each['phase']}{title}: {_verdict(each)}")
    for reason in each["missing"]:
        emit_line(f"  - {reason}")
    rows: list[tuple[Any, ...]] = []
    for resource in each["resources"]:
        for row in resource["members"]:
            cells = (row["pledged"], row["confirmed"], row["delivered"] or "not measured")
            rows.append((resource["resource"], row["member"], "", *cells))
        total = (resource["needed"], resource["pledged"], resource["confirmed"])
        met = "enough" if resource["met"] else "too little"
        rows.append((resource["resource"], f"all: {met}", *total, resource["delivered"] or "not measured"))
    emit_table(
        ("resource", "member", "needed", "pledged", "confirmed", "delivered"),
        rows,
        right=("needed", "pledged", "confirmed"),
    )
    if each["work"]:
        emit_table(
            ("member", "contributions", "tokens", "steps"),
            [
                (work["member"], work["contributions"], f"{work['tokens']:,}", f"{work['steps']:,}")
                for work in each["work"]
            ],
            right=("contributions", "tokens", "steps"),
        )
    note(_next(each))


def _verdict(each: dict[str, Any]) -> str:
    if each["open"] is not None:
        return f"open, by decision {short(each['open'])}" + ("" if each["go"] else "; below its thresholds")
    return "go" if each["go"] else "no-go"


def _next(each: dict[str, Any]) -> str:
    name, counts = each["phase"], each["counts"]
    if each["open"] is not None:
        return f"runs of phase {name} may start once their plans are ratified"
    if each["go"]:
        return f"next: tapestry proposal new open-phase --phase {name} --member FOLDER"
    way = f"; or {each['override']} of all votes open it as it is" if each["override"] else ""
    also = ", and what is pledged must be confirmed" if counts == "confirmed" else ""
    return f"members bring more with: tapestry pledge new RESOURCE AMOUNT --phase {name}{also}{way}"
