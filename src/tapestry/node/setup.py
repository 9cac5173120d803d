"""Setting up a node, joining a consortium, changing keys. Here the member's root key signs.

Rotation goes on where a kill stopped it, in an order in which the node always holds a key the core
knows: new key made → made known → in place → old key revoked.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tapestry.errors import (
    Conflict,
    FormatError,
    InputError,
    KeyRefused,
    NotFound,
    SettingsError,
    TapestryError,
)
from tapestry.host import files
from tapestry.identity.envelope import Envelope
from tapestry.identity.invitations import check_token, make_token
from tapestry.identity.keyring import make_join, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.node import agent_user as users
from tapestry.node import keys, settings
from tapestry.node.home import Home
from tapestry.node.keys import NEXT, NodeKey
from tapestry.node.member import LIFETIME_S, Member, load_member, local_now
from tapestry.protocol.canonical import Sha256, is_name, sha256
from tapestry.protocol.clock import add_seconds
from tapestry.protocol.message import Message
from tapestry.protocol.messages import KeyId, PublicKey
from tapestry.transport.client import CoreClient

MAX_CA_BYTES = 4 << 20
RevocationReason = Literal["rotated", "compromised", "retired"]


class Consortium(Message):
    """Whom a node has joined."""

    format: Literal["tapestry.consortium"] = "tapestry.consortium"
    version: Literal[1] = 1
    core_url: str
    consortium: Sha256
    core_key: PublicKey
    """Signs the receipts."""
    root_key: PublicKey
    """Of the node's own member."""
    ca: str | None
    """File in the node's home with the authority of the core's certificate."""


class Rotation(Message):
    """A change of a key that has begun."""

    format: Literal["tapestry.key-rotation"] = "tapestry.key-rotation"
    version: Literal[1] = 1
    old_key: KeyId
    new_key: KeyId


def init(
    home: Path,
    member_dir: Path,
    name: str,
    corpus: Path | str,
    *,
    publish: settings.Publish = "all",
    runs: tuple[str, ...] = ("*",),
    threads: int | None = None,
    checkpoint_s: float = 60.0,
    residency: str | None = None,
    agent_user: str | None = None,
) -> Home:
    """Make a node's home with its settings and its keys, certified by the member. All or nothing.

    Raises:
        Conflict: there is a node already.
        SettingsError, InputError: what is wrong with the arguments or the member's folder.
    """
    member = load_member(member_dir)
    if not is_name(name):
        raise InputError(
            f"{name!r} cannot be a node's name",
            hint="use a-z, 0-9, '.', '_' and '-', at most 64, beginning and ending with a letter or digit",
        )
    made = settings.make(
        member=member.name,
        name=name,
        corpus=Path(corpus).expanduser().absolute(),
        publish=publish,
        runs=runs,
        threads=threads,
        checkpoint_s=checkpoint_s,
        residency=residency,
        agent_user=agent_user,
    )
    if home.exists() and any(home.iterdir()):
        raise Conflict(f"{home} exists and is not empty", hint="choose another folder for the node")
    with files.full_disk(home):
        home.parent.mkdir(parents=True, exist_ok=True)
        temporary = Home(Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent)))
    try:
        temporary.root.chmod(0o755)
        temporary.make_folders()
        now = local_now()
        for role in keys.KEY_ROLES:
            keys.issue(temporary, member, node=name, role=role, now=now)
        files.write_atomic(temporary.settings, settings.render(made).encode())
        users.prepare(temporary, made)
        files.publish_dir(temporary.root, home)
    except BaseException:
        shutil.rmtree(temporary.root, ignore_errors=True)
        raise
    return Home(home)


def load_consortium(home: Home) -> Consortium:
    """Whom this node has joined. Raises `SettingsError`."""
    home.check()
    try:
        return Consortium.from_bytes(files.read_limited(home.consortium, Consortium.MAX_BYTES))
    except FileNotFoundError as e:
        raise SettingsError(
            f"the node in {home.root} has not joined a consortium",
            hint="ask the core's operator for an invitation, then: tapestry node join",
        ) from e
    except (OSError, TapestryError) as e:
        raise SettingsError(f"{home.consortium} cannot be read: {e}") from e


