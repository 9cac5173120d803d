"""`tapestry ledger`: a ledger as a file, and whether it holds."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tapestry.audit.file import Line

app = typer.Typer(help="The ledger: export, verify.", no_args_is_help=True)
TELL_EVERY = 5000


@app.command()
def export(
    core: Annotated[Path, typer.Option("--core", metavar="HOME", help="Folder of the core.")],
    file: Annotated[Path, typer.Argument(help="Written anew.")],
    as_json: Json = False,
) -> None:
    """Write a core's whole ledger to a file that anybody can verify.

    Example: tapestry ledger export --core ./core ledger.jsonl
    """
    from tapestry.audit import file as ledger
    from tapestry.core.proofs import Proofs
    from tapestry.core.service import Core
    from tapestry.host import files

    with Core.open(core) as opened, files.full_disk(file):
        temporary = file.with_name(f".{file.name}.tmp")
        try:
            with temporary.open("wb") as out:
                ledger.write(out, Proofs(opened.journal, opened.consortium).lines(opened.store))
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(file)
            files.fsync_dir(file.absolute().parent)
        finally:
            temporary.unlink(missing_ok=True)
    if as_json:
        emit_json({"file": str(file), "bytes": file.stat().st_size})
        return
    emit_line(str(file))


@app.command()
def verify(
    where: Annotated[Path, typer.Argument(help="A file of `ledger export`, a core, or the demo's folder.")],
    as_json: Json = False,
) -> None:
    """Check a ledger from its first entry: signatures, rules, weights, tree, and the core's signature.

    Ends with exit code 3 where something does not hold. Merges are repeated by: tapestry run recompute.

    Examples: tapestry ledger verify ledger.jsonl

    tapestry ledger verify ./tapestry-demo --json
    """
    from tapestry.audit.verify import Verifier

    def tell(done: int) -> None:
        if done % TELL_EVERY == 0:
            note(f"{done:,} entries hold")

    found = Verifier(tell).take(_lines(where))
    if as_json:
        emit_json(asdict(found))
        return
    emit_line(found.consortium)
    note(
        f"{found.entries:,} entries hold: {found.members} members, {found.contributions} signed "
        f"contributions, {found.merges} merges by their plans; the core has signed the root {found.root[:16]}"
    )


def _lines(where: Path) -> Iterator[Line]:
    from tapestry.audit import file as ledger

    if not where.is_dir():
        yield from ledger.read(where)
        return
    from tapestry.core.proofs import Proofs
    from tapestry.core.service import Core

    root = where if (where / "core.toml").is_file() else where / "core"
    with Core.open(root) as opened:
        yield from Proofs(opened.journal, opened.consortium).lines(opened.store)
