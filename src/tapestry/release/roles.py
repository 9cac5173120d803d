"""TUF metadata as this consortium has it: who signs what, and for how long it holds.

root, targets        k of n holders, with their release keys, each on its own machine
snapshot, timestamp  the core's operator, with a key of its own that signs nothing else
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from tapestry.errors import Conflict, ReleaseError, SignatureError
from tapestry.governance.state import Assembly
from tapestry.identity import keys
from tapestry.identity.keys import KeyPair, key_id
from tapestry.protocol.canonical import is_sha256
from tapestry.protocol.clock import parse_time
from tapestry.release.messages import KeySignature

MEMBERS: Final = "x-tapestry-members"
"""Of a root: key id → holder. Beside the keys, so that these are as in any other repository."""
CONSORTIUM: Final = "x-tapestry-consortium"
SPEC: Final = "1.0.31"
"""Of TUF. Fixed here: else holders with two versions of the library could never make the same."""
HOLDERS_DAYS: Final = 365
"""Root and targets; longer than a year nobody may forget to sign."""
SNAPSHOT_DAYS: Final = 30
TIMESTAMP_DAYS: Final = 7
"""How long somebody may show a mirror of yesterday."""
SLACK_DAYS: Final = 8
"""A draft may be made by a clock so far ahead."""
MAX_METADATA_BYTES: Final = 4 << 20
Files = Mapping[str, tuple[str, int]]
"""Path of a target → SHA-256 and length."""


def holders(assembly: Assembly, at: str) -> dict[str, str]:
    """The release key of each holder that has a valid one, as the charter and the ledger say.

    Raises:
        Conflict: fewer have one than must sign.
    """
    charter = assembly.governance.charter
    if charter is None:
        raise Conflict("this consortium has no charter, so that nobody may sign a release")
    now, found = parse_time(at), {}
    for member in charter.release.holders:
        if member not in assembly.ring.active:
            continue
        own = [
            entry
            for entry in assembly.ring.keys.values()
            if (entry.certificate.member, entry.certificate.role) == (member, "release")
            and entry.revoked is None
            and parse_time(entry.certificate.not_before) <= now < parse_time(entry.certificate.expires)
        ]
        if own:
            found[member] = max(own, key=lambda entry: entry.sequence).certificate.public_key
    if len(found) < charter.release.signatures:
        lacking = sorted(set(charter.release.holders) - found.keys())
        raise Conflict(
            f"{len(found)} holders have a release key, {charter.release.signatures} must sign; "
            f"{lacking[0]} has none",
            hint="each holder makes one: tapestry member key release FOLDER --core URL",
        )
    return found


def tuf_key(public_key: str) -> SSlibKey:
    """An Ed25519 key as TUF has it, under the id that other clients reckon for it, too."""
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)))


@lru_cache(maxsize=1024)
def tuf_id(public_key: str) -> str:
    """Its id in TUF's metadata; not the one it has in envelopes."""
    return str(tuf_key(public_key).keyid)


def root_of(
    holding: Mapping[str, str],
    signatures: int,
    online: str,
    *,
    consortium: str,
    version: int,
    expires: datetime.datetime,
) -> Root:
    """Who may sign what.

    Args:
        holding: holder → its release key.
        signatures: k of them.
        online: the operator's key for snapshot and timestamp.
    """
    members = {tuf_id(key): member for member, key in sorted(holding.items())}
    theirs = {tuf_id(key): tuf_key(key) for _, key in sorted(holding.items())}
    own = tuf_key(online)
    if own.keyid in theirs:
        raise Conflict("the operator's key for release lists is a holder's release key")
    ids = list(theirs)
    return Root(
        spec_version=SPEC,
        version=version,
        expires=expires,
        keys={**theirs, own.keyid: own},
        roles={
            "root": Role(ids, signatures),
            "targets": Role(ids, signatures),
            "snapshot": Role([own.keyid], 1),
            "timestamp": Role([own.keyid], 1),
        },
        consistent_snapshot=True,
        unrecognized_fields={CONSORTIUM: consortium, MEMBERS: members},
    )


def same_rules(one: Root, other: Root) -> bool:
    """Whether the same keys may sign the same."""

    def rules(root: Root) -> dict[str, Any]:
        value: dict[str, Any] = root.to_dict()
        for name in ("version", "expires"):
            del value[name]
        for role in value["roles"].values():
            role["keyids"] = sorted(role["keyids"], key=repr)
        return value

    return rules(one) == rules(other)


def online_key(root: Root) -> str:
    """The operator's key, in hexadecimal. Raises `ReleaseError` where the root names none."""
    names = root.roles["timestamp"].keyids
    public = root.keys[names[0]].keyval.get("public") if names and names[0] in root.keys else None
    if not isinstance(public, str) or not is_sha256(public):
        raise ReleaseError("the root names no key of the operator")
    return public