def connect(home: Home, pair: KeyPair | None = None, *, core_url: str | None = None) -> CoreClient:
    """A client for the core this node has joined, signing with the node key; `core_url` says where it listens
    if that is elsewhere by now."""
    joined = load_consortium(home)
    transfer = settings.load(home).transfer
    return CoreClient(
        core_url or joined.core_url,
        joined.consortium,
        pair or keys.load_pair(home),
        ca=None if joined.ca is None else home.root / joined.ca,
        chunk_bytes=transfer.chunk_bytes,
        parallel=transfer.parallel,
        direct=transfer.direct,
    )


def join(home: Path, core_url: str, token: str, ca: Path | None = None, *, member_dir: Path) -> Consortium:
    """Bring the node (and with its first node the member) into a consortium. May be repeated.

    Args:
        home: the node's home.
        core_url: where the core listens.
        token: the invitation.
        ca: PEM file of the authority of the core's certificate, where the system does not know it.
        member_dir: the member's folder; its root key signs.

    Raises:
        InvitationError, Conflict: the core's reasons.
        SettingsError: home, member and arguments do not fit together.
    """
    check_token(token)
    at = Home(home)
    given = settings.load(at)
    member = load_member(member_dir)
    if member.name != given.node.member:
        raise SettingsError(
            f"{member_dir} holds member {member.name}, the node in {home} belongs to {given.node.member}"
        )
    with CoreClient(core_url, None, None, ca=ca) as client:
        hello = client.hello()
        certificates = [
            _valid(at, member, keys.load(at, role), node=given.node.name, role=role, now=hello.time)
            for role in keys.KEY_ROLES
        ]
        admit(client, member, hello.consortium, token, [key.certificate for key in certificates])
    joined = Consortium(
        core_url=client.base_url,
        consortium=hello.consortium,
        core_key=hello.core_key,
        root_key=member.root.public_key,
        ca=keep_ca(at, ca),
    )
    files.write_atomic(at.consortium, joined.to_bytes())
    return joined


def admit(
    client: CoreClient, member: Member, consortium: str, token: str, certificates: Sequence[Envelope]
) -> None:
    """Ask for admission; where the member is admitted, the root key alone lets in its keys."""
    request = make_join(member.root, consortium=consortium, invitation=token, member=member.name)
    client.join(request.model_dump(mode="json"), [each.model_dump(mode="json") for each in certificates])


def _valid(home: Home, member: Member, key: NodeKey, *, node: str, role: keys.KeyRole, now: str) -> NodeKey:
    """The key with a certificate that is good by the core's clock: a new one if it was made under a
    clock that is far from it."""
    said = key.statement(member.root.public_key)
    if said.not_before <= now and add_seconds(now, LIFETIME_S / 12) < said.expires:
        return key
    return keys.certify(home, member, key.pair, node=node, role=role, now=now)


def keep_ca(home: Home, ca: Path | None) -> str | None:
    """A copy of the authority's file in a home; its name there."""
    if ca is None:
        return None
    try:
        data = files.read_limited(ca, MAX_CA_BYTES)
    except (OSError, TapestryError) as e:
        raise SettingsError(f"CA file {ca} cannot be read: {e}") from e
    name = f"ca-{sha256(data)[:12]}.pem"
    files.write_atomic(home.root / name, data)
    return name


# -- changing keys ------------------------------------------------------------------------------


def rotate(home: Path, member_dir: Path) -> str:
    """Give the node new keys and revoke the old ones; goes on with a rotation that was cut short.

    A running node notices by itself. Where the old keys are expired or revoked, this brings the node back.
    Returns the id of the new node key.
    """
    at = Home(home)
    member, given = _owner(at, member_dir)
    new_keys = {role: _rotate(at, member, given.node.name, role) for role in keys.KEY_ROLES}
    return new_keys["node"]


