"""`tapestry node leakage`: what bases and updates of a run give away of the node's own text, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.options import Json, NodeHome, RunName
from tapestry.cli.output import counted, emit_json, emit_line, emit_table, note

if TYPE_CHECKING:
    from tapestry.protocol.leakage import Interval, LeakageReport


def leakage(
    home: NodeHome,
    run: RunName = None,
    rounds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Whose updates to look at, as 1,8,20. [dim]Default: those whose base is here still, mostly "
            "the first and the last[/dim]",
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Windows of each kind, at most.")
    ] = 1000,
    window_bytes: Annotated[int, typer.Option(min=16, max=1 << 20, help="Bytes of text in a window.")] = 512,
    canaries: Annotated[
        int, typer.Option(min=0, max=100_000, help="Canaries to look at, where any were planted.")
    ] = 16,
    candidates: Annotated[int, typer.Option(min=1, max=1_000_000, help="That each is ranked among.")] = 255,
    others: Annotated[
        int, typer.Option(min=0, help="Updates of other nodes to look at in each round, as a control.")
    ] = 1,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A model that was trained on none of this text, with the run's tokenizer, to compare with "
            "as well: as tapestry run export writes it.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**40, help="Of the windows that are drawn.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the processor.")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the report here."),
    ] = None,
    signed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write it here signed with the node's key, for `release propose --leakage`: its figures are "
            "then published with the release.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what shared base and single updates tell of this node's text: membership inference, canaries.

    Reads the text, the blobs and nothing else; needs no network. Numbers come out, no text. A low figure is
    no proof that nothing leaks: see docs/concepts/leakage.md.

    Examples: tapestry node leakage ./node --run first --out leakage.json

    tapestry node leakage ./node --run first --signed leakage-signed.json
    """
    from tapestry.cli import leakage_work
    from tapestry.host import files
    from tapestry.training.leakage.survey import Asked

    asked = Asked(windows=windows, window_bytes=window_bytes, candidates=candidates, seed=seed)
    with counted("measuring") as tell:
        report, left_out = leakage_work.measure(
            home,
            run,
            _numbers(rounds),
            asked,
            canaries=canaries,
            others=others,
            reference=reference,
            threads=threads,
            tell=tell,
        )
    if out is not None:
        files.write_atomic(out, report.to_bytes())
    if signed is not None:
        files.write_atomic(signed, leakage_work.signed(home, report))
    for each in left_out:
        note(each)
    if as_json:
        emit_json(report.model_dump(mode="json"))
        return
    _print(report)
    for path in (out, signed):
        if path is not None:
            emit_line(str(path))


def _numbers(text: str | None) -> tuple[int, ...] | None:
    from tapestry.errors import InputError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) < 1 << 40 for part in parts):
        raise InputError(f"--rounds {text[:60]!r} is no list of rounds", hint="as in 1,8,20")
    return tuple(sorted({int(part) for part in parts}))


def _print(report: LeakageReport) -> None:
    emit_table(
        ("target", "round", "node", "steps", "by", "windows", "others", "TPR at 1 % FPR", "AUC", "blind AUC"),
        [
            (
                row.subject,
                row.round,
                row.node,
                row.steps or None,
                row.by,
                row.members,
                f"{row.non_members} {row.others}",
                _figure(row.true_positives, 100, " %"),
                _figure(row.area),
                _figure(row.blind),
            )
            for row in report.inference
        ],
        right=("round", "steps", "windows", "others"),
    )
    if report.exposure:
        emit_table(
            ("target", "round", "canaries", "exposure, bits", "by chance", "highest"),
            [
                (row.subject, row.round, row.canaries, _figure(row.bits), row.by_chance, row.highest)
                for row in report.exposure
            ],
            right=("round", "canaries", "by chance", "highest"),
        )
    note("intervals of 95 %; a low figure is no proof that nothing leaks: see docs/concepts/leakage.md")


def _figure(one: Interval, times: float = 1.0, unit: str = "") -> str:
    digits = 1 if times > 1 else 2
    value, low, high = (f"{times * each:.{digits}f}" for each in (one.value, one.low, one.high))
    return f"{value}{unit} ({low}–{high})"
