"""A repository in a folder: what is published, and how it changes.

    metadata/  1.root.json ... N.targets.json N.snapshot.json timestamp.json
    targets/   releases.json of each version, RELEASE/FILE; each name begins with the file's hash
    signatures/RELEASE/MEMBER.json    OpenSSF signatures

Nothing in it is secret, and no file is ever changed but `timestamp.json`, which is written last: until then
readers see what was. So a copy made by any means is a repository; one that was made while something was
published may lack a file, and says so.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from tapestry.errors import Conflict, KeyRefused, ReleaseError
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.release import roles
from tapestry.release.messages import ModelSignature

METADATA, TARGETS, SIGNATURES = "metadata", "targets", "signatures"
LIST: Final = "releases.json"
TIMESTAMP: Final = "timestamp.json"
CHANGED: Final = (
    "where publishing it was cut off, this ends it: tapestry release renew; else propose anew: tapestry "
    "release propose"
)
PIECE_BYTES: Final = 1 << 20
LOCK: Final = ".lock"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a repository shows now."""

    root: Metadata[Any]
    root_bytes: bytes
    targets: Metadata[Any]
    targets_bytes: bytes
    snapshot: int
    timestamp: int
    """Versions."""
    snapshot_bytes: bytes
    snapshot_until: datetime.datetime

    @property
    def files(self) -> dict[str, tuple[str, int]]:
        return roles.files_of(self.targets.signed)


def load(folder: Path) -> Published | None:
    """What is published in a folder; None where nothing is, or only the beginning of a first time.

    It is our own folder: signatures are looked at by those who sign and those who fetch.

    Raises:
        ReleaseError: there is something, and it is no repository.
    """
    at = folder / METADATA
    numbers = sorted(int(path.name.partition(".")[0]) for path in at.glob("[0-9]*.root.json"))
    if not numbers or not (at / TIMESTAMP).exists():
        return None
    try:
        root = _read(at / f"{numbers[-1]}.root.json")
        timestamp = roles.parsed(_read(at / TIMESTAMP), Timestamp, TIMESTAMP).signed
        number = timestamp.snapshot_meta.version
        data = _read(at / f"{number}.snapshot.json")
        snapshot = roles.parsed(data, Snapshot, "snapshot").signed
        targets = _signed_for(root, at, snapshot.meta["targets.json"].version)
    except (OSError, KeyError) as e:
        raise ReleaseError(f"{folder} is no whole repository: {e}", hint="copy it anew from a mirror") from e
    return Published(
        root=roles.parsed(root, Root, "root"),
        root_bytes=root,
        targets=roles.parsed(targets, Targets, "targets"),
        targets_bytes=targets,
        snapshot=number,
        timestamp=timestamp.version,
        snapshot_bytes=data,
        snapshot_until=snapshot.expires,
    )


def _signed_for(root: bytes, at: Path, version: int) -> bytes:
    """The list of targets that snapshot and timestamp show; or the next, where publishing was cut off behind
    a root under which that one has too few signatures: lists are written before roots."""
    data, after = _read(at / f"{version}.targets.json"), at / f"{version + 1}.targets.json"
    shown: Metadata[Any] = roles.parsed(data, Targets, "targets")
    signed: Root = roles.parsed(root, Root, "root").signed
    if after.exists() and roles.any_unsigned(signed, (("targets", shown),)):
        return _read(after)
    return data


def write(
    folder: Path,
    *,
    before: Published | None,
    root: Metadata[Any] | None,
    targets: Metadata[Any],
    new_files: dict[str, Path | bytes],
    signatures: dict[str, dict[str, ModelSignature]],
    online: KeyPair,
    now: datetime.datetime,
) -> int:
    """Publish signed metadata and the files it names; the version of the timestamp.

    Args:
        before: what `load` has given for the folder.
        root: another list of holders, with enough signatures; None where it stays.
        new_files: target path → where its bytes are.
        signatures: release → holder → its OpenSSF signature.
        online: the operator's key.
    """
    at = folder / METADATA
    with files.full_disk(folder):
        for path in (at, folder / TARGETS):
            path.mkdir(parents=True, exist_ok=True)
    with files.Lock(folder / LOCK):
        found = load(folder)
        if (found and found.targets_bytes) != (before and before.targets_bytes):
            raise Conflict(f"{folder} has changed meanwhile", hint=CHANGED)
        current = root or (before.root if before is not None else None)
        assert current is not None  # noqa: S101 - a first draft brings one
        _own(current.signed, online)
        for name, source in new_files.items():
            _put(folder / TARGETS, targets.signed.targets[name], source)
        for release, each in signatures.items():
            for member, said in each.items():
                beside = folder / SIGNATURES / release / f"{member}.json"
                beside.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomic(beside, said.to_bytes())
        data = targets.to_bytes()
        files.write_atomic(at / f"{targets.signed.version}.targets.json", data)
        snapshot = _snapshot(folder, data, targets.signed.version, found, online, now)
        if root is not None:  # seen at once by those who fetch: as late as can be
            files.write_atomic(at / f"{root.signed.version}.root.json", root.to_bytes())
        version = _timestamp(folder, *snapshot, found, online, now)
        _forget(folder, targets.signed)
    return version