def members_of(root: Root) -> dict[str, str]:
    """Key id → holder."""
    named = root.unrecognized_fields.get(MEMBERS)
    known = named if isinstance(named, dict) else {}
    return {name: str(known.get(name, "")) for name in root.roles["root"].keyids}


def holders_of(root: Root) -> dict[str, tuple[str, str]]:
    """The id of a key in envelopes → holder, key."""
    public = {name: str(root.keys[name].keyval.get("public", "")) for name in root.roles["root"].keyids}
    members = members_of(root)
    return {key_id(key): (members[name], key) for name, key in public.items() if is_sha256(key)}


def targets_of(files: Files, *, version: int, expires: datetime.datetime) -> Targets:
    table = {path: TargetFile(size, {"sha256": sha}, path) for path, (sha, size) in sorted(files.items())}
    return Targets(spec_version=SPEC, version=version, expires=expires, targets=table)


def files_of(targets: Targets) -> dict[str, tuple[str, int]]:
    """Raises `ReleaseError` for targets that are not named as here."""
    found = {}
    for path, each in targets.targets.items():
        if set(each.hashes) != {"sha256"}:
            raise ReleaseError(f"{path} is not named by SHA-256 alone")
        found[path] = (each.hashes["sha256"], each.length)
    if targets.delegations is not None:
        raise ReleaseError("the list of targets hands on its powers, which no release here does")
    return found


def described(data: bytes, version: int) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def snapshot_of(
    targets: bytes, targets_version: int, *, version: int, expires: datetime.datetime
) -> Snapshot:
    meta = {"targets.json": described(targets, targets_version)}
    return Snapshot(spec_version=SPEC, version=version, expires=expires, meta=meta)


def timestamp_of(
    snapshot: bytes, snapshot_version: int, *, version: int, expires: datetime.datetime
) -> Timestamp:
    meta = described(snapshot, snapshot_version)
    return Timestamp(spec_version=SPEC, version=version, expires=expires, snapshot_meta=meta)


def sign(metadata: Metadata[Any], pair: KeyPair) -> None:
    """Add a signature."""
    add(metadata, signature(metadata, pair))


def signature(metadata: Metadata[Any], pair: KeyPair) -> KeySignature:
    return KeySignature(keyid=tuf_id(pair.public_key), sig=pair.sign(metadata.signed_bytes).hex())


def add(metadata: Metadata[Any], given: KeySignature) -> None:
    metadata.signatures[given.keyid] = Signature(given.keyid, given.sig)


def verified(metadata: Metadata[Any], public_key: str, given: KeySignature) -> None:
    """Raise `SignatureError` unless it is this key's signature of the metadata."""
    if tuf_id(public_key) != given.keyid:
        raise SignatureError(f"signature of key {given.keyid[:16]}, which is another than {public_key[:16]}")
    keys.verify(public_key, bytes.fromhex(given.sig), metadata.signed_bytes)


def lacking(root: Root, role: str, metadata: Metadata[Any]) -> tuple[int, list[str]]:
    """How many signatures a role's metadata lacks, and the holders who have not given theirs."""
    result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    members = members_of(root)
    names = [members.get(name, "operator") for name in result.unsigned]
    return result.missing, sorted(names)


def signers(metadata: Metadata[Any], known: Mapping[str, tuple[str, str]]) -> set[str]:
    """Members whose signature of it verifies.

    Args:
        known: id of a key in TUF's metadata → member, key.
    """
    found = set()
    for name, each in metadata.signatures.items():
        member, public = known.get(name, ("", ""))
        try:
            if member:
                keys.verify(public, bytes.fromhex(each.signature), metadata.signed_bytes)
                found.add(member)
        except (SignatureError, TypeError, ValueError):
            continue
    return found


def parsed(data: bytes, kind: type[Any], what: str) -> Metadata[Any]:
    """Metadata from bytes. Raises `ReleaseError`."""
    if len(data) > MAX_METADATA_BYTES:
        raise ReleaseError(f"{what} has more than {MAX_METADATA_BYTES} bytes")
    try:
        found: Metadata[Any] = Metadata.from_bytes(data)
        _ = found.signed_bytes  # what has no canonical form cannot be signed
    except (SerializationError, DeserializationError, RepositoryError) as e:
        raise ReleaseError(f"{what} is no TUF metadata: {e}") from e
    if not isinstance(found.signed, kind):
        raise ReleaseError(f"{what} is metadata of another role: {found.signed.type}")
    return found


def in_days(now: datetime.datetime, days: int) -> datetime.datetime:
    return (now + datetime.timedelta(days=days)).replace(microsecond=0)


def any_unsigned(root: Root, roles: Iterable[tuple[str, Metadata[Any]]]) -> str | None:
    """The first role whose metadata has too few signatures."""
    return next((role for role, metadata in roles if lacking(root, role, metadata)[0]), None)
