"""Proposals that must not be put to the vote."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tapestry.governance import machine
from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Charter
from tapestry.governance.proposal import Proposal, Subject
from tapestry.governance.words import seconds
from tapestry.identity.envelope import Envelope, sign_bytes
from tapestry.ledger.entries import ProposalOpened
from tapestry.protocol.clock import add_seconds
from tests.governance.forged.ballots import (
    BELIEVED,
    EXPELLED,
    EXPIRED,
    HERE,
    OWN,
    REVOKED,
    ROLE,
    RULES,
    UNSIGNED,
    other_key,
)
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import Tip, World, entry_at, text

WHO = "A proposal that must not be put to the vote"
MAY = (f"{RULES}.propose", "not may_propose(charter, kind, own)")
DOES = (
    f"{RULES}.propose",
    "(why := hindrance(assembly, said.subject, moment.at, opening=True)) is not None",
)
UNDER = (f"{RULES}.propose", "said.charter != charter.digest")
CAPTURED = (f"{RULES}.capture.accept", None)
ABLE = ("ask", "one", "two", "few", "was")


def put(world: World, envelope: Envelope, *, tip: Tip | None = None) -> Forged:
    tip = tip or world.tip
    said = envelope.unverified(Proposal)
    rule = world.second_charter.decisions[said.subject.kind]
    event = ProposalOpened(
        member=said.member,
        proposal=said.digest,
        closes=add_seconds(tip.at, seconds(rule.voting)),
        envelope=text(envelope),
    )
    return Forged(
        act=lambda: machine.propose(tip.assembly, envelope, tip.moment),
        entries=(entry_at(tip, event),),
        tip=tip,
    )


def some(world: World, draw: Random) -> Subject:
    """A subject that has something to do."""
    member = world.name(draw.choice(("flood", "few")))
    return draw.choice(
        (
            subjects.OpenPhase(phase=f"p{draw.randrange(1 << 30)}"),
            subjects.Admit(member=f"m{draw.randrange(1 << 30)}"),
            subjects.Suspend(member=member),
            subjects.Expel(member=member),
            subjects.RatifyPlan(run="run", plan=draw.randbytes(32).hex()),
            subjects.AcceptRelease(release="one", state=draw.randbytes(32).hex()),
            subjects.AppointOperator(member=member),
            subjects.ReplaceRootKey(member=member, root_key=other_key(draw).public_key),
            subjects.ChangeCharter(charter=next_charter(world, title=f"{draw.random()}")),
        )
    )


def next_charter(world: World, **fields: Any) -> Charter:
    return world.second_charter.model_copy(update={"revision": 3, **fields})


def from_one(part: str, role: str = "vote") -> Callable[[World, Random], Forged]:
    """Signed by that key of that member."""

    def make(world: World, draw: Random) -> Forged:
        return put(world, world.proposal(part, some(world, draw), key=world.key_of(part, role)))

    return make


def asking(subject: Callable[[World, Random], Subject]) -> Callable[[World, Random], Forged]:
    """Of a member that may ask, about what cannot be asked."""

    def make(world: World, draw: Random) -> Forged:
        return put(world, world.proposal(draw.choice(ABLE), subject(world, draw)))

    return make


# -- who asks -----------------------------------------------------------------------------------


@forged(
    "proposal-forged",
    "asks in the name of a member with a key of its own making",
    "a proposal is signed by a certified vote key",
    BELIEVED,
)
def _forged(world: World, draw: Random) -> Forged:
    return put(world, world.proposal(draw.choice(ABLE), some(world, draw), key=other_key(draw)))


@forged(
    "proposal-altered",
    "changes the subject of what a member has signed",
    "the signature covers every byte",
    UNSIGNED,
)
def _altered(world: World, draw: Random) -> Forged:
    part = draw.choice(ABLE)
    signed = world.proposal(part, subjects.OpenPhase(phase="calm"))
    said = signed.unverified(Proposal).model_copy(update={"subject": some(world, draw)})
    made = sign_bytes(signed.payloadType, said.to_bytes(), world.key_of(part))
    return put(world, made.model_copy(update={"signatures": signed.signatures}))


@forged(
    "proposal-in-anothers-name",
    "asks as another member, with its own vote key",
    "the key must be that of the member in the proposal",
    OWN,
)
def _anothers(world: World, draw: Random) -> Forged:
    one, other = draw.sample(ABLE, 2)
    return put(world, world.proposal(one, some(world, draw), key=world.key_of(other)))


forged("proposal-by-a-node", "asks with the key that lies on a member's node", "only a vote key asks", ROLE)(
    from_one("one", "node")
)
forged("proposal-by-a-witness", "asks with a member's witness key", "only a vote key asks", ROLE)(
    from_one("one", "witness")
)
forged("proposal-by-a-release-key", "asks with a member's release key", "only a vote key asks", ROLE)(
    from_one("one", "release")
)
forged(
    "proposal-by-a-revoked-key",
    "asks with a stolen key that its member has revoked",
    "keys are judged where the proposal stands in the ledger",
    REVOKED,
)(from_one("few", "stolen"))
forged(
    "proposal-by-an-expired-key",
    "asks with a key whose time is over",
    "the core's time when it comes",
    EXPIRED,
)(from_one("few", "expired"))
forged(
    "proposal-by-a-key-of-a-replaced-root",
    "asks with a vote key of the root key that the members have replaced",
    "with a root key all that it certified ends",
    REVOKED,
)(from_one("swap", "old"))
forged(
    "proposal-of-a-member-that-left",
    "asks for a member that has retired its keys and gone",
    "a revoked key signs nothing that comes later",
    REVOKED,
)(from_one("gone"))
forged(
    "proposal-of-an-expelled-member",
    "asks after its expulsion",
    "an expelled member's keys end with the decision",
    EXPELLED,
    REVOKED,
)(from_one("out"))
forged(
    "proposal-of-a-suspended-member",
    "asks for something else than an appeal while it is suspended",
    "who is suspended may appeal, and no more",
    MAY,
)(from_one("sus"))
forged(
    "proposal-by-a-role-that-may-not",
    "asks as an auditor what members and stewards may ask",
    "the charter says which roles may propose what",
    MAY,
)(from_one("aud"))


@forged(
    "proposal-of-an-outsider",
    "asks in the name of somebody who is no member",
    "only members' certified keys ask",
    BELIEVED,
)
def _outsider(world: World, draw: Random) -> Forged:
    return put(world, world.proposal("friend", some(world, draw)))


forged(
    "proposal-flood",
    "opens a seventeenth vote while sixteen of its own are open",
    "16 open proposals a member",
    (f"{RULES}.propose", "sum(each.member == said.member for each in governance.open) >= MAX_OPEN"),
)(from_one("flood"))

# -- where it belongs ---------------------------------------------------------------------------


@forged(
    "proposal-of-another-consortium",
    "brings a proposal that was signed for another consortium",
    "the consortium is in what is signed",
    HERE,
)
def _elsewhere(world: World, draw: Random) -> Forged:
    envelope = world.proposal(draw.choice(ABLE), some(world, draw), consortium=draw.randbytes(32).hex())
    return put(world, envelope)


@forged(
    "proposal-under-a-former-charter",
    "asks under the charter before, whose rule was easier",
    "a proposal names the charter in force",
    UNDER,
)
def _former(world: World, draw: Random) -> Forged:
    envelope = world.proposal(draw.choice(ABLE), some(world, draw), charter=world.charter.digest)
    return put(world, envelope)


@forged(
    "proposal-under-no-charter",
    "asks under a charter that this consortium never had",
    "a proposal names the charter in force",
    UNDER,
)
def _under_none(world: World, draw: Random) -> Forged:
    other = draw.choice((draw.randbytes(32).hex(), "0" * 64, next_charter(world).digest))
    return put(world, world.proposal(draw.choice(ABLE), some(world, draw), charter=other))


@forged(
    "proposal-replayed",
    "puts a proposal that was voted down to the vote again, as its author signed it",
    "a proposal stands once; to ask again is to sign again",
    (f"{RULES}.propose", "digest in governance.proposals"),
)
def _replayed(world: World, draw: Random) -> Forged:
    return put(world, world.sent[draw.choice(("main", "about", "during"))])


@forged(
    "proposal-of-an-old-charters-time-replayed",
    "puts a proposal of the charter before to the vote again",
    "a proposal stands once, and under the charter in force",
    (f"{RULES}.propose", "digest in governance.proposals"),
    UNDER,
)
def _replayed_old(world: World, draw: Random) -> Forged:
    return put(world, world.sent[draw.choice(("lost", "old"))])
