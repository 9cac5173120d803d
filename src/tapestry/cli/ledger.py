"""`tapestry ledger`: a ledger as a file, and whether it holds."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.ledgers import tell
from tapestry.cli.options import Json
from tapestry.cli.output import counted, emit_json, emit_line, note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tapestry.audit.file import Line
    from tapestry.audit.fork import ForkProof
    from tapestry.storage.blobs import BlobStore

app = typer.Typer(help="The ledger: export, verify.", no_args_is_help=True)
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
                out.write(ledger.FIRST)
                out.writelines(Proofs(opened.journal, opened.consortium).written(opened.store))
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
            help="A file of `ledger export` or a static mirror, or its address; a core, a node, the demo's "
            "folder, or the proof of a fork."
        ),
    ],
    blobs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of blobs, to repeat the merges of a file.")
    ] = None,
    merges: Annotated[
        bool, typer.Option("--merges/--no-merges", help="Repeat merges whose blobs are at hand, or none.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Check a ledger from its first entry: signatures, rules, weights, witnesses, tree, the core's signature.

    Then each merge is repeated whose blobs are at hand, and it is said which could not be. Ends with exit
    code 3 where something does not hold, a merge among it. Of a file in which a node has proved a fork it
    says whom that convicts.

    Examples: tapestry ledger verify ledger.jsonl

    tapestry ledger verify ./tapestry-demo --json

    tapestry ledger verify https://mirror.example.org/ledger --blobs ./blobs
    """
    from tapestry.cli import verification
    from tapestry.errors import MergeMismatch

    if (proof := _fork(Path(where))) is not None:
        _tell_fork(proof, as_json)
        return

    why = "" if merges else verification.NOT_ASKED
    if blobs is not None and not verification.repeats_here():
        blobs, why = None, why or verification.NO_TORCH
    with opened(where, blobs) as (lines, store), counted("merges repeated") as progress:
        found, repeated = verification.verify(lines, store, unless=why, told=tell, progress=progress)
    if as_json:
        emit_json({**asdict(found), **repeated.to_json()})
    else:
        emit_line(found.consortium)
        note(
            f"{found.entries:,} entries hold: {found.members} members, {found.contributions} signed "
            f"contributions, {found.merges} merges by their plans, which witnesses repeated and signed "
            f"{found.attestations} times; the core has signed the root {found.root[:16]}"
        )
    for line in repeated.told():
        note(line)
    if repeated.differing:
        note("show this to the other members, and do not train from what came of it")
        raise typer.Exit(MergeMismatch.exit_code)


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


@contextmanager
def opened(given: str, blobs: Path | None) -> Iterator[tuple[Iterator[Line], BlobStore | None]]:
    """Lines of a ledger, and the blobs beside it, if there are any."""
    from tapestry.audit import file as ledger
    from tapestry.audit import pieces

    where = Path(given)
    if given.startswith(("http://", "https://")):
        yield _fetched(given), _store(blobs)
    elif not where.is_dir():
        yield ledger.read(where), _store(blobs)
    elif pieces.is_mirror(where):
        yield pieces.read(where.joinpath), _store(blobs)
    elif (where / "node.toml").is_file():
        from tapestry.node.home import Home
        from tapestry.node.kept import Kept

        yield Kept.of(Home(where)).lines(), _store(blobs or Home(where).blobs)
    else:
        from tapestry.core.proofs import Proofs
        from tapestry.core.service import Core

        root = where if (where / "core.toml").is_file() else where / "core"
        with Core.open(root) as opened:
            lines = Proofs(opened.journal, opened.consortium).lines(opened.store)
            yield lines, opened.store if blobs is None else _store(blobs)


def _store(blobs: Path | None) -> BlobStore | None:
    from tapestry.errors import InputError

    if blobs is None:
        return None
    if not blobs.is_dir():
        raise InputError(f"{blobs} is not a folder of blobs", hint="name one, or leave out --blobs")
    from tapestry.storage.blobs import BlobStore

    return BlobStore.open(blobs)


def _fetched(url: str) -> Iterator[Line]:
    """From a static mirror or a file, neither of which needs trust: what lies there is checked."""
    import tempfile

    from tapestry.audit import file as ledger
    from tapestry.audit import pieces
    from tapestry.errors import FormatError, NotFound
    from tapestry.transport import mirror

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        get = mirror.getter(url, folder, max_bytes=MAX_MIRRORED_BYTES)
        try:
            note = pieces.checkpoint(get(pieces.CHECKPOINT))
            pieces.size_of(note)
        except (FormatError, NotFound):
            mirror.fetch(url, folder / "ledger.jsonl", max_bytes=MAX_MIRRORED_BYTES)
            yield from ledger.read(folder / "ledger.jsonl")
        else:
            yield from pieces.read(get, note=note)
