"""`tapestry catalog revoke`: a dataset is withdrawn, and what it has touched is listed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_pairs, emit_table, note, short

if TYPE_CHECKING:
    from tapestry.node.home import Home
    from tapestry.node.revoke import Revoked
    from tapestry.node.touched import Release, Touched
    from tapestry.training.stale import Removed

SHOWN: Final = 12
"""Rounds of a run that the table names; --json names all."""
REMAINS: Final = (
    "The other members and the core hold the updates that were merged, and the bases made of them; what a "
    "base has learned of a text cannot be taken out of it, and nobody can show that it was.",
    "Whoever exported or adopted one of these bases, fetched it as a release, or built on it, has a copy "
    "that nothing here reaches. Derivatives are known as far as their owners have published them.",
    "Other nodes that hold the same text go on with it until it is withdrawn there too.",
    "The text and its card stay on this machine until somebody erases them.",
)
"""What a withdrawal does not undo."""


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.")],
    home: Annotated[Path, typer.Option("--home", metavar="NODE_DIR", help="Node that has its card.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for people; it stays at this node.")] = "",
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Write the plan of a run that repeats without it."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Run that --plan repeats; needed where several merged it.")
    ] = None,
    core: Annotated[
        str | None,
        typer.Option("--core", metavar="URL", help="Where the core listens, if elsewhere than joined."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Tell the core nothing now.")] = False,
    as_json: Json = False,
) -> None:
    """Withdraw a dataset for good: no batch more is trained on it, nothing made of it is sent, and all that
    it touched is listed. The same again has no other effect.

    Example: tapestry catalog revoke letters --home ./node --reason "the archive asks" --plan without.toml
    """
    from tapestry.node import revoke as at_node
    from tapestry.node.home import Home

    done = at_node.revoke(Home(home), name, reason=reason, tell=not offline, core_url=core)
    built = [] if offline else _derivatives(Home(home), done, core)
    written: dict[str, Any] | None = None
    if plan is not None:
        from tapestry.cli import replayplan

        written = replayplan.write(plan, done.touched, replayplan.choose(done.touched, run), name)
    if as_json:
        emit_json(_json(done, built, written))
        return
    _print(done, "not asked for" if offline else _named(built), written)


def _derivatives(home: Home, done: Revoked, core: str | None) -> list[dict[str, Any]] | None:
    """Those in the registry that stand on a base which descends from the dataset; None without an answer."""
    from tapestry.errors import TapestryError
    from tapestry.node import derivatives

    try:
        records = derivatives.listed(home, core_url=core).records
    except TapestryError as e:
        note(f"which derivatives stand on these bases is not known: {e.message}")
        return None
    return [
        {"member": each.member, "derivative": each.derivative}
        for each in derivatives.standing_on(records, done.touched)
    ]


def _named(built: list[dict[str, Any]] | None) -> str:
    if built is None:
        return "not known: the registry cannot be read now"
    return ", ".join(f"{each['member']}/{each['derivative']}" for each in built) or "none that is published"


def _json(
    done: Revoked, built: list[dict[str, Any]] | None, written: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "dataset": done.mark.dataset,
        "withdrawn_at": done.mark.at,
        "reason": done.mark.reason,
        "manifests": list(done.manifests),
        "manifests_lost": list(done.lost),
        **done.touched.to_json(),
        "ledger": done.ledger,
        "kept_here": list(done.kept),
        "tokens_removed": None if done.removed is None else done.removed.bytes,
        "derivatives": built,
        "listing": done.listing,
        "not_undone": list(REMAINS),
        "plan": written,
    }


def _print(done: Revoked, built: str, written: dict[str, Any] | None) -> None:
    found = done.touched
    emit_pairs(
        [
            ("dataset", done.mark.dataset),
            ("withdrawn", done.mark.at + ("" if done.anew else " (before this call)")),
            ("reason", done.mark.reason or None),
            (
                "ledger",
                f"{found.entries:,} entries, as this node has them on disk" if found.entries else None,
            ),
            ("contributions", len(found.contributions)),
            ("merged", sum(each.merged_in is not None for each in found.contributions)),
            ("bases", sum(len(each.bases) for each in found.runs)),
            ("releases", ", ".join(_release(each) for each in found.releases) or "none in its ledger"),
            ("derivatives", built),
            ("listing", done.listing),
            ("kept here", ", ".join(done.kept[:SHOWN]) + (" ..." if done.kept[SHOWN:] else "") or None),
            ("tokens", _tokens(done.removed)),
        ]
    )
    if done.lost:
        note(
            f"data manifests that cannot be read in cache/manifests/, or name no dataset: {len(done.lost)}. "
            "What was trained with them counts as withdrawn, since nobody can tell what it was"
        )
    if done.ledger is not None:
        note(f"what it touched is not known: {done.ledger}")
    _tables(found)
    emit_line("What this does not undo:")
    for each in REMAINS:
        emit_line(f"- {each}")
    if done.listing.startswith("still published"):
        note(f"when the core is there: tapestry catalog publish {done.mark.dataset} --home ... --take-back")
    if written is not None:
        note(
            f"{written['file']}: run {written['run']} keeps {written['merges_kept']} merges of run "
            f"{written['repeats']} and repeats {written['merges_to_repeat']} with "
            f"{', '.join(written['nodes'])}; the operator starts it: "
            f"tapestry run plan {written['file']} --core HOME"
        )
        for name, each in written["lowered"].items():
            note(
                f"{name} was {each['from']}, and no more than {each['to']} are left: it is {each['to']} there"
            )
    elif found.runs:
        if any(not each.revoked for each in found.releases):
            note("a release is revoked by vote: tapestry proposal new revoke-release --release NAME")
        note("a plan to repeat a run without it: the same command with --plan FILE")


def _release(each: Release) -> str:
    return f"{each.release} (revoked)" if each.revoked else each.release


def _tokens(removed: Removed | None) -> str:
    if removed is None:
        return "still in cache/, since a trainer is at work: the same again once the node has stopped"
    return f"{removed.bytes:,} bytes removed from cache/" if removed.folders else "none in cache/"


def _tables(found: Touched) -> None:
    if found.runs:
        emit_table(
            ("run", "first use", "last base without it", "bases since", "newest", "why"),
            [
                (
                    each.run,
                    f"round {each.first.round}",
                    f"{short(each.first.state)} after merge {each.first.merges}",
                    len(each.bases),
                    short(each.bases[-1].base) if each.bases else None,
                    "merged it" if each.first.since == "contribution" else f"repeats {each.first.since}",
                )
                for each in found.runs
                if each.first is not None
            ],
            right=("bases since",),
        )
    if found.contributions:
        shown = found.contributions[-SHOWN:]
        emit_table(
            ("run", "round", "node", "status", "merged in", "contribution", "delta"),
            [
                (
                    each.run, each.round, each.node, each.status, each.merged_in,
                    short(each.contribution), short(each.delta),
                )
                for each in shown
            ],
            right=("round", "merged in"),
        )  # fmt: skip
        if len(found.contributions) > len(shown):
            note(f"the last {len(shown)} of {len(found.contributions)}; --json names all, and each base")
