"""Holds a draft against a ledger. Nothing of it is believed: what is signed follows from the ledger."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from tapestry.errors import Conflict, ReleaseError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.release import card, contents, gates, leakage, messages, roles
from tapestry.release.contents import Progress
from tapestry.release.derived import (
    CATALOG,
    CURRENT_ROOT,
    CURRENT_TARGETS,
    LEAKAGE,
    MAX_CATALOG_BYTES,
    MAX_LEAKAGE_BYTES,
    MODEL,
    NEW_LIST,
    ROOT,
    SAYS,
    TARGETS,
    due,
    kept,
    read,
    targets_of,
    written,
)
from tapestry.release.published import LIST
from tapestry.release.view import Facts, View


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A draft that is what the ledger says.

    Args:
        root: who may sign after it.
        new_root: where that changes.
        current: root of what is published now.
        digests: path → SHA-256 of the new release's files.
    """

    folder: Path
    consortium: str
    root: Root
    new_root: Metadata[Any] | None
    current: Metadata[Any] | None
    targets: Metadata[Any]
    facts: Facts | None
    digests: Mapping[str, str]
    before: bytes | None
    """Targets that are published now."""

    def sources(self) -> dict[str, Path | bytes]:
        """Target path → its file in the draft, of what is new."""
        found: dict[str, Path | bytes] = {LIST: self.folder / NEW_LIST}
        if self.facts is not None:
            name = self.facts.release
            found.update({f"{name}/{path}": self.folder / MODEL / path for path in self.digests})
        return found


def check(
    folder: Path, view: View, now: datetime.datetime, progress: Progress = lambda _done, _all: None
) -> Checked:
    """Hold a draft against a ledger; what is signed follows from it, but for when it ends.

    Raises:
        ReleaseError: a file is not what follows from the ledger.
        Refused: no decision in force is for the release.
        GateNotMet: the charter's gates keep it back.
        Conflict: the holders are others by now.
    """
    said = messages.Draft.from_bytes(read(folder / SAYS))
    if said.consortium != view.consortium:
        raise ReleaseError(f"the draft is of consortium {said.consortium[:12]}, the ledger of another")
    current, before = _current(folder, view)
    files_before = {} if before is None else roles.files_of(before.signed)
    root, new_root = _root(folder, view, current, now)
    facts, digests = None, {}
    fresh: dict[str, tuple[str, int]] = {}
    if said.release is not None:
        facts = view.accepted(said.release)
        gates.require(view, facts)
        if f"{said.release}/{contents.RELEASE}" in files_before:
            raise Conflict(f"release {said.release} is published already")
        fresh = _check_model(folder, facts, view, progress)
        digests = {path.partition("/")[2]: sha for path, (sha, _) in fresh.items()}
    listed = view.listed().to_bytes()
    if read(folder / NEW_LIST) != listed:
        raise ReleaseError(
            "the list of releases is not that of the ledger",
            hint="some were accepted or revoked since, or this ledger is older; propose anew, or bring it "
            "up to date",
        )
    expected = {**kept(view, files_before), **fresh, LIST: (canonical.sha256(listed), len(listed))}
    targets = roles.parsed(read(folder / TARGETS), Targets, TARGETS)
    if roles.files_of(targets.signed) != expected:
        odd = min(expected.items() ^ roles.files_of(targets.signed).items())[0]
        raise ReleaseError(f"what is to be signed names another {odd} than follows from ledger and draft")
    _check_frame(targets.signed, 1 if before is None else before.signed.version + 1, now)
    just = roles.targets_of(expected, version=targets.signed.version, expires=targets.signed.expires)
    if targets.signed.to_dict() != just.to_dict():
        raise ReleaseError("what is to be signed has fields besides the hashes of files")
    return Checked(
        folder=folder,
        consortium=view.consortium,
        root=root,
        new_root=new_root,
        current=current,
        targets=targets,
        facts=facts,
        digests=digests,
        before=read(folder / CURRENT_TARGETS) if before is not None else None,
    )


def continues(checked: Checked, root: bytes, targets: bytes) -> None:
    """Raise unless the draft goes on from just what a repository shows, as `client.shown` gives it."""
    current = checked.current
    same = current is not None and roles.parsed(root, Root, "root").signed == current.signed
    if not same or checked.before != targets:
        raise Conflict(
            "what the draft says is published now is not what the repository shows",
            hint="do not sign; where something was published since, have the operator propose anew, else "
            "show both to the other holders",
        )


