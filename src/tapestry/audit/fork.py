"""A proof that a core has signed two histories that exclude each other. It needs nobody's word.

Two checkpoints of one ledger, both signed by the core's key, and a consistency proof (RFC 9162, section
2.1.4) that shows what the second tree was at the first one's size: another tree. The founding entry is with
it: its hash is the consortium's id, which the checkpoints name, and the core's key stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from tapestry.audit.heads import signed_checkpoint
from tapestry.errors import IntegrityError
from tapestry.ledger import tree
from tapestry.ledger.entries import Entry, Founded, consortium_event
from tapestry.protocol.canonical import Sha256
from tapestry.protocol.message import Message

Text = Annotated[str, StringConstraints(max_length=4096)]


class ForkProof(Message):
    """`first` is of no more entries than `second`."""

    format: Literal["tapestry.fork"] = "tapestry.fork"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 10

    founding: Entry
    first: Text
    second: Text
    root: Sha256
    """Of the second tree when it had the size of the first."""
    proof: Annotated[tuple[Sha256, ...], Field(max_length=tree.MAX_PROOF)]

    def check(self) -> str:
        """The consortium whose core it convicts. Raises `IntegrityError` or `SignatureError` where it proves
        nothing."""
        event = consortium_event(self.founding)
        if not isinstance(event, Founded) or self.founding.sequence != 1:
            raise IntegrityError("the proof's first entry founds no consortium")
        consortium = self.founding.digest
        first, second = (
            signed_checkpoint(text, consortium, lambda _: event.core_key)
            for text in (self.first, self.second)
        )
        if first.size > second.size:
            raise IntegrityError("the first checkpoint of the proof is of more entries than the second")
        tree.check_consistency(
            first.size,
            bytes.fromhex(self.root),
            second.size,
            second.root,
            [bytes.fromhex(each) for each in self.proof],
        )
        if bytes.fromhex(self.root) == first.root:
            raise IntegrityError("the two checkpoints do not contradict each other")
        return consortium


def prove(entries: Sequence[Entry], head: str, seen: str) -> ForkProof:
    """That the core signed `head` over these entries, or over the first of them, and `seen` over others.

    Raises:
        IntegrityError: it does not follow.
    """
    founding = entries[0]
    event = consortium_event(founding)
    if not isinstance(event, Founded):
        raise IntegrityError("the ledger does not begin with a founding")
    told = [signed_checkpoint(text, founding.digest, lambda _: event.core_key) for text in (head, seen)]
    grown = tree.Tree(tree.leaf_hash(entry.to_bytes()) for entry in entries)
    ours, theirs = told
    if ours.size > grown.size or grown.root(ours.size) != ours.root:
        raise IntegrityError("the head is not of these entries")
    if theirs.size > ours.size:
        raise IntegrityError("what was seen is of more entries than are known here")
    shown = ForkProof(
        founding=founding,
        first=seen,
        second=head,
        root=grown.root(theirs.size).hex(),
        proof=tuple(each.hex() for each in grown.consistency(theirs.size, ours.size)),
    )
    shown.check()
    return shown
