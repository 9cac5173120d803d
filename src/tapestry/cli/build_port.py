"""`tapestry build port`, `rebase` and `gain`: onto the next base, and what is left of the gain there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.build_export import Finished
from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, note, short

if TYPE_CHECKING:
    from tapestry.sovereign.port.gain import Gain
    from tapestry.sovereign.port.measured import Text

NewBase = Annotated[Path, typer.Option("--to", metavar="BASE", help="Directory of the new base.")]


def port(
    folder: Finished,
    to: NewBase,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to make; DIR-ported if left out.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--from", metavar="BASE", help="The base it stands on; its recipe's if left out."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Port the merged weights, also of a derivative with an adapter.")
    ] = False,
    heal: Annotated[
        int, typer.Option(metavar="STEPS", help="Then train so many steps of the recipe's first stage.")
    ] = 0,
    fit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LANGUAGE=FILE",
            help="Your own text, not the one of --text, by which one factor for the change is chosen. "
            "Repeatable.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LANGUAGE=FILE", help="Held-out text to score with, .txt or .jsonl. Repeatable."
        ),
    ] = None,
    rebuilt: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The same recipe run on the new base, to compare with on --text."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Carry a derivative onto another base: new = new base + (derivative − old base), without training.

    Weights or an adapter, also where the new base has more tokens. Owner and lineage go along. With --fit,
    what the derivative changed is added as many times, 0.25 to 2, as is best on that text. With --text
    it says in bits per byte whether it is better than the new base and than it was before; with --rebuilt,
    what part of starting over that is.

    Example: tapestry build port ./hsb --to ./base-2 --out ./hsb-2 --text hsb=./held-out.jsonl
    """
    from tapestry.cli import build_port_work as work
    from tapestry.errors import InputError
    from tapestry.sovereign.port import carry

    if heal < 0 or heal > 100_000:
        raise InputError(
            f"--heal {heal} is not a number of steps from 0 to 100000",
            hint="a few hundred heal what a port lost; 0 trains nothing",
        )
    if rebuilt is not None and not text:
        raise InputError("--rebuilt needs text to score with", hint="give --text LANGUAGE=FILE")
    texts, fits = _texts(text), _texts(fit)
    work.require_other(fits, texts)
    source = carry.Source.open(folder, full=full)
    place = out if out is not None else folder.absolute().with_name(f"{folder.absolute().name}-ported")
    old = work.old_base(source, base)
    now_ms = time.time_ns() // 1_000_000
    factor = work.fitted(source, to, place, old, now_ms, fits) if fits else 1.0
    made = carry.port(source, to, place, old=old, now_ms=now_ms, factor=factor)
    if heal:
        made = work.heal(source, made, to, heal)
    gains = _measured(texts, to, made.home.model, rebuilt, source.model)
    if as_json:
        emit_json(work.told(made, gains, heal, factor))
        return
    emit_line(str(place))
    added = f", {made.tokens_added} tokens more" if made.tokens_added else ""
    note(
        f"{made.lineage.name} of {made.lineage.owner} now stands on {short(made.lineage.base.weights)}{added}"
    )
    if made.base_moved is not None:
        note(f"the base has moved by {made.base_moved:.0%} of its own length since")
    if fits:
        note(f"what it changed was added {factor:g} times")
    if gains:
        work.print_gains(gains)


def rebase(
    folder: Finished,
    to: NewBase,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to make; DIR-rebased if left out.")
    ] = None,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Write the new recipe only; train later with tapestry build run."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the recipe of a derivative again, on another base. Owner and lineage go along.

    Example: tapestry build rebase ./hsb --to ./base-2 --out ./hsb-anew
    """
    from tapestry.cli import build_work
    from tapestry.sovereign.lineage import Lineage
    from tapestry.sovereign.port import rebase as rebasing
    from tapestry.sovereign.port.carry import Source

    place = out if out is not None else folder.absolute().with_name(f"{folder.absolute().name}-rebased")
    home = rebasing.prepare(Source.open(folder), to, place)
    if not prepare:
        build_work.run(home.root)
    lineage = Lineage.load(home.lineage)
    if as_json:
        emit_json(
            {
                "folder": str(place), "name": lineage.name, "owner": lineage.owner, "finished": not prepare,
                "new_base": lineage.base.weights, "weights": lineage.weights, "lineage": lineage.digest,
                "parent": None if lineage.parent is None else lineage.parent.lineage,
            }
        )  # fmt: skip
        return
    emit_line(str(place))
    if prepare:
        note(f"train it with: tapestry build run {place}")


def gain(
    ported: Annotated[Path, typer.Argument(metavar="REPORT", help="report.json of the ported derivative.")],
    rebuilt: Annotated[
        Path, typer.Option(metavar="REPORT", help="report.json of the same recipe run on the new base.")
    ],
    as_json: Json = False,
) -> None:
    """What part of the gain a port has kept, per task and language, from the reports of two evaluations.

    (new base − ported) / (new base − rebuilt). Undefined where starting over gains less than 1 %.

    Example: tapestry build gain ./hsb-2/eval/report.json --rebuilt ./hsb-anew/eval/report.json
    """
    from tapestry.cli import build_port_work as work

    found = work.from_reports(ported, rebuilt)
    if as_json:
        emit_json({"gains": [each.to_json() for each in found]})
        return
    work.print_gains(found)


def _texts(given: list[str] | None) -> list[Text]:
    if not given:
        return []
    from tapestry.sovereign.port.measured import Text

    return [Text.parse(each) for each in given]


def _measured(
    texts: list[Text], to: Path, ported: Path, rebuilt: Path | None, before: Path
) -> tuple[Gain, ...]:
    if not texts:
        return ()
    from tapestry.cli.build_port_work import model_of
    from tapestry.sovereign.port.measured import measure

    was = before if (before / "config.json").is_file() else None  # an adapter may have been kept alone
    return measure(texts, to, ported, None if rebuilt is None else model_of(rebuilt), was)
