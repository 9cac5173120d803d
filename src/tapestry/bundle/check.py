"""Whether a bundle holds and is complete, in the order of docs/formats/bundle.md. Reads its folder alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.bundle import base, data
from tapestry.bundle.folder import Folder, Progress, as_bundle_error, opened
from tapestry.bundle.manifest import BUNDLE, CONSORTIUM, LEDGER, Bundle, Inclusion, Lacking
from tapestry.bundle.record import Own, Record
from tapestry.errors import BundleError, Incomplete
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing
from tapestry.identity.keys import key_id
from tapestry.ledger import tree
from tapestry.protocol import canonical
from tapestry.protocol.messages import KeyCertificate, Receipt

MAX_NOTE_BYTES: Final = 256 << 10


@dataclass
class Checked:
    """What was looked at, in a bundle that holds."""

    said: Bundle
    rows: list[tuple[str, str]] = field(default_factory=list)
    """What, and what was found; for people."""
    bases: list[base.Base] = field(default_factory=list)
    own: dict[str, Own] = field(default_factory=dict)

    @property
    def lacking(self) -> tuple[Lacking, ...]:
        return self.said.lacking

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.said.kind,
            "consortium": self.said.consortium,
            "member": self.said.member,
            "node": self.said.node,
            "complete": not self.lacking,
            "entries": self.said.entries,
            "contributions": len(self.own),
            "runs": [each.taken.model_dump(mode="json") for each in self.bases],
            "checked": dict(self.rows),
            "lacking": [each.model_dump(mode="json") for each in self.lacking],
        }


def check(
    root: Path, *, progress: Progress = lambda _done, _all: None, told: Callable[[int], None] = lambda _: None
) -> Checked:
    """All of a bundle.

    Args:
        root: its folder.
        progress: told how many bytes of how many are hashed.
        told: hears of every entry of the ledger that holds.

    Raises:
        BundleError: what does not hold, with the file.
        InputError: there is no bundle.
    """
    folder = Folder(root)
    folder.check_names()
    folder.check_hashes(progress)
    found = Checked(folder.said)
    found.rows.append(("files", f"{len(folder.files):,}, all of them there, none more, each with its hash"))
    record, ring, core_keys = _ledger(folder, told)
    found.rows.append(("ledger", f"{record.entries:,} entries hold, head {folder.said.root[:12]}"))
    _signature(folder, record, ring)
    found.rows.append(("signature", f"by a key of node {folder.said.node} that is valid at the ledger's end"))
    found.own = record.of(folder.said.only)
    if len(found.own) != folder.said.contributions:
        raise BundleError(
            f"{BUNDLE} tells of {folder.said.contributions} contributions, the ledger has {len(found.own)}"
        )
    count = _certificates(folder, record, ring)
    found.rows.append(("certificates", f"{count}, every key that the node ever had"))
    _proofs(folder, record, found.own)
    found.rows.append(("contributions", f"{len(found.own)} in the ledger, each with its proof"))
    if folder.said.kind == "exit":
        _exit(folder, record, found, core_keys)
    else:
        from tapestry.bundle.evidence import check_evidence

        found.rows += check_evidence(folder, record, ring, found.own)
    return found


def require_complete(found: Checked) -> None:
    """Raise `Incomplete` where something lacks."""
    if found.lacking:
        first = found.lacking[0]
        raise Incomplete(
            f"the bundle holds, and lacks {len(found.lacking)} things, the first: {first.what} ({first.why})",
            hint="look for them on the node's backups, and export again",
        )


def _ledger(folder: Folder, told: Callable[[int], None]) -> tuple[Record, KeyRing, frozenset[str]]:
    """What the ledger says, the keys in it, and all that the core has ever signed with."""
    record, verifier = Record(folder.said.node), Verifier(told)
    if LEDGER not in folder.files:
        raise BundleError(f"{LEDGER} is missing")
    with opened(folder.root, LEDGER), as_bundle_error(LEDGER):
        found = verifier.take(record.watch(file.read(folder.root / LEDGER)))
    said = folder.said
    if (found.consortium, found.entries, found.root) != (said.consortium, said.entries, said.root):
        raise BundleError(f"{LEDGER} is not the ledger that {BUNDLE} was signed over")
    keys = {verifier.key_at(1), *(each.key for each in verifier.ring.successions)}
    return record, verifier.ring, frozenset(keys)


def _signature(folder: Folder, record: Record, ring: KeyRing) -> None:
    with as_bundle_error(BUNDLE):
        said, signer = ring.verify(folder.envelope, Bundle, at=record.at)
    if (signer.member, signer.node) != (said.member, said.node):
        raise BundleError(f"{BUNDLE} is of node {said.node} and signed by a key of {signer.node}")


def _certificates(folder: Folder, record: Record, ring: KeyRing) -> int:
    """Of all keys of the node, as the ledger has them; and `consortium.json` beside them."""
    said = folder.said
    with as_bundle_error(CONSORTIUM):
        joined = canonical.decode(folder.read(CONSORTIUM, canonical.MAX_MESSAGE_BYTES), what=CONSORTIUM)
    expected = (said.consortium, ring.members[said.member].root_key)
    if not isinstance(joined, dict) or (joined.get("consortium"), joined.get("root_key")) != expected:
        raise BundleError(f"{CONSORTIUM} is of another consortium or member")
    names = {f"certificates/{key}.json": key for key in record.certificates}
    for path in folder.below("certificates"):
        if path not in names:
            raise BundleError(f"{path} is of no key that the ledger has for node {said.node}")
        with as_bundle_error(path):
            envelope = Envelope.from_bytes(folder.read(path, Envelope.MAX_BYTES))
            certificate = envelope.open_as(KeyCertificate, ring.members[said.member].root_key)
        if certificate != ring.keys[names.pop(path)].certificate:
            raise BundleError(f"{path} is not the certificate that the ledger has")
    if names:
        raise BundleError(f"{min(names)} is missing: the certificate of a key of node {said.node}")
    return len(record.certificates)


def _proofs(folder: Folder, record: Record, own: dict[str, Own]) -> None:
    """Each leads from the very entry that the ledger has to its root."""
    root = bytes.fromhex(folder.said.root)
    expected = {f"proofs/{digest}.json" for digest in own}
    for path in folder.below("proofs"):
        if path not in expected:
            raise BundleError(f"{path} is of no contribution of node {folder.said.node}")
    for digest, each in own.items():
        path = f"proofs/{digest}.json"
        raw = folder.read(path, Inclusion.MAX_BYTES)
        with as_bundle_error(path):
            proof = Inclusion.from_bytes(raw)
            tree.check_inclusion(
                tree.leaf_hash(proof.entry.encode()),
                each.entry.sequence - 1,
                record.entries,
                [bytes.fromhex(one) for one in proof.proof],
                root,
            )
        if (proof.checkpoint, proof.envelope.encode()) != (record.checkpoint, each.envelope):
            raise BundleError(f"{path} is of another contribution or head than its name and the ledger say")


def _exit(folder: Folder, record: Record, found: Checked, core_keys: frozenset[str]) -> None:
    said, lacking = folder.said, frozenset(each.what for each in folder.said.lacking)
    blobs = base.check_blobs(folder)
    runs = {taken.run for taken in said.runs}
    if said.only is not None and runs - {said.only}:
        raise BundleError(f"{BUNDLE} is about run {said.only} and names others")
    for run in sorted({own.said.run for own in found.own.values()} - runs):
        if f"models/{run}" not in lacking:
            raise BundleError(f"models/{run} is missing: the base of a run that the node has contributed to")
    for path in folder.below("models"):
        if path.split("/")[1] not in runs:
            raise BundleError(f"{path} is of no run that {BUNDLE} names")
    for taken in said.runs:
        found.bases.append(base.check_base(folder, record, taken))
        found.rows.append((f"base of {taken.run}", base_words(found.bases[-1])))
    cards = data.read_cards(folder)
    held = sum(data.check_manifest(folder, own, cards, lacking) for own in found.own.values())
    manifests = {own.said.data_manifest for own in found.own.values()}
    for path in folder.below("manifests"):
        if path not in {data.manifest_path(sha) for sha in manifests}:
            raise BundleError(f"{path} is named by no contribution of node {said.node}")
    found.rows.append(("cards", f"{len(cards)}; {len(manifests)} data manifests name cards {held} times"))
    kept = sum(
        base.check_update(folder, own.said.delta, base.known(record, own.said.run).plans[own.said.plan], at)
        for own in found.own.values()
        if (at := own.said.fragment) is not None
    )
    found.rows.append(("own updates", f"{kept} of {len(found.own)} kept; {blobs:,} blobs in all"))
    found.rows.append(("receipts", _receipts(folder, record, core_keys)))
    _derivatives(folder, found)


def base_words(found: base.Base) -> str:
    """One line about a base."""
    behind = found.newest - found.taken.merges
    newest = "the newest that the ledger names" if not behind else f"the ledger names {behind} newer"
    momentum = {"held": ", with momentum", "not kept": ", without momentum", "none": ""}[found.momentum]
    return (
        f"after merge {found.taken.merges}, {found.shards} shards{momentum}; {newest}; repeated and signed "
        f"by {found.attested} members"
    )


def _receipts(folder: Folder, record: Record, core_keys: frozenset[str]) -> str:
    """Counts them. One that the ledger does not bear out is evidence against the core, and no fault here."""
    paths, alone, most = folder.below("receipts"), 0, 2 * Envelope.MAX_BYTES
    for path in paths:
        raw = folder.read(path, most)
        with as_bundle_error(path):
            both = canonical.decode(raw, max_bytes=most)
            if not isinstance(both, dict) or set(both) != {"contribution", "receipt"}:
                raise BundleError(f"{path} is no contribution with its receipt")
            contribution = Envelope.from_json(both["contribution"])
            envelope = Envelope.from_json(both["receipt"])
            said = envelope.open_as(Receipt, {key_id(key): key for key in core_keys}.get)
        if (said.node, said.contribution) != (folder.said.node, contribution.digest):
            raise BundleError(f"{path} is a receipt for something else")
        alone += contribution.digest not in record.own and said.sequence <= record.entries
    against = f"; {alone} for what the ledger does not have: evidence against the core" if alone else ""
    return f"{len(paths)}, each signed by the core{against}"


def _derivatives(folder: Folder, found: Checked) -> None:
    names = {path.split("/")[1] for path in folder.below("derivatives")}
    if names != set(folder.said.derivatives):
        raise BundleError(f"derivatives/ does not hold the folders that {BUNDLE} names")
    inner = {path.split("/")[1] for path in folder.below("inner")}
    found.rows.append(("derivatives", ", ".join(sorted(names)) or "none given along"))
    found.rows.append(("inner state", ", ".join(sorted(inner)) or "none kept"))
