"""`tapestry member`: the organisation, its root key, and the keys of its nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tapestry.cli.options import Json, MemberFolder, NodeHome
from tapestry.cli.output import emit_json, emit_line, emit_table, note, short

app = typer.Typer(help="The member: its root key, and the keys of its nodes.", no_args_is_help=True)
key_app = typer.Typer(help="Keys that the member's root key has certified.", no_args_is_help=True)
app.add_typer(key_app, name="key")

REASONS = ("retired", "compromised", "rotated")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make.")],
    name: Annotated[str, typer.Option(help="Name of the member: a-z, 0-9, '.', '_' and '-'.")],
    as_json: Json = False,
) -> None:
    """Make a member with a new root key.

    The root key admits the member and certifies its nodes' keys, and nothing else. Keep the folder
    off the nodes' machines, and a copy of it somewhere safe.

    Example: tapestry member init ./acme --name acme
    """
    from tapestry.node.member import member_init

    member = member_init(folder, name)
    if as_json:
        emit_json({"member": member.name, "root_key": member.root.public_key, "folder": str(folder)})
        return
    emit_line(member.root.public_key)
    note(f"member {member.name} made in {folder}; its root key is {folder / 'root.key'}")
    note(f"next: ask the core's operator for an invitation (tapestry core invite HOME {member.name})")


@key_app.command()
def rotate(home: NodeHome, member: MemberFolder, as_json: Json = False) -> None:
    """Give a node a new key and revoke the old one. May be called while the node runs.

    A call that was cut short is finished by the next one; the node always holds a key the core knows. This
    also brings back a node whose key is expired or revoked.

    Example: tapestry member key rotate ./node --member ./acme
    """
    from tapestry.node import setup

    key_id = setup.rotate(home, member)
    if as_json:
        emit_json({"key_id": key_id})
        return
    emit_line(key_id)
    note(f"the node in {home} signs with key {short(key_id)} from now on")


@key_app.command()
def vote(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the member, with its root key.")
    ],
    core: Annotated[str, typer.Option("--core", metavar="URL", help="Where the core listens.")],
    invitation: Annotated[
        str | None, typer.Option(help="Of a member that has not joined with a node: it joins by this.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file of the authority of the core's certificate.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give the member a vote key, which the root key certifies; a second call replaces the first key.

    The key stays in the member's folder and goes on no node. To vote, the root key need not lie there.

    Examples: tapestry member key vote ./acme --core https://core.example.org:8440

    tapestry member key vote ./audit --core https://core.example.org:8440 --invitation TOKEN
    """
    from tapestry.node.council import make_vote_key

    key_id = make_vote_key(folder, core, invitation=invitation, ca=ca)
    if as_json:
        emit_json({"key_id": key_id})
        return
    emit_line(key_id)
    note(f"the member in {folder} votes with key {short(key_id)}; see: tapestry proposal list")


@key_app.command()
def release(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the member, with its root key and vote key.")
    ],
    core: Annotated[
        str | None, typer.Option("--core", metavar="URL", help="Where the core listens, if elsewhere by now.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a member that the charter names as holder the keys to sign releases; again, it gets another one.

    The keys stay in the member's folder and go on no node. Those before are kept there too: a change of
    holders is signed with them. Releases are signed with the new key from the next draft on.

    Example: tapestry member key release ./acme --core https://core.example.org:8440
    """
    from tapestry.node.releasing import make_release_key

    key_id = make_release_key(folder, core)
    if as_json:
        emit_json({"key_id": key_id})
        return
    emit_line(key_id)
    note(f"the member in {folder} signs releases with key {short(key_id)}: tapestry release sign")


@key_app.command()
def revoke(
    home: NodeHome,
    member: MemberFolder,
    reason: Annotated[str, typer.Option(help=f"One of {', '.join(REASONS)}.")] = "retired",
    node: Annotated[
        str | None, typer.Option(help="Another node of the member, whose folder may be lost.")
    ] = None,
    as_json: Json = False,
) -> None:
    """End a node's key. Its contributions so far stay; from now on the core refuses it.

    Examples: tapestry member key revoke ./node --member ./acme --reason compromised

    tapestry member key revoke ./node --member ./acme --node acme-2
    """
    from tapestry.errors import InputError
    from tapestry.node import setup

    if reason not in REASONS:
        raise InputError(f"{reason!r} is no reason", hint=f"take one of {', '.join(REASONS)}")
    key_id = setup.revoke(home, member, reason, node=node)  # type: ignore[arg-type]
    if as_json:
        emit_json({"key_id": key_id, "reason": reason})
        return
    emit_line(key_id)
    which = f"node {node}" if node is not None else f"the node in {home}"
    note(f"key {short(key_id)} of {which} is revoked; `member key rotate` in its folder brings it back")


@key_app.command("list")
def list_(home: NodeHome, as_json: Json = False) -> None:
    """All members' keys as the core has them, asked as this node.

    Example: tapestry member key list ./node
    """
    from tapestry.errors import FormatError
    from tapestry.node import setup

    with setup.connect(_home(home)) as client:
        answer = client.members()
    members: Any = answer.get("members") if isinstance(answer, dict) else None
    if not isinstance(members, list):
        raise FormatError(
            "the core's list of members is not one",
            hint="see whether the core is of another release: tapestry doctor --node HOME",
        )
    if as_json:
        emit_json({"members": members})
        return
    rows = [
        (
            m["member"],
            k["node"],
            k["role"],
            short(k["key_id"]),
            k["expires"][:10],
            "revoked" if k["revoked"] else "valid",
        )
        for m in members
        for k in m["keys"]
    ]
    emit_table(("member", "node", "role", "key", "expires", "standing"), rows)


def _home(path: Path) -> Any:
    from tapestry.node.home import Home

    return Home(path)
