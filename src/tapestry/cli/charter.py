"""`tapestry charter`: the rules of a consortium, checked and put into words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_table, note

if TYPE_CHECKING:
    from tapestry.governance.capture import Capture, Power
    from tapestry.governance.charter import Charter
    from tapestry.governance.contradictions import Fault
    from tapestry.governance.takeover import Takeover

app = typer.Typer(help="The charter: rules of a consortium in one file.", no_args_is_help=True)

MAX_WIDTH = 100
CharterFile = Annotated[Path, typer.Argument(metavar="FILE", help="Charter file (TOML).")]


@app.command()
def check(file: CharterFile, as_json: Json = False) -> None:
    """Whether a charter holds together, and which member, or which two, could force or block what.

    Refused are contradictions, thresholds that cannot be reached, and rules that give one member control
    alone; each with the way out. What is printed first is the charter's digest, by which the ledger names it.

    Example: tapestry charter check examples/charter-5.toml
    """
    from tapestry.cli.charterfile import load, place_of
    from tapestry.errors import CharterError
    from tapestry.governance import capture
    from tapestry.governance.prose import together
    from tapestry.governance.takeover import takeover

    charter = load(file)
    captures = capture.check(charter)
    refused = capture.refusals(charter, captures)
    if as_json:
        emit_json(_as_json(charter, captures, refused))
    else:
        _print(charter, captures)
    if refused:
        # A usual rule that is refused is so for many kinds of decision: one line for all of them.
        alike: dict[tuple[str, str], list[Fault]] = {}
        for fault in refused:
            alike.setdefault((place_of(file, fault.where), fault.way_out), []).append(fault)
        said = [
            (f"{place}: {each[0].where}: {each[0].rule}{_and_more(each)}", way_out)
            for (place, way_out), each in alike.items()
        ]
        for message, way_out in said[1:] if not as_json else ():
            note(f"also: {message}; {way_out}")
        raise CharterError(said[0][0], hint=said[0][1])
    if not as_json:
        note(together(takeover(charter)))
        note(f"no member controls anything alone; in words: tapestry charter explain {file}")


@app.command()
def explain(file: CharterFile, as_json: Json = False) -> None:
    """A charter in plain sentences, with its numbers worked out for the members it names.

    Example: tapestry charter explain examples/charter-5.toml
    """
    from tapestry.cli.charterfile import load
    from tapestry.governance import capture, prose

    charter = load(file)
    captures = capture.check(charter)
    sections = prose.sections(charter, captures)
    refused = capture.refusals(charter, captures)
    if as_json:
        emit_json(
            {
                "charter": charter.digest,
                "title": charter.title,
                "revision": charter.revision,
                "sections": [{"title": each.title, "lines": list(each.lines)} for each in sections],
                "refused": [_fault(each) for each in refused],
            }
        )
        return
    _tell(f"{charter.title or 'Charter'} (revision {charter.revision})", [])
    for each in sections:
        _tell(each.title, list(each.lines))
    for fault in refused:
        note(f"refused: {fault.where}: {fault.rule}; {fault.way_out}")


@app.command()
def sign(
    file: CharterFile,
    member: Annotated[Path, typer.Option("--member", metavar="FOLDER", help="Folder of the member.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the signature is written.")],
    as_json: Json = False,
) -> None:
    """Sign a consortium's first charter with the member's vote key. Send what is written to the operator.

    Example: tapestry charter sign charter.toml --member ./acme --out acme.json
    """
    from tapestry.cli.charterfile import load
    from tapestry.governance.machine import check_charter
    from tapestry.host import files
    from tapestry.node.council import Council

    charter = load(file)
    check_charter(charter)
    with Council(member) as council:
        envelope = council.sign_charter(charter)
        files.write_atomic(out, envelope.to_bytes() + b"\n")
        told = {"member": council.name, "charter": charter.digest, "file": str(out)}
    if as_json:
        emit_json(told)
        return
    emit_line(charter.digest)
    note(f"{told['member']} signs this charter in {out}; the operator needs it for: tapestry charter adopt")


@app.command()
def adopt(
    file: CharterFile,
    core: Annotated[Path, typer.Option("--core", metavar="HOME", help="Folder of the core.")],
    signature: Annotated[
        list[Path], typer.Option(metavar="FILE", help="What a member has signed; once for each member.")
    ],
    as_json: Json = False,
) -> None:
    """Give a consortium its first charter, which all its members have signed. From then on they decide.

    Plans need a vote before they start, and new members before they are invited. The charter itself changes
    by votes alone.

    Example: tapestry charter adopt charter.toml --core ./core --signature acme.json --signature birch.json
    """
    from tapestry.cli.charterfile import load
    from tapestry.core import operator
    from tapestry.node.council import signatures

    charter = load(file)
    operator.adopt(core, charter, signatures(signature))
    if as_json:
        emit_json({"charter": charter.digest, "members": sorted(charter.members)})
        return
    emit_line(charter.digest)
    note(f"the charter is in force for {len(charter.members)} members; see: tapestry proposal new --help")


def _tell(title: str, lines: list[str]) -> None:
    """A heading, and a wrapped bullet for each line."""
    import textwrap

    from rich.text import Text

    from tapestry.cli.output import console

    out = console()
    width = min(out.width, MAX_WIDTH)
    out.print(Text(title, style="bold"), soft_wrap=True)
    for line in lines:
        emit_line(textwrap.fill(line, width, initial_indent="  - ", subsequent_indent="    "))
    emit_line("")


def _print(charter: Charter, captures: list[Capture]) -> None:
    from tapestry.governance.capture import overrides
    from tapestry.governance.prose import TITLES, people

    voters = charter.voters

    def who(power: Power) -> str | None:
        found = [people(power, size, voters) for size in (1, 2) if power.names(size)]
        return "; ".join(found) or None

    emit_line(charter.digest)
    emit_table(
        ("decision", "vote", "to pass", "to stop", "could force", "when few vote", "could block"),
        (
            (
                TITLES[each.kind],
                each.electors,
                each.to_pass,
                each.to_stop,
                who(each.forces),
                who(each.forces_few),
                (who(each.blocks) or "-") + (" (two are left)" if each.unavoidable else ""),
            )
            for each in captures
        ),
        right=("vote", "to pass", "to stop"),
    )
    if found := overrides(charter):
        emit_table(
            ("phase below its thresholds", "to pass", "could force", "could block"),
            ((each.phase, each.to_pass, who(each.forces), who(each.blocks)) for each in found),
            right=("to pass",),
        )


def _and_more(faults: list[Fault]) -> str:
    return f" (and {len(faults) - 1} more kinds of decision)" if len(faults) > 1 else ""


def _fault(fault: Fault) -> dict[str, str]:
    return {"where": fault.where, "rule": fault.rule, "way_out": fault.way_out}


def _takeover(found: Takeover) -> dict[str, Any]:
    return {
        "directly": found.directly,
        "after_removing_others": found.after,
        "removed": found.removed,
        "by": list(found.by),
        "exact": found.exact,
    }


def _as_json(charter: Charter, captures: list[Capture], refused: list[Fault]) -> dict[str, Any]:
    from tapestry.governance.capture import overrides
    from tapestry.governance.takeover import takeover

    def power(found: Power) -> dict[str, Any]:
        return {"one": [each[0] for each in found.names(1)], "two": found.names(2)}

    return {
        "charter": charter.digest,
        "title": charter.title,
        "accepted": not refused,
        "refused": [_fault(each) for each in refused],
        "members": len(charter.members),
        "voters": len(charter.voters),
        "to_change_charter": _takeover(takeover(charter)),
        "decisions": [
            {
                "kind": each.kind,
                "electors": each.electors,
                "to_pass": each.to_pass,
                "to_stop": each.to_stop,
                "force": power(each.forces),
                "force_when_few_vote": power(each.forces_few),
                "block": power(each.blocks),
                "block_when_few_vote": power(each.blocks_few),
                "unavoidable": each.unavoidable,
                "exact": each.exact,
            }
            for each in captures
        ],
        "overrides": [
            {
                "phase": each.phase,
                "to_pass": each.to_pass,
                "force": power(each.forces),
                "block": power(each.blocks),
            }
            for each in overrides(charter)
        ],
    }
