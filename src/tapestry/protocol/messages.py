"""Messages between node and core. Each is signed (DSSE) where it says so."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.layout import FragmentNumber
from tapestry.protocol.message import Message, Part

RoundNumber = Annotated[int, Field(ge=1, le=1 << 40)]
KeyId = Sha256
PublicKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""Raw Ed25519 public key, hexadecimal."""
Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Time = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")
]
"""UTC, milliseconds."""
Environment = dict[
    Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")],
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+ :/()-]{0,64}$")],
]
ReasonCode = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")]


class KeyCertificate(Message):
    """An operational key, signed by its member's root key."""

    format: Literal["tapestry.key"] = "tapestry.key"
    version: Literal[1] = 1
    member: Name
    node: Name | None
    """The node that holds it; None for a key that belongs to the member as a whole."""
    role: Literal["node", "witness", "vote", "release"]
    public_key: PublicKey
    not_before: Time
    expires: Time


class KeyRevocation(Message):
    """Ends a key from its ledger position on; signed by the member's root key."""

    format: Literal["tapestry.key-revocation"] = "tapestry.key-revocation"
    version: Literal[1] = 1
    member: Name
    key_id: KeyId
    reason: Literal["rotated", "compromised", "retired"]


class RequestProof(Message):
    """What a node signs for each request; travels in the Authorization header."""

    format: Literal["tapestry.request"] = "tapestry.request"
    version: Literal[1] = 1
    consortium: Sha256
    method: Literal["GET", "HEAD", "POST", "PUT"]
    target: Annotated[str, StringConstraints(max_length=2048)]
    """Path and query as sent."""
    body: Sha256
    """Hash of the body; of no bytes where there is none."""
    at: Time
    """The core's time as the node reckons it from the last answer."""


class WebLogin(Message):
    """What a member signs to look at a dashboard as itself. It names the dashboard, so that what one was
    given opens no other."""

    format: Literal["tapestry.web-login"] = "tapestry.web-login"
    version: Literal[1] = 1
    consortium: Sha256
    origin: Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.:\[\]-]{1,255}$")]
    """Scheme, host and port, as a browser states them."""
    challenge: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,128}$")]
    """As that dashboard gave it."""
    member: Name


class Join(Message):
    """Asks for admission with an invitation; signed by the member's root key."""

    format: Literal["tapestry.join"] = "tapestry.join"
    version: Literal[1] = 1
    consortium: Sha256
    invitation: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,128}$")]
    member: Name
    root_key: PublicKey


class Enrolment(Message):
    """A node takes part in a run from the next round on; signed by the node key."""

    format: Literal["tapestry.enrolment"] = "tapestry.enrolment"
    version: Literal[1] = 1
    consortium: Sha256
    run: Name
    plan: Sha256
    member: Name
    node: Name


class Contribution(Message):
    """A node's update for one round; signed by the node key. The bytes of the delta travel apart."""

    format: Literal["tapestry.contribution"] = "tapestry.contribution"
    version: Literal[1] = 1
    consortium: Sha256
    run: Name
    plan: Sha256
    round: RoundNumber
    fragment: FragmentNumber
    member: Name
    node: Name
    state: Sha256
    """The state that was trained from."""
    delta: Sha256
    """Digest of the delta's `Artifact`."""
    tokens: Annotated[int, Field(ge=1, le=1 << 50)]
    steps: Annotated[int, Field(ge=1, le=1 << 40)]
    data_manifest: Sha256
    """Hash of what was trained on: cards, files, tokens (docs/formats/cards.md). All of it stays at home."""
    environment: Annotated[Environment, Field(max_length=16)]
    nonce: Nonce
    checkpoint: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """A head of the ledger's tree as the core signed it and the node verified it: so what one member was
    shown travels to all others under a signature that the core cannot change. None of a node that keeps no
    ledger."""
    train_ms: Annotated[int, Field(ge=0, le=1 << 40)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """How long it trained, as the node says; the ranks are in `environment`. None, which stands in no
    canonical form, of a node that does not tell."""
    bytes: Annotated[int, Field(ge=0, le=1 << 50)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Of the delta with its manifest, likewise."""


class Attestation(Message):
    """This node has repeated a merge and found the state that the ledger names; signed by its witness key."""

    format: Literal["tapestry.attestation"] = "tapestry.attestation"
    version: Literal[1] = 1
    consortium: Sha256
    run: Name
    member: Name
    node: Name
    round: RoundNumber
    merges: Annotated[int, Field(ge=1, le=1 << 40)]
    state: Sha256
    """Base and outer state."""
    size: Annotated[int, Field(ge=1, le=1 << 53)]
    """Entries of the ledger up to the one that commits the round."""
    root: Sha256
    """Of their tree, as this node computes it."""
    cosignature: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{101}[AQgw]==$")]
    """Of that checkpoint, by the same key: what stands under a note (C2SP tlog-cosignature), base64 in
    its one form."""


class Succession(Message):
    """This member has another key speak for the ledger from now on; signed by a witness key."""

    format: Literal["tapestry.succession"] = "tapestry.succession"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    node: Name
    core_key: PublicKey
    size: Annotated[int, Field(ge=1, le=1 << 53)]
    """Entries of the ledger that the key takes over."""
    root: Sha256


class SuccessionRequest(Message):
    """Asks members to sign a `Succession`; not signed itself, since each of them looks whether it holds."""

    format: Literal["tapestry.succession-request"] = "tapestry.succession-request"
    version: Literal[1] = 1
    consortium: Sha256
    core_key: PublicKey
    size: Annotated[int, Field(ge=1, le=1 << 53)]
    root: Sha256


class Receipt(Message):
    """The core has it, durably; signed by the core's key."""

    format: Literal["tapestry.receipt"] = "tapestry.receipt"
    version: Literal[1] = 1
    consortium: Sha256
    run: Name
    round: RoundNumber
    fragment: FragmentNumber
    node: Name
    contribution: Sha256
    """Digest of the envelope."""
    sequence: Annotated[int, Field(ge=1)]
    """Position in the event log."""
    received_at: Time
    decided_by: Time
    """The ledger says by then whether it is accepted or refused, and why."""


class Score(Message):
    """Bits per byte of a shared base on a node's own valid text; signed by the node key."""

    format: Literal["tapestry.score"] = "tapestry.score"
    version: Literal[1] = 1
    consortium: Sha256
    run: Name
    member: Name
    node: Name
    merges: Annotated[int, Field(ge=0, le=1 << 40)]
    state: Sha256
    bits_per_byte: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    bytes: Annotated[int, Field(ge=1, le=1 << 50)]
    """UTF-8 bytes of text that were scored."""


class Progress(Message):
    """Where a node is in its round; not kept, not signed beyond the request."""

    format: Literal["tapestry.progress"] = "tapestry.progress"
    version: Literal[1] = 1
    round: RoundNumber
    step: Annotated[int, Field(ge=0, le=1 << 40)]
    steps: Annotated[int, Field(ge=1, le=1 << 40)]
    loss: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    """Mean of the last steps, nats a token; None where the node does not publish it."""
    tokens_per_s: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None


class Merged(Part):
    """One accepted contribution as it entered a merge."""

    node: Name
    member: Name
    contribution: Sha256
    """Digest of the envelope."""
    delta: Sha256
    weight: Annotated[int, Field(ge=0, le=1 << 24)]
    """In units of 2^-24; the weights of a merge add up to 2^24."""
