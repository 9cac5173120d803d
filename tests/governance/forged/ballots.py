"""Ballots that must not count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from tapestry.governance import machine
from tapestry.governance.proposal import Ballot
from tapestry.identity.envelope import Envelope, EnvelopeSignature, sign_bytes
from tapestry.identity.keyring import KeyRing, Signer
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import BallotCast
from tapestry.protocol.clock import add_seconds
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import DAY, Tip, World, entry_at, text

WHO = "A ballot that must not count"
RING = "tapestry.identity.keyring.KeyRing"
RULES = "tapestry.governance.machine"
VOTERS = ("one", "two", "few", "ask", "flood")
CHOICES = ("yes", "no", "abstain")


def believed(_ring: KeyRing, envelope: Envelope, kind: Any, **_: Any) -> Any:
    """A ring that believes whoever signs."""
    said = envelope.unverified(kind)
    return said, Signer(said.member, None, "vote", "0" * 64)


BELIEVED = (f"{RING}.verify", None, believed)
UNSIGNED = ("tapestry.identity.keys.verify", None)
OWN = (f"{RING}.verify", "own is not None and named != own")
ROLE = (f"{RING}.verify", "certificate.role not in roles")
REVOKED = (
    f"{RING}._refuse_invalid",
    "entry.revoked is not None and (sequence is None or sequence > entry.revoked)",
)
EXPIRED = (f"{RING}._refuse_invalid", "moment >= parse_time(certificate.expires)")
EARLY_KEY = (f"{RING}._refuse_invalid", "moment < parse_time(certificate.not_before)")
EXPELLED = (f"{RING}._refuse_expelled", None)
NUMBER = (f"{RULES}.vote", "said.number != expected")
HERE = (f"{RULES}._here", "consortium != moment.consortium")
LATE = (f"{RULES}._refuse_late", "item.outcome is not None or at > item.closes")
BARRED = (f"{RULES}._refuse_barred", "why is not None")
SUSPENDED = (f"{RULES}._refuse_suspended", "found is not None")


def put(world: World, envelope: Envelope, *, tip: Tip | None = None) -> Forged:
    """To the rules; and what a core that takes it would write."""
    said = envelope.unverified(Ballot)
    event = BallotCast(member=said.member, proposal=said.proposal, envelope=text(envelope))
    return put_as(world, envelope, event, tip=tip)


def put_as(world: World, envelope: Envelope, event: BallotCast, *, tip: Tip | None = None) -> Forged:
    tip = tip or world.tip
    return Forged(
        act=lambda: machine.vote(tip.assembly, envelope, tip.moment), entries=(entry_at(tip, event),), tip=tip
    )


def at(world: World, time: str) -> Tip:
    return replace(world.tip, at=time)


def other_key(draw: Random) -> KeyPair:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return KeyPair(Ed25519PrivateKey.from_private_bytes(draw.randbytes(32)))


def by_key(part: Callable[[Random], str], role: str) -> Callable[[World, Random], Forged]:
    """A ballot of that member on the main vote, signed by another of its keys."""

    def make(world: World, draw: Random) -> Forged:
        who = part(draw)
        return put(world, world.ballot(who, "main", draw.choice(CHOICES), key=world.key_of(who, role)))

    return make


def of(part: str, *proposals: str) -> Callable[[World, Random], Forged]:
    """A ballot of a member that has no vote there."""

    def make(world: World, draw: Random) -> Forged:
        return put(world, world.ballot(part, draw.choice(proposals), draw.choice(CHOICES)))

    return make


@forged(
    "ballot-forged",
    "votes as a member with a key of its own making",
    "a ballot is signed by a key that the member's root key has certified",
    BELIEVED,
)
def _forged(world: World, draw: Random) -> Forged:
    return put(world, world.ballot(draw.choice(VOTERS), "main", draw.choice(CHOICES), key=other_key(draw)))


@forged(
    "ballot-altered",
    "turns the choice in a ballot that a member has signed",
    "the signature covers every byte",
    UNSIGNED,
)
def _altered(world: World, draw: Random) -> Forged:
    part, choice = draw.choice(VOTERS), draw.choice(CHOICES)
    signed = world.ballot(part, "main", choice)
    other = draw.choice([each for each in CHOICES if each != choice])
    changed = sign_bytes(
        signed.payloadType,
        signed.unverified(Ballot).model_copy(update={"choice": other}).to_bytes(),
        world.key_of(part),
    )
    return put(world, changed.model_copy(update={"signatures": signed.signatures}))


@forged(
    "ballot-signature-moved",
    "puts the signature of one ballot under another",
    "the signature covers every byte",
    UNSIGNED,
)
def _moved(world: World, draw: Random) -> Forged:
    part = draw.choice(VOTERS)
    one, other = (world.ballot(part, name, draw.choice(CHOICES)) for name in ("main", "old"))
    return put(world, one.model_copy(update={"signatures": other.signatures}))


@forged(
    "ballot-signature-broken",
    "changes a bit of the signature",
    "Ed25519",
    UNSIGNED,
)
def _broken(world: World, draw: Random) -> Forged:
    import base64

    signed = world.ballot(draw.choice(VOTERS), "main", draw.choice(CHOICES))
    (one,) = signed.signatures
    data = bytearray(base64.b64decode(one.sig))
    data[draw.randrange(64)] ^= 1 << draw.randrange(8)
    sig = EnvelopeSignature(keyid=one.keyid, sig=base64.b64encode(bytes(data)).decode())
    return put(world, signed.model_copy(update={"signatures": (sig,)}))


@forged(
    "ballot-in-anothers-name",
    "signs a ballot of another member with its own vote key",
    "the key must be that of the member in the ballot",
    OWN,
)
def _anothers(world: World, draw: Random) -> Forged:
    one, other = draw.sample(VOTERS, 2)
    return put(world, world.ballot(one, "main", draw.choice(CHOICES), key=world.key_of(other)))


forged("ballot-by-a-node", "votes with the key that lies on a member's node", "only a vote key votes", ROLE)(
    by_key(lambda _: "one", "node")
)
forged("ballot-by-a-witness", "votes with a member's witness key", "only a vote key votes", ROLE)(
    by_key(lambda _: "one", "witness")
)
forged("ballot-by-a-release-key", "votes with a member's release key", "only a vote key votes", ROLE)(
    by_key(lambda _: "one", "release")
)


@forged(
    "ballot-by-a-root-key",
    "votes with a member's root key",
    "a root key signs certificates and revocations, and nothing else",
    BELIEVED,
)
def _by_root(world: World, draw: Random) -> Forged:
    part = draw.choice(VOTERS)
    return put(world, world.ballot(part, "main", draw.choice(CHOICES), key=world.who[part].root))


forged(
    "ballot-by-a-revoked-key",
    "votes with a stolen key that its member has revoked",
    "keys are judged where the ballot stands in the ledger",
    REVOKED,
)(by_key(lambda _: "few", "stolen"))
forged(
    "ballot-by-an-expired-key",
    "votes with a key whose time is over",
    "the core's time when it comes",
    EXPIRED,
)(by_key(lambda _: "few", "expired"))
forged(
    "ballot-by-a-key-before-its-time",
    "votes with a key that is certified for later",
    "the core's time when it comes",
    EARLY_KEY,
)(by_key(lambda _: "few", "later"))
forged(
    "ballot-by-a-key-of-a-replaced-root",
    "votes with a vote key of the root key that the members have replaced",
    "with a root key all that it certified ends",
    REVOKED,
)(by_key(lambda _: "swap", "old"))
forged(
    "ballot-of-an-expelled-member",
    "votes on what was opened before its expulsion",
    "an expelled member's keys end with the decision",
    EXPELLED,
    REVOKED,
)(of("out", "main", "old"))
forged(
    "ballot-of-a-member-that-left",
    "votes for a member that has retired its keys and gone",
    "a revoked key signs nothing that comes later",
    REVOKED,
)(of("gone", "main", "old"))
forged(
    "ballot-of-a-suspended-member",
    "votes while it is suspended",
    "who is suspended takes no part",
    SUSPENDED,
)(of("sus", "main"))
forged(
    "ballot-of-one-suspended-at-the-opening",
    "votes on what was opened while it was suspended, which it is no more",
    "electors are those who stood so at the opening",
    BARRED,
)(of("was", "during"))
forged(
    "ballot-of-a-later-member",
    "votes on what was opened before it joined",
    "electors are the members at the opening",
    BARRED,
)(of("new", "main", "old", "during"))
forged(
    "ballot-about-itself",
    "votes on a decision that is about itself",
    "the party that a decision is about has no vote",
    BARRED,
)(of("two", "about"))
forged(
    "ballot-without-a-seat",
    "votes as an auditor without a seat",
    "who has no seat has no vote",
    BARRED,
)(of("aud", "main", "old", "about"))


@forged(
    "ballot-of-an-outsider",
    "votes in the name of somebody who is no member, with a key of its own",
    "only members' certified keys vote",
    BELIEVED,
    BARRED,
)
def _outsider(world: World, draw: Random) -> Forged:
    return put(world, world.ballot("friend", draw.choice(("main", "old")), draw.choice(CHOICES)))


@forged(
    "ballot-replayed",
    "puts a ballot of yesterday behind that of today",
    "ballots are numbered by whoever signs them",
    NUMBER,
)
def _replayed(world: World, draw: Random) -> Forged:
    part = draw.choice(("one", "few"))
    return put(world, world.cast[part, "main", 1])


@forged(
    "ballot-number-again",
    "casts another ballot under the number of its last one",
    "a member's next ballot has the next number",
    NUMBER,
)
def _again(world: World, draw: Random) -> Forged:
    part = draw.choice(("one", "two", "few"))
    last = world.item("main").last(world.name(part))
    assert last is not None
    other = draw.choice([each for each in CHOICES if each != last.choice])
    return put(world, world.ballot(part, "main", other, number=last.number))


@forged(
    "ballot-old-number",
    "casts a new ballot under an older number than its last",
    "a member's next ballot has the next number",
    NUMBER,
)
def _old_number(world: World, draw: Random) -> Forged:
    part = draw.choice(("one", "few"))
    return put(world, world.ballot(part, "main", "abstain", number=1, reason=f"{draw.random()}"))


@forged(
    "ballot-number-skipped",
    "leaves numbers out, so that ballots could be put between later",
    "a member's next ballot has the next number",
    NUMBER,
)
def _skipped(world: World, draw: Random) -> Forged:
    part = draw.choice(VOTERS)
    number = world.vote(part, "main", "yes")["number"] + draw.randint(1, 90)
    return put(world, world.ballot(part, "main", draw.choice(CHOICES), number=number))


@forged(
    "ballot-late",
    "votes after the deadline, by the core's clock",
    "a deadline is a deadline, and the decision stands before all that comes later",
    LATE,
)
def _late(world: World, draw: Random) -> Forged:
    time = add_seconds(world.item("old").closes, draw.choice((0.001, 1, 3600, draw.random() * 20 * DAY)))
    return put(world, world.ballot(draw.choice(VOTERS[:3]), "old", draw.choice(CHOICES)), tip=at(world, time))


@forged(
    "ballot-after-the-decision",
    "votes on what is decided",
    "a decided vote takes no ballot",
    LATE,
)
def _after(world: World, draw: Random) -> Forged:
    name = draw.choice(("lost", "change", "admit", "expel", "key"))
    return put(world, world.ballot(draw.choice(("one", "two", "ask")), name, draw.choice(CHOICES)))


@forged(
    "ballot-before-the-opening",
    "votes before a vote is opened, as a core whose clock went back would take it",
    "no ballot counts before the opening",
    (f"{RULES}._refuse_late", "at < item.opened"),
)
def _before(world: World, draw: Random) -> Forged:
    time = add_seconds(world.item("main").opened, -draw.choice((0.001, 1, 60, 3600 * draw.random())))
    return put(
        world, world.ballot(draw.choice(VOTERS[:3]), "main", draw.choice(CHOICES)), tip=at(world, time)
    )


@forged(
    "ballot-of-another-consortium",
    "brings a ballot that was signed for another consortium",
    "the consortium is in what is signed",
    HERE,
)
def _elsewhere(world: World, draw: Random) -> Forged:
    part = draw.choice(VOTERS)
    return put(world, world.ballot(part, "main", draw.choice(CHOICES), consortium=draw.randbytes(32).hex()))


def _any(assembly: Any) -> Any:
    return assembly.governance.open[-1]


@forged(
    "ballot-on-nothing",
    "votes on a proposal that nobody has made",
    "a ballot names a proposal of this ledger",
    (f"{RULES}.vote", "assembly.governance.proposals.get(said.proposal)", _any, "assembly"),
)
def _on_nothing(world: World, draw: Random) -> Forged:
    part = draw.choice(VOTERS)
    return put(
        world, world.ballot(part, "main", draw.choice(CHOICES), proposal=draw.randbytes(32).hex(), number=1)
    )


@forged(
    "ballot-signed-by-two",
    "adds the signature of another member",
    "a ballot has one signature",
    (f"{RING}.verify", "len(envelope.signatures) != 1"),
    ("tapestry.identity.envelope._only", None, lambda key: lambda _name: key),
    UNSIGNED,
    (
        "tapestry.identity.envelope.Envelope._verify",
        "public_key is None or keys.key_id(public_key) != signature.keyid",
    ),
    OWN,
)
def _by_two(world: World, draw: Random) -> Forged:
    one, other = draw.sample(VOTERS, 2)
    return put(world, world.ballot(one, "main", draw.choice(CHOICES)).add_signature(world.key_of(other)))


@forged(
    "ballot-under-another-type",
    "signs a ballot under the type of another message",
    "the type is signed too, and asked for",
    ("tapestry.identity.envelope.Envelope._verify", "self.payloadType != expected"),
)
def _other_type(world: World, draw: Random) -> Forged:
    part = draw.choice(VOTERS)
    signed = world.ballot(part, "main", draw.choice(CHOICES))
    kind = draw.choice(("proposal", "charter-signature", "contribution", "ballot2", "x"))
    data = signed.unverified(Ballot).to_bytes()
    return put(world, sign_bytes(f"application/vnd.tapestry.{kind}+json", data, world.key_of(part)))
