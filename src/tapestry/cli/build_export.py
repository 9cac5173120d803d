"""`tapestry build export`: a derivative in the formats that other programs open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, note

Finished = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of a finished build, or a model that left one.")
]


def export(
    folder: Finished,
    kind: Annotated[str, typer.Option("--format", help="hf, lora or gguf.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to make; export/FORMAT of the build if left out."),
    ] = None,
    member: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The owner's folder, with whose model key all files are signed."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Figures for the card: report.json of an evaluation; the build's if left out.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a derivative for other programs, with model card, lineage and bill of materials (CycloneDX).

    hf opens in transformers and vLLM, lora in peft, gguf in llama.cpp. A GGUF file is loaded back first and
    must give the same logits, within 1e-4 in fp32; else nothing is written.

    Example: tapestry build export ./hsb --format gguf
    """
    from tapestry.cli.build_port_work import model_key
    from tapestry.errors import InputError
    from tapestry.sovereign import export as exporting
    from tapestry.sovereign.port.carry import Source

    if kind not in exporting.FORMATS:
        raise InputError(f"--format {kind!r} is none of {', '.join(exporting.FORMATS)}", hint="take hf, say")
    source = Source.open(folder)
    key = model_key(member, source.lineage.owner) if member is not None else None
    place = out if out is not None else folder / "export" / kind
    made = exporting.export(source, kind, place, key=key, report=report)  # type: ignore[arg-type]
    compared = made.compared
    if as_json:
        emit_json(
            {
                "format": kind, "folder": str(made.folder), "weights": made.weights, "signed": made.signed,
                "lineage": source.lineage.digest,
                "compared": None if compared is None else {
                    "largest_logit_difference": compared.difference, "positions": compared.positions,
                    "texts": compared.texts, "read_by": compared.reader,
                },
            }
        )  # fmt: skip
        return
    emit_line(str(made.folder))
    if compared is not None:
        note(
            f"loaded back: {made.weights} gives the same logits at {compared.positions} positions "
            f"(largest difference {compared.difference:.2g}) and {compared.texts} texts the same ids"
        )
