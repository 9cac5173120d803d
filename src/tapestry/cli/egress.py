"""`tapestry node egress`: what left a node, what waits for its owner's word, and that word."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tapestry.cli.options import Json, NodeHome
from tapestry.cli.output import emit_json, emit_line, emit_table, human_bytes, short

Names = Annotated[list[str] | None, typer.Argument(help="RUN.ROUND of what waits, as `pending` names it.")]
All = Annotated[bool, typer.Option("--all", help="Everything that waits.")]


class _Group(typer.core.TyperGroup):
    """`tapestry node egress HOME` is `tapestry node egress list HOME`."""

    default = "list"

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = [self.default, *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group, help="What left the node; what waits for the owner's word.", no_args_is_help=True
)


@app.command("list")
def list_(home: NodeHome, as_json: Json = False) -> None:
    """Everything that left this node: when, what, how many bytes, which hash.

    Example: tapestry node egress list ./node
    """
    from tapestry.node.home import Home
    from tapestry.node.outbox import egress_table

    at = Home(home)
    at.check()
    rows: Any = egress_table(at)
    if as_json:
        emit_json({"egress": rows})
        return
    emit_table(
        ("time", "kind", "name", "count", "bytes", "sha256"),
        [
            (
                _time(row["time"]),
                row["kind"],
                row["name"] or "-",
                row.get("count") or 1,
                human_bytes(row["bytes"]),
                short(row["sha256"]),
            )
            for row in rows
        ],
        right=("count", "bytes"),
    )


@app.command()
def pending(home: NodeHome, as_json: Json = False) -> None:
    """What waits for the owner's word, where node.toml says approve = true.

    Example: tapestry node egress pending ./node
    """
    from tapestry.node.approval import Approvals
    from tapestry.node.home import Home

    at = Home(home)
    at.check()
    found = Approvals(at).pending()
    if as_json:
        emit_json({"pending": [{**each.model_dump(mode="json"), "subject": each.subject} for each in found]})
        return
    if not found:
        emit_line("nothing waits")
        return
    emit_table(
        ("name", "since", "artifacts", "bytes", "digest"),
        [
            (
                each.name,
                _time(each.since),
                len(each.artifacts),
                human_bytes(sum(one.bytes for one in each.artifacts)),
                short(each.subject),
            )
            for each in found
        ],
        right=("artifacts", "bytes"),
    )


@app.command()
def approve(home: NodeHome, names: Names = None, everything: All = False, as_json: Json = False) -> None:
    """Let what waits leave. It holds for these very bytes.

    Example: tapestry node egress approve ./node run.3
    """
    _decide(home, names, everything, passes=True, reason="", as_json=as_json)


@app.command()
def refuse(
    home: NodeHome,
    names: Names = None,
    everything: All = False,
    reason: Annotated[str, typer.Option(help="For the node's own log; it does not leave.")] = "",
    as_json: Json = False,
) -> None:
    """Keep what waits from leaving. The node goes on with the next round.

    Example: tapestry node egress refuse ./node run.3 --reason "not before the board has met"
    """
    _decide(home, names, everything, passes=False, reason=reason, as_json=as_json)


def _decide(
    home: Any, names: list[str] | None, everything: bool, *, passes: bool, reason: str, as_json: bool
) -> None:
    from tapestry.errors import InputError
    from tapestry.node.approval import Approvals
    from tapestry.node.home import Home

    at = Home(home)
    at.check()
    approvals = Approvals(at)
    if bool(names) == everything:
        raise InputError("name what waits, or give --all", hint="see it: tapestry node egress pending HOME")
    chosen = names or [each.name for each in approvals.pending()]
    done = [approvals.decide(name, passes=passes, reason=reason) for name in chosen]
    if as_json:
        emit_json({"approved" if passes else "refused": [each.name for each in done]})
        return
    said = "may leave" if passes else "stays"
    for each in done:
        emit_line(f"{each.name} {said}")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
