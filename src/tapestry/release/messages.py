"""What a release says of itself, and what holders sign beside TUF's metadata: docs/formats/releases.md."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import KeyId, Time

FilePath = Annotated[
    str,
    StringConstraints(pattern=r"^(?:[a-z]{1,32}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", max_length=160),
]
"""A file of a release; at most one folder deep, never one that leads out of it."""
MAX_FILES = 256
MAX_FILE_BYTES = 1 << 46


class File(Part):
    path: FilePath
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Release(Message):
    """`release.json`: which decision it follows, what of the ledger it is, and all its other files."""

    format: Literal["tapestry.release"] = "tapestry.release"
    version: Literal[1] = 1

    consortium: Sha256
    release: Name
    decision: Sha256
    """The proposal to accept it."""
    sequence: Annotated[int, Field(ge=1, le=1 << 53)]
    """Of the entry that decided it."""
    at: Time
    """Of that entry."""
    charter: Sha256
    """In force then."""
    run: Name
    merges: Annotated[int, Field(ge=0, le=1 << 40)]
    plan: Sha256
    state: Sha256
    base: Sha256
    model: Sha256
    files: Annotated[tuple[File, ...], Field(min_length=1, max_length=MAX_FILES)]
    """By path; without `release.json`."""


class Listed(Part):
    """A release that was accepted."""

    release: Name
    decision: Sha256
    state: Sha256
    at: Time
    revoked: Sha256 | None
    """The proposal that revoked it."""
    revoked_at: Time | None


class Releases(Message):
    """`releases.json`: all that were ever accepted, in the order of the decisions, and which are in force."""

    format: Literal["tapestry.releases"] = "tapestry.releases"
    version: Literal[1] = 1

    consortium: Sha256
    title: Annotated[str, StringConstraints(max_length=200)]
    releases: Annotated[tuple[Listed, ...], Field(max_length=10_000)]


class ModelKey(Message):
    """The key with which a holder signs model folders (OpenSSF); signed by its release key."""

    format: Literal["tapestry.model-key"] = "tapestry.model-key"
    version: Literal[1] = 1

    consortium: Sha256
    member: Name
    public_key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/= \n-]+$", max_length=1000)]
    """PEM of a key on the curve P-256."""


class ModelSignature(Message):
    """A holder's OpenSSF signature of a release; lies beside the targets, for tools that know no TUF."""

    format: Literal["tapestry.model-signature"] = "tapestry.model-signature"
    version: Literal[1] = 1

    release: Name
    key: Annotated[str, StringConstraints(max_length=4096)]
    """Envelope of a `ModelKey`."""
    bundle: Annotated[str, StringConstraints(max_length=256 << 10)]
    """Sigstore bundle."""


class KeySignature(Part):
    keyid: KeyId
    sig: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class HolderSignature(Message):
    """What a holder sends back for a draft."""

    format: Literal["tapestry.release-signature"] = "tapestry.release-signature"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 1 << 20

    consortium: Sha256
    member: Name
    targets: KeySignature | None
    """By the holder's key in force; None of one that was a holder, and agrees to the new ones."""
    root: Annotated[tuple[KeySignature, ...], Field(max_length=64)]
    """With each of its keys that the old holders' list or the new one names; none where the list stays."""
    model: ModelSignature | None


class Draft(Message):
    """`draft.json`: what a draft is about."""

    format: Literal["tapestry.release-draft"] = "tapestry.release-draft"
    version: Literal[1] = 1

    consortium: Sha256
    release: Name | None
    """What is new in it; None where only the list of releases or of holders changes."""