def renew(folder: Path, online: KeyPair, now: datetime.datetime) -> tuple[int, datetime.datetime]:
    """Say again that this is the newest; the version of the timestamp, and until when it holds.

    Raises:
        ReleaseError: nothing is published there, or what holders have signed has run out.
        KeyRefused: the repository names another key for that.
    """
    with files.Lock(folder / LOCK):
        found = load(folder)
        if found is None:
            raise ReleaseError(
                f"nothing is published in {folder}", hint="publish first: tapestry release publish"
            )
        _own(found.root.signed, online)
        last = _ends(found)
        if last <= now:
            raise ReleaseError(
                f"what the holders have signed in {folder} ran out on {last:%Y-%m-%d}; whoever fetches "
                "refuses it, renewed or not",
                hint="have it signed anew: tapestry release propose --core HOME --repository DIR --out DRAFT",
            )
        snapshot = found.snapshot_bytes, found.snapshot
        if not _stands(found, now):
            data, number = found.targets_bytes, found.targets.signed.version
            snapshot = _snapshot(folder, data, number, found, online, now)
        version = _timestamp(folder, *snapshot, found, online, now)
        _forget(folder, found.targets.signed)  # where publishing was cut off
    return version, min(last, roles.in_days(now, roles.TIMESTAMP_DAYS))


def ends(folder: Path) -> datetime.datetime:
    """Until when holds what the holders have signed; for a folder that `renew` has renewed."""
    found = load(folder)
    assert found is not None  # noqa: S101 - it was renewed
    return _ends(found)


def _ends(found: Published) -> datetime.datetime:
    last: datetime.datetime = min(found.root.signed.expires, found.targets.signed.expires)
    return last


def _stands(found: Published, now: datetime.datetime) -> bool:
    """Whether the snapshot lasts, and is of what the newest root asks for."""
    snapshot: Metadata[Any] = roles.parsed(found.snapshot_bytes, Snapshot, "snapshot")
    return (
        found.snapshot_until >= roles.in_days(now, roles.SNAPSHOT_DAYS // 2)
        and snapshot.signed.meta["targets.json"].version == found.targets.signed.version
        and not roles.any_unsigned(found.root.signed, (("snapshot", snapshot),))
    )


def _own(root: Root, online: KeyPair) -> None:
    if roles.online_key(root) != online.public_key:
        raise KeyRefused(
            "the repository names another key of the operator for its newest state",
            hint="holders must sign for this one: tapestry release propose --core HOME --repository DIR",
        )


def _snapshot(
    folder: Path,
    targets: bytes,
    targets_version: int,
    before: Published | None,
    online: KeyPair,
    now: datetime.datetime,
) -> tuple[bytes, int]:
    """The next one, and its version."""
    number = before.snapshot + 1 if before is not None else 1
    expires = roles.in_days(now, roles.SNAPSHOT_DAYS)
    snapshot = Metadata(roles.snapshot_of(targets, targets_version, version=number, expires=expires))
    roles.sign(snapshot, online)
    data = snapshot.to_bytes()
    files.write_atomic(folder / METADATA / f"{number}.snapshot.json", data)
    return data, number


def _timestamp(
    folder: Path,
    snapshot: bytes,
    number: int,
    before: Published | None,
    online: KeyPair,
    now: datetime.datetime,
) -> int:
    """From here on everybody sees the snapshot; the version of what says so."""
    version = before.timestamp + 1 if before is not None else 1
    expires = roles.in_days(now, roles.TIMESTAMP_DAYS)
    timestamp = Metadata(roles.timestamp_of(snapshot, number, version=version, expires=expires))
    roles.sign(timestamp, online)
    files.write_atomic(folder / METADATA / TIMESTAMP, timestamp.to_bytes())
    return version


def place(target: TargetFile) -> str:
    """Where a target lies below `targets`."""
    return target.get_prefixed_paths()[0]


def _put(folder: Path, target: TargetFile, source: Path | bytes) -> None:
    path = folder / place(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        files.write_atomic(path, source)
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with files.full_disk(path):
            _copy(source, temporary, target)
            temporary.replace(path)
            files.fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(source: Path, to: Path, target: TargetFile) -> None:
    """Hashed as it is copied: others can write into a draft's folder, and since it was checked may have put
    something else there, a link to a key of this machine for example."""
    changed = ReleaseError(
        f"{source} has changed since it was checked", hint="keep others out of the draft, and publish again"
    )
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as e:
        raise changed from e
    hasher, size = hashlib.sha256(), 0
    with open(fd, "rb") as file, to.open("wb") as out:
        while size <= target.length and (piece := file.read(PIECE_BYTES)):
            hasher.update(piece)
            size += out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    if (hasher.hexdigest(), size) != (target.hashes["sha256"], target.length):
        raise changed


def _forget(folder: Path, targets: Targets) -> None:
    """Files of releases that are no longer in force. Lists stay: somebody may be reading the one before."""
    in_force = {path.partition("/")[0] for path in targets.targets if "/" in path}
    for place_of in (folder / TARGETS, folder / SIGNATURES):
        for path in place_of.iterdir() if place_of.is_dir() else ():
            if path.is_dir() and path.name not in in_force:
                shutil.rmtree(path)


def _read(path: Path) -> bytes:
    return files.read_limited(path, roles.MAX_METADATA_BYTES)
