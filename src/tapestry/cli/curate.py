"""The command `tapestry catalog curate`; what it does is `curating`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapestry.cli.catalog import DEFAULT, NodeFolder, shelf
from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, note


def curate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with train.* and valid.*, as a node reads it.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write what stays to; it must not exist.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="BCP 47: what documents should be written in. Repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="A card of --home whose languages are meant.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Evaluation sets, whose text is not to be trained on."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML: what each step does, and its limits.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Say what would be left out, and write nothing.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the beginning of documents that were found, on stderr.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="That look at documents; as many as cores if left out.")
    ] = None,
    home: NodeFolder = None,
    as_json: Json = False,
) -> None:
    """Check and clean a folder of text, step by step, into another. Nothing leaves; the folder stays.

    Examples: tapestry catalog curate ./raw --out ./text --language de --home ./node

    tapestry catalog curate ./raw --report-only --language de --evaluation ./tests
    """
    from tapestry.cli import curating
    from tapestry.errors import InputError

    if (out is None) != report_only:
        raise InputError("give either --out or --report-only", hint="for example: --out ./curated")
    if name is not None and home is None:
        raise InputError("--name needs --home", hint="name the node whose card it is")
    cards = shelf(home, DEFAULT)  # a folder that is no node's would protect nothing
    stated = language or (list(cards.read(name).card.languages) if name is not None else [])
    told = curating.curate(
        curating.Asked(
            folder=folder,
            out=out,
            languages=tuple(stated),
            evaluation=evaluation,
            settings=settings,
            home=home,
            processes=processes,
            show=show,
        )
    )
    if as_json:
        emit_json(told)
        return
    curating.print_report(told)
    if out is not None:
        note(f"written to {out}; make its card with: tapestry catalog add {out} ...")
