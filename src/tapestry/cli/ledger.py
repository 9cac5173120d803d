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
    from tapestry.audit.fork import ForkProof

app = typer.Typer(help="The ledger: export, verify.", no_args_is_help=True)
TELL_EVERY = 5000
MAX_MIRRORED_BYTES = 16 << 30


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
    where: Annotated[
        str,
        typer.Argument(
            help="A file of `ledger export` or its address, a core, a node, the demo's folder, or the proof "
            "of a fork."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Check a ledger from its first entry: signatures, rules, weights, witnesses, tree, the core's signature.

    Ends with exit code 3 where something does not hold. Merges are repeated by: tapestry run recompute. Of a
    file in which a node has proved a fork it says whom that convicts.

    Examples: tapestry ledger verify ledger.jsonl

    tapestry ledger verify ./tapestry-demo --json

    tapestry ledger verify https://mirror.example.org/ledger.jsonl
    """
    from tapestry.audit.verify import Verifier

    if (proof := _fork(Path(where))) is not None:
        _tell_fork(proof, as_json)
        return

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
        f"contributions, {found.merges} merges by their plans, which witnesses repeated and signed "
        f"{found.attestations} times; the core has signed the root {found.root[:16]}"
    )


def _fork(path: Path) -> ForkProof | None:
    """The proof in a file, if it is one."""
    from tapestry.audit.fork import ForkProof
    from tapestry.errors import TapestryError
    from tapestry.host import files

    try:
        return ForkProof.from_bytes(files.read_limited(path, ForkProof.MAX_BYTES))
    except (OSError, TapestryError):
        return None


def _tell_fork(proof: ForkProof, as_json: bool) -> None:
    consortium = proof.check()
    if as_json:
        emit_json({"fork": True, "consortium": consortium, "first": proof.first, "second": proof.second})
        return
    emit_line(consortium)
    note(
        "this proves that the core of that consortium signed two histories that exclude each other:\n\n"
        f"{proof.first}\nand\n\n{proof.second}"
    )


def _lines(given: str) -> Iterator[Line]:
    from tapestry.audit import file as ledger

    if given.startswith(("http://", "https://")):
        yield from _fetched(given)
        return
    where = Path(given)
    if not where.is_dir():
        yield from ledger.read(where)
        return
    if (where / "node.toml").is_file():
        from tapestry.cli import replicas

        replica = replicas.of_node(where)
        yield from (*replica.lines(), ("checkpoint", replica.checkpoint))
        return
    from tapestry.core.proofs import Proofs
    from tapestry.core.service import Core

    root = where if (where / "core.toml").is_file() else where / "core"
    with Core.open(root) as opened:
        yield from Proofs(opened.journal, opened.consortium).lines(opened.store)


def _fetched(url: str) -> Iterator[Line]:
    """From a mirror, which needs no trust: a file there is checked like any other."""
    import tempfile

    from tapestry.audit import file as ledger
    from tapestry.transport.mirror import fetch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        fetch(url, path, max_bytes=MAX_MIRRORED_BYTES)
        yield from ledger.read(path)
