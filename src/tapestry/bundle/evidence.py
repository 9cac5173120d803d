"""Whether the statements in a bundle of evidence are about its node's contributions, and of each both."""

from __future__ import annotations

from tapestry.bundle import statement
from tapestry.bundle.folder import Folder, as_bundle_error
from tapestry.bundle.manifest import PAGE, SUMMARY
from tapestry.bundle.record import Own, Record
from tapestry.bundle.statement import DataUse, Statement
from tapestry.errors import BundleError
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing


def check_evidence(
    folder: Folder, record: Record, ring: KeyRing, own: dict[str, Own]
) -> list[tuple[str, str]]:
    """What was found, for people. Raises `BundleError` naming the file."""
    signer = folder.envelope.signatures[0].keyid
    public_key = ring.keys[signer].certificate.public_key
    expected = {statement.path_of(digest, kind) for digest in own for kind in statement.KINDS}
    for path in folder.below("statements"):
        if path not in expected:
            raise BundleError(f"{path} is about no contribution of node {folder.said.node}")
    refused, unread = 0, 0
    for digest, each in own.items():
        for kind in statement.KINDS:
            path = statement.path_of(digest, kind)
            raw = folder.read(path, Envelope.MAX_BYTES)
            with as_bundle_error(path):
                payload = Envelope.from_bytes(raw).open_bytes(statement.PAYLOAD, public_key)
                found = Statement.from_bytes(payload)
                statement.check_about(found, each)
            if (kind == "data-use") != isinstance(found.predicate, DataUse):
                raise BundleError(f"{path} is a statement of the other type")
            unread += found.predicate.lacking is not None
            if isinstance(found.predicate, DataUse):
                refused += any(not used.decision.permitted for used in found.predicate.datasets)
    for path in (*SUMMARY, PAGE):
        if path not in folder.files:
            raise BundleError(f"{path} is missing")
    words = f"{len(expected)} assertions of the owner, of each contribution both"
    if refused:
        words += f"; {refused} contributions whose data the rules would refuse now"
    if unread:
        words += f"; {unread} whose manifest or card is lost"
    return [("statements", words), ("what they say", "signed by the owner, and checked by nobody")]
