"""Heads of the ledger's tree, as the core signs them and witnesses cosign them."""

from __future__ import annotations

import base64
from collections.abc import Callable

from tapestry.errors import FormatError, SignatureError
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note, NoteSignature
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol.messages import Attestation

KeyAt = Callable[[int], str]
"""The core's key that signs for a ledger of so many entries."""


def signed_checkpoint(text: str, consortium: str, core_key: KeyAt) -> Checkpoint:
    """What a note says that the core has signed.

    Raises:
        FormatError: it is no checkpoint of this consortium's ledger.
        SignatureError: the core did not sign it.
    """
    note = Note.from_bytes(text.encode())
    origin = origin_of(consortium)
    said = Checkpoint.parse(note.text)
    if said.origin != origin:
        raise FormatError(f"the checkpoint is of the ledger {said.origin}, not of {origin}")
    note.check(origin, core_key(said.size))
    return said


def cosigner(member: str, node: str) -> str:
    """Under which name a node cosigns."""
    return f"{member}/{node}"


def cosignature(head: Checkpoint, member: str, node: str, key: KeyPair, time_s: int) -> str:
    """A node's cosignature of a head, as an attestation states it."""
    note = Note(head.text).cosigned(cosigner(member, node), key, time_s)
    return base64.b64encode(note.signatures[0].data).decode("ascii")


def cosigned(note: Note, said: Attestation) -> Note:
    """A note with what a node has signed of it under it."""
    data = base64.b64decode(said.cosignature, validate=True)
    line = NoteSignature(cosigner(said.member, said.node), data)
    return Note(note.text, (*note.signatures, line))


def tree_of(said: Attestation, public_key: str, consortium: str) -> Checkpoint:
    """The head that an attestation cosigns.

    Raises:
        SignatureError: this key did not cosign it.
    """
    head = Checkpoint(origin_of(consortium), said.size, bytes.fromhex(said.root))
    note = cosigned(Note(head.text), said)
    if note.cosigned_at(cosigner(said.member, said.node), public_key) is None:
        raise SignatureError(f"{said.node} has not cosigned the tree that its attestation names")
    return head
