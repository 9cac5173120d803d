"""`tapestry run recompute`: merges are repeated, and their states compared."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tapestry.cli.options import Json, RunName
from tapestry.cli.output import emit_json, emit_table, human_seconds, note, short

if TYPE_CHECKING:
    from tapestry.cli.recompute import Recomputed

EXIT_MISMATCH: Final = 3


def recompute(
    core: Annotated[Path | None, typer.Option("--core", metavar="HOME", help="Folder of the core.")] = None,
    node: Annotated[Path | None, typer.Option("--node", metavar="HOME", help="Folder of a node.")] = None,
    run: RunName = None,
    round_: Annotated[str, typer.Option("--round", metavar="N|all", help="One round, or all.")] = "all",
    threads: Annotated[int, typer.Option(min=1, max=64, help="Shards worked on at once.")] = 2,
    as_json: Json = False,
) -> None:
    """Repeat merges from the plan and the contributions, and compare the hash of each state.

    Ends with exit code 3 when one differs.

    Examples: tapestry run recompute --core ./core

    tapestry run recompute --node ./node --run first --round 3
    """
    from tapestry.cli import recompute as repeat
    from tapestry.cli import runhome
    from tapestry.errors import NotFound

    only = _round_number(round_)
    store, records, name, home = runhome.records_of(core, node, run)
    if only is not None and only not in {record.round for record in records}:
        raise NotFound(
            f"round {only} of run {name} is not committed, or not known here",
            hint="see which are: tapestry run status, or leave out --round",
        )
    found = repeat.recompute(store, records, scratch_parent=home, only=only, threads=threads, told=_tell)
    if as_json:
        emit_json({"run": name, "rounds": [asdict(one) for one in found]})
    else:
        emit_table(
            ("round", "contributions", "recorded", "computed", "", "seconds"),
            [
                (
                    r.round,
                    r.contributions,
                    short(r.recorded),
                    short(r.computed),
                    r.verdict,
                    f"{r.seconds:.2f}",
                )
                for r in found
            ],
            right=("round", "contributions", "seconds"),
        )
    if any(one.verdict == "differs" for one in found):
        note(f"a merge of run {name} does not come out as recorded; show this to the other members")
        raise typer.Exit(EXIT_MISMATCH)
    if not any(one.verdict == "same" for one in found):
        raise NotFound(
            f"no merge of run {name} could be repeated here", hint="its blobs or rounds are not here (yet)"
        )


def _tell(one: Recomputed) -> None:
    more = f": {one.note}" if one.note else ""
    note(f"round {one.round}: {one.verdict}, {human_seconds(one.seconds)}{more}")


def _round_number(text: str) -> int | None:
    from tapestry.errors import InputError

    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise InputError(
            f"--round {text!r} is neither a number from 1 on nor all", hint="write --round 3, or --round all"
        )
    return int(text)
