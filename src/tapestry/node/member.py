"""A member's own folder: its name and its root key, which never lies on a node's host for longer than
it takes to sign.

    root.key 0600    Ed25519, PKCS8 PEM
    member.json      name and public half of the root key
    vote.key 0600, vote.cert.json, consortium.json    where it votes, and with what (see `council`)
    release.key, model.key 0600, former/    of a holder, to sign releases (see `releasing`)
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tapestry.errors import Conflict, InputError, SettingsError, TapestryError
from tapestry.host import files
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import make_certificate
from tapestry.identity.keys import KeyPair
from tapestry.protocol.canonical import Name, is_name
from tapestry.protocol.clock import add_seconds, format_time
from tapestry.protocol.message import Message
from tapestry.protocol.messages import PublicKey

DAY_S: Final = 86_400.0
BACKDATED_S: Final = 7 * DAY_S
"""A certificate is valid from this long ago, since the core's clock judges it."""
LIFETIME_S: Final = 365 * DAY_S
MAX_KEY_BYTES: Final = 16 << 10


class MemberFile(Message):
    """Who a member is."""

    format: Literal["tapestry.member"] = "tapestry.member"
    version: Literal[1] = 1
    name: Name
    root_key: PublicKey


@dataclass(frozen=True)
class Member:
    """A member with its root key at hand."""

    name: str
    root: KeyPair

    def certify(
        self,
        *,
        node: str | None,
        role: Literal["node", "witness", "vote", "release"],
        public_key: str,
        now: str,
    ) -> Envelope:
        """A certificate for a key of a node, or of the member itself, valid for a year from `now` on."""
        return make_certificate(
            self.root,
            member=self.name,
            node=node,
            role=role,
            public_key=public_key,
            not_before=add_seconds(now, -BACKDATED_S),
            expires=add_seconds(now, LIFETIME_S),
        )


def local_now() -> str:
    """This machine's clock; only for certificates, which `join` renews where the core's differs."""
    return format_time(datetime.datetime.now(datetime.UTC))


def member_init(folder: Path, name: str) -> Member:
    """Make a member's folder with a new root key.

    Raises:
        InputError: not a member's name.
        Conflict: the folder holds a member already.
    """
    if not is_name(name):
        raise InputError(
            f"{name!r} cannot be a member's name",
            hint="use a-z, 0-9, '.', '_' and '-', at most 64, beginning and ending with a letter or digit",
        )
    if (folder / "root.key").exists() or (folder / "member.json").exists():
        raise Conflict(f"{folder} holds a member already", hint="choose another folder")
    with files.full_disk(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = KeyPair.generate()
    files.private_write(folder / "root.key", root.to_pem())
    files.write_atomic(folder / "member.json", MemberFile(name=name, root_key=root.public_key).to_bytes())
    return Member(name, root)


def load_member(folder: Path) -> Member:
    """The member of a folder. Raises `SettingsError` naming the file that is wrong."""
    told = load_name(folder)
    root = read_key(folder / "root.key")
    if root.public_key != told.root_key:
        raise SettingsError(f"{folder / 'root.key'} is not the key that member.json names")
    return Member(told.name, root)


def load_name(folder: Path) -> MemberFile:
    """Who a folder belongs to; its root key may be elsewhere. Raises `SettingsError`."""
    try:
        return MemberFile.from_bytes(files.read_limited(folder / "member.json", MAX_KEY_BYTES))
    except FileNotFoundError as e:
        raise SettingsError(
            f"{folder} is not a member's folder: it has no member.json",
            hint="make one with: tapestry member init",
        ) from e
    except (OSError, TapestryError) as e:
        raise SettingsError(f"{folder / 'member.json'} cannot be read: {e}") from e


def read_key(path: Path) -> KeyPair:
    """A private key file. Raises `SettingsError`, which never repeats the content."""
    try:
        return KeyPair.from_pem(files.read_limited(path, MAX_KEY_BYTES))
    except (OSError, TapestryError) as e:
        raise SettingsError(f"key {path} cannot be read: {e}") from e
