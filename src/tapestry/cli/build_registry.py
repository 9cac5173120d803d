"""`tapestry build publish`, `list`, `show`, `tree`: derivatives, as their owners show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_pairs, emit_table, note, short

if TYPE_CHECKING:
    from tapestry.node.derivatives import Listed
    from tapestry.protocol.derivative import DerivativeRecord

Node = Annotated[Path, typer.Option("--node", metavar="NODE_DIR", help="A node of the consortium.")]
CoreUrl = Annotated[
    str | None,
    typer.Option("--core", metavar="URL", help="Where the core listens, if elsewhere than joined."),
]


def publish(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a finished build; or with --take-back its name.")
    ],
    node: Annotated[Path, typer.Option("--node", metavar="NODE_DIR", help="A node of its owner.")],
    visibility: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=LEVEL", help="Who may know a field: public, consortium, private. Repeatable."
        ),
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(metavar="MEASURE", help="Show these figures of its evaluation, or all. Repeatable."),
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="In a sentence or two.")] = "",
    entitlement: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate of the right to the base.")
    ] = None,
    take_back: Annotated[bool, typer.Option("--take-back", help="Show nothing of it any more.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")
    ] = False,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """Tell the consortium of a derivative: what it is and stands on, never its weights.

    Fields: base, weights, lineage, parent, stages, licence, level, languages, figures, entitlement,
    description. All are for the consortium unless you say otherwise.

    Examples: tapestry build publish ./hsb --node ./node --figure bits-per-byte --dry-run

    tapestry build publish hsb --node ./node --take-back
    """
    from tapestry.cli import build_registry_work as work
    from tapestry.node import derivatives
    from tapestry.node.home import Home

    said = visibility or [], figure or [], description, entitlement
    name, owner, shown, public = (
        (work.name(folder), None, None, ()) if take_back else work.shown(folder, *said, node=node)
    )
    if dry_run:
        value = None if shown is None else shown.model_dump(mode="json")
        emit_json({"would_send": {"derivative": name, "shown": value, "public": list(public)}})
        return
    record = derivatives.publish(Home(node), name, shown, public, owner=owner, core_url=core)
    if as_json:
        emit_json({"published": record.model_dump(mode="json")})
        return
    emit_line(record.derivative)
    note("taken back" if take_back else "published; weights and data stay here")


def list_(
    node: Node,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those of a language, such as hsb.")
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Only those of a level: global, regional, national, entity.")
    ] = None,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """All derivatives that their owners show, and how many rounds behind the newest base each is.

    Example: tapestry build list --node ./node
    """
    listed = _listed(node, core)
    rows = [_row(record, listed) for record in listed.records if record.shown is not None]
    rows = [
        row for row in rows if level in (None, row["level"]) and language in (None, *(row["languages"] or ()))
    ]
    if as_json:
        emit_json({"derivatives": rows})
        return
    columns = ("derivative", "owner", "level", "languages", "base", "behind", "stages", "licence")
    emit_table(
        columns,
        [
            (
                row["derivative"], row["owner"], _text(row["level"]), _text(row["languages"]),
                _base(row["base"]), _text(row["rounds_behind"]), _text(row["stages"]), _text(row["licence"]),
            )
            for row in rows
        ],
        right=("behind",),
    )  # fmt: skip


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the derivative, or OWNER/NAME.")],
    node: Node,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """All that the owner shows of one derivative.

    Example: tapestry build show domowina/hsb --node ./node
    """
    from tapestry.errors import NotFound

    listed = _listed(node, core)
    rows = [
        _row(record, listed)
        for record in listed.records
        if record.shown is not None and name in (record.derivative, f"{record.member}/{record.derivative}")
    ]
    if not rows:
        raise NotFound(
            f"no member shows a derivative {name}", hint="see: tapestry build list --node NODE_DIR"
        )
    if as_json:
        emit_json({"derivatives": rows})
        return
    for row in rows:
        emit_pairs((key, _text(value)) for key, value in row.items())


def tree(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR...]", help="Folders of builds; or give --node.")
    ] = None,
    node: Annotated[
        Path | None, typer.Option("--node", metavar="NODE_DIR", help="Also all that members show.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as a picture, .svg or .png.")
    ] = None,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """Lineage as a tree: bases, what was made of them, and what was carried over to the next.

    Example: tapestry build tree ./hsb ./hsb-2 --picture tree.svg
    """
    from tapestry.cli import build_registry_work as work
    from tapestry.errors import InputError
    from tapestry.sovereign import tree as trees

    if not folders and node is None:
        raise InputError("there is nothing to draw", hint="give folders of builds, or --node NODE_DIR")
    made = trees.collect(folders or [])
    if node is not None:
        known = {each.key for each in made}
        made += [each for each in work.made(_listed(node, core).records) if each.key not in known]
    roots = trees.roots(made)
    if picture is not None:
        trees.picture(roots, picture)
    if as_json:
        emit_json({"tree": [work.as_json(root) for root in roots], "picture": picture and str(picture)})
        return
    for line in trees.lines(roots):
        emit_line(line)
    if picture is not None:
        note(f"picture: {picture}")


def _listed(node: Path, core: str | None) -> Listed:
    from tapestry.node.derivatives import listed
    from tapestry.node.home import Home

    return listed(Home(node), core_url=core)


def _row(record: DerivativeRecord, listed: Listed) -> dict[str, Any]:
    """What is shown, and how far behind the newest base it is."""
    assert record.shown is not None  # noqa: S101 - callers have asked
    value = record.shown.model_dump(mode="json")
    base = record.shown.base
    behind = None
    if base is not None and base.run in listed.rounds and base.round is not None:
        behind = max(0, listed.rounds[base.run] - base.round)
    return {
        "derivative": record.derivative,
        "owner": record.member,
        "at": record.at,
        **value,
        "rounds_behind": behind,
        "public": list(record.public),
    }


def _base(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    from tapestry.sovereign.tree import base_name

    return base_name(value["run"], value["round"], value["weights"])


def _text(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(_text(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, str) and len(value) == 64:
        return short(value)
    return str(value)
