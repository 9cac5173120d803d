"""`tapestry bundle verify`, and the commands of `tapestry node` that write bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.options import Json, NodeHome, RunName
from tapestry.cli.output import counted, emit_json, emit_pairs, note

if TYPE_CHECKING:
    from tapestry.bundle.check import Checked

app = typer.Typer(help="What a node has taken with it, checked offline.", no_args_is_help=True)

Derivatives = Annotated[
    list[Path] | None,
    typer.Option("--derivative", metavar="DIR", help="Folder of a model of your own, to go along."),
]
TELL_EVERY = 5000


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    as_json: Json = False,
) -> None:
    """Check a bundle without a network: every byte, signatures, ledger, base, contributions, cards.

    Ends with exit code 3 where something was changed, is missing or does not belong there, and names it. What
    a bundle does not show is in docs/guides/leaving.md.

    Example: tapestry bundle verify ./bundle
    """
    from tapestry.bundle import check

    with counted("bytes hashed") as progress:
        found = check.check(bundle, progress=progress, told=_tell)
    if as_json:
        emit_json(found.to_json())
    else:
        _print(found)
    check.require_complete(found)


def export(
    home: NodeHome,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder to make.")],
    run: RunName = None,
    derivative: Derivatives = None,
    as_json: Json = False,
) -> None:
    """Write all that is this member's into one folder that anybody can check offline.

    The newest base, ready for plain transformers; own updates, cards and data manifests; the ledger with
    proofs; receipts and certificates; no text and no private key. Works without a network.

    Example: tapestry node export ./node --out ./bundle
    """
    from tapestry.node import exit as exits

    wanted = exits.Wanted(run=run, derivatives=derivative or ())
    with counted("bytes hashed") as progress:
        found = exits.export(home, out, wanted, progress=progress, told=_tell)
    if as_json:
        emit_json({"bundle": str(out), **found.to_json()})
        return
    _print(found)
    for each in found.lacking:
        note(f"lacking: {each.what}: {each.why}")
    note(f"written and checked; check it on another machine: tapestry bundle verify {out}")


def leave(
    home: NodeHome,
    out: Annotated[
        Path, typer.Option(metavar="BUNDLE", help="Folder to make, or that an earlier call made.")
    ],
    member: Annotated[
        Path | None,
        typer.Option("--member", help="Folder of the member, whose root key ends the node's keys."),
    ] = None,
    derivative: Derivatives = None,
    as_json: Json = False,
) -> None:
    """Take leave: fetch the newest ledger and base, write and check a bundle, then end the node's keys.

    Stop the node first. From then on the core refuses it, and open rounds go on without it at once. Without
    --member the keys stay valid, and it is said how to end them. May be repeated after a crash.

    Example: tapestry node leave ./node --out ./bundle --member ./acme
    """
    from tapestry.node import leave as leaving
    from tapestry.node.exit import Wanted

    wanted = Wanted(derivatives=derivative or ())
    with counted("bytes hashed") as progress:
        left = leaving.leave(home, out, member, wanted, progress=progress, told=_tell)
    ending = f"tapestry member key revoke {home} --member FOLDER --reason retired"
    if as_json:
        value = {"bundle": str(out), "keys": left.keys, "waiting": list(left.waiting)}
        emit_json({**value, "next": ending if left.keys == "valid" else None, **left.checked.to_json()})
        return
    _print(left.checked)
    for each in left.waiting:
        note(f"run {each} has fewer nodes now than its quorum; it waits until another joins")
    if left.keys == "valid":
        note(f"the node's keys are still valid; who holds the member's root key ends them with: {ending}")
        return
    note(f"the node's keys {'are' if left.keys == 'revoked' else 'were'} revoked: the core refuses them")
    note(f"keep {out} and the member's folder; the text was never in either")


def evidence(
    home: NodeHome,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to make.")],
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """Write one folder that an auditor opens: index.html, proofs, ledger, and the owner's assertions.

    in-toto statements say for each contribution which data was used and where: signed by the node, and
    checked by nobody. A draft of the EU's summary of training content is filled from public fields of cards.

    Example: tapestry node evidence ./node --out ./evidence
    """
    from tapestry.node import evidence as telling

    with counted("bytes hashed") as progress:
        found = telling.evidence(home, out, run, progress=progress, told=_tell)
    if as_json:
        emit_json({"folder": str(out), **found.to_json()})
        return
    _print(found)
    note(f"open {out / 'index.html'}; whoever gets the folder checks it with: tapestry bundle verify FOLDER")


def _print(found: Checked) -> None:
    said = found.said
    emit_pairs([("member", said.member), ("node", said.node), ("consortium", said.consortium), *found.rows])


def _tell(done: int) -> None:
    if done % TELL_EVERY == 0:
        note(f"{done:,} entries of the ledger hold")