def _current(folder: Path, view: View) -> tuple[Metadata[Any] | None, Metadata[Any] | None]:
    """What is published, of which the targets are taken over that stay.

    Its root alone would prove nothing, since whoever made the draft has brought it along: as many holders as
    ever had to must have signed, with keys that are or were theirs by the ledger.
    """
    if not (folder / CURRENT_ROOT).exists():
        return None, None
    root = roles.parsed(read(folder / CURRENT_ROOT), Root, CURRENT_ROOT)
    targets = roles.parsed(read(folder / CURRENT_TARGETS), Targets, CURRENT_TARGETS)
    if root.signed.unrecognized_fields.get(roles.CONSORTIUM) != view.consortium:
        raise ReleaseError(f"{CURRENT_ROOT} is of another consortium")
    known = {
        roles.tuf_id(each.certificate.public_key): (each.certificate.member, each.certificate.public_key)
        for each in view.assembly.ring.keys.values()
        if each.certificate.role == "release" and each.certificate.member in view.ever
    }
    few = [
        what
        for what, each in ((CURRENT_ROOT, root), (CURRENT_TARGETS, targets))
        if len(roles.signers(each, known)) < view.least
    ]
    if few or roles.any_unsigned(root.signed, (("root", root), ("targets", targets))):
        raise ReleaseError(
            f"{min([*few, CURRENT_TARGETS])}, which the draft says is published now, has too few signatures "
            "of holders that the ledger knows",
            hint="do not sign; ask the operator for the repository, and compare",
        )
    return root, targets


def _root(
    folder: Path, view: View, current: Metadata[Any] | None, now: datetime.datetime
) -> tuple[Root, Metadata[Any] | None]:
    """Who may sign after this draft, and the metadata that says so if that is new."""
    new = roles.parsed(read(folder / ROOT), Root, ROOT) if (folder / ROOT).exists() else None
    before = current.signed if current is not None else None
    effective = new.signed if new is not None else before
    if effective is None:
        raise ReleaseError(f"the draft has no {ROOT}, and nothing is published before it")
    if not isinstance(effective, Root):
        raise ReleaseError(f"{ROOT} names no holders")
    wanted = due(view, roles.online_key(effective), effective.expires, before)
    if not roles.same_rules(effective, wanted):
        raise Conflict(
            "the draft's holders, their keys or their number are not those of charter and ledger",
            hint="if your ledger is older, let your node run for some seconds and look again; "
            "if they have changed, propose anew: tapestry release propose",
        )
    if new is not None:
        _check_frame(new.signed, 1 if before is None else before.version + 1, now)
    return effective, new


def _check_frame(signed: Root | Targets, version: int, now: datetime.datetime) -> None:
    if signed.version != version:
        raise ReleaseError(f"{signed.type} has version {signed.version}, where {version} comes next")
    if not now < signed.expires <= roles.in_days(now, roles.HOLDERS_DAYS + roles.SLACK_DAYS):
        raise ReleaseError(
            f"{signed.type} would hold until {signed.expires:%Y-%m-%d}, which is over or more than a year",
            hint="propose anew, and look at both machines' clocks",
        )


def _check_model(folder: Path, facts: Facts, view: View, progress: Progress) -> dict[str, tuple[str, int]]:
    """Target path → hash and length of every file of the release."""
    model = folder / MODEL
    chain, known = contents.check(model, facts.state, progress)
    catalog = read(folder / CATALOG, MAX_CATALOG_BYTES).splitlines()
    given = read(folder / LEAKAGE, MAX_LEAKAGE_BYTES).splitlines()
    data_listed = card.datasets(catalog, facts, view.assembly)
    leakages = leakage.reports(given, facts, view.assembly)
    made = written(facts, chain, known, data_listed, leakages)
    for path, data in made.items():
        file = model / path
        if file.stat().st_size != len(data) or files.read_limited(file, len(data)) != data:
            raise ReleaseError(f"{path} is not what follows from the ledger and the catalog")
    return targets_of(facts, known, made)


def signed_by(checked: Checked, given: messages.HolderSignature) -> None:
    """Raise unless everything in it is what that member may sign, of this draft, and verifies."""
    if given.consortium != checked.consortium:
        raise ReleaseError(f"the signature of {given.member} is for another consortium")
    before = checked.current.signed if checked.current is not None else None
    if given.targets is not None:
        roles.verified(checked.targets, _key(checked.root, given.member, given.targets.keyid), given.targets)
    for each in given.root:
        if checked.new_root is None:
            raise ReleaseError(f"{given.member} has signed a list of holders, and none is new")
        try:
            key = _key(checked.root, given.member, each.keyid)
        except ReleaseError:
            if before is None:
                raise
            key = _key(before, given.member, each.keyid)
        roles.verified(checked.new_root, key, each)


def _key(root: Root, member: str, keyid: str) -> str:
    if roles.members_of(root).get(keyid) != member or not member:
        raise ReleaseError(f"key {keyid[:16]} is no release key of {member} in this draft")
    return str(root.keys[keyid].keyval["public"])