def _rotate(at: Home, member: Member, node: str, role: keys.KeyRole) -> str:
    begun = _rotation(at, role)
    if begun is None:
        begun = _begin(at, member, node, role)
    if keys.load_pair(at, role).key_id == begun.old_key:
        new = keys.load(at, role, suffix=NEXT)
        with connect(at) as client:
            try:
                client.post_certificate(new.certificate.model_dump(mode="json"))
            except KeyRefused:  # the old key is; the root key alone lets in keys of a member that is admitted
                admit(client, member, load_consortium(at).consortium, make_token(), [new.certificate])
        files.write_atomic(at.keys / f"{role}.cert.json", new.certificate.to_bytes())
        files.private_write(at.keys / f"{role}.key", new.pair.to_pem(), replace=True)
    with connect(at) as client:
        revocation = make_revocation(member.root, member=member.name, revoked=begun.old_key, reason="rotated")
        client.post_revocation(revocation.model_dump(mode="json"))
    _marker(at, role).unlink(missing_ok=True)
    for name in (f"{role}{NEXT}.key", f"{role}{NEXT}.cert.json"):
        (at.keys / name).unlink(missing_ok=True)
    files.fsync_dir(at.keys)
    return begun.new_key


def revoke(
    home: Path, member_dir: Path, reason: RevocationReason = "retired", *, node: str | None = None
) -> str:
    """End a node's keys; it can do nothing any more until `rotate` gives it new ones.

    Args:
        home: a node's home; its key signs the request.
        member_dir: the member's folder; its root key signs the revocation.
        reason: for the record.
        node: another node of the same member, whose home may be lost; the node of `home` if None.

    Returns:
        the id of the node key.

    Raises:
        NotFound: the member has no node of that name with a key that is not revoked.
    """
    at = Home(home)
    member, given = _owner(at, member_dir)
    pair = keys.load_pair(at)
    with connect(at, pair) as client:
        if node in (None, given.node.name):
            ended = [keys.load_pair(at, "witness").key_id, pair.key_id]  # the one that asks comes last
        else:
            ended = live_keys(client, member.name, str(node))
        for key_id in ended:
            revocation = make_revocation(member.root, member=member.name, revoked=key_id, reason=reason)
            client.post_revocation(revocation.model_dump(mode="json"))
    return ended[-1]


def live_keys(client: CoreClient, member: str, node: str | None) -> list[str]:
    """Keys of a node that are not revoked: witness keys, and then node keys. Two of each in the middle of a
    rotation."""
    answer = client.members()
    try:
        found = [
            str(key["key_id"])
            for role in reversed(keys.KEY_ROLES)
            for each in answer["members"]
            if each["member"] == member
            for key in each["keys"]
            if (key["node"], key["role"], key["revoked"]) == (node, role, None)
        ]
    except (KeyError, TypeError) as e:
        raise FormatError("the core's list of members is not one") from e
    if not found:
        raise NotFound(
            f"member {member} has no node {node} with a key that is not revoked",
            hint="see them with: tapestry member key list",
        )
    return found


def _owner(home: Home, member_dir: Path) -> tuple[Member, settings.NodeSettings]:
    given = settings.load(home)
    member = load_member(member_dir)
    if member.name != given.node.member:
        raise SettingsError(
            f"{member_dir} holds member {member.name}, the node in {home.root} belongs to {given.node.member}"
        )
    return member, given


def _marker(home: Home, role: keys.KeyRole) -> Path:
    return home.keys / f"rotation-{role}.json"


def _rotation(home: Home, role: keys.KeyRole) -> Rotation | None:
    try:
        return Rotation.from_bytes(files.read_limited(_marker(home, role), Rotation.MAX_BYTES))
    except FileNotFoundError:
        return None


def _begin(home: Home, member: Member, node: str, role: keys.KeyRole) -> Rotation:
    old = keys.load_pair(home, role)
    with connect(home) as client:
        now = client.hello().time
    new = keys.issue(home, member, node=node, role=role, now=now, suffix=NEXT)
    begun = Rotation(old_key=old.key_id, new_key=new.pair.key_id)
    files.write_atomic(_marker(home, role), begun.to_bytes())
    return begun
