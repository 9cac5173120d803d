"""Entries that say something else than what is signed in them, and members and keys that nobody allowed."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tapestry.governance.proposal import Ballot
from tapestry.identity.keyring import make_join
from tapestry.ledger.entries import BallotCast, Entry, MemberAdmitted, ProposalOpened
from tapestry.protocol.clock import add_seconds
from tests.governance.forged.ballots import EXPELLED, RING, VOTERS
from tests.governance.forged.ledgers import REPEATED, certified, lie, opened
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import DAY, World, entry_at, text

WHO = "A core that writes what nobody signed, or takes in whom nobody admitted"


# -- what stands beside the signed message --------------------------------------------------------


@forged(
    "voting-time-moved",
    "gives its friends longer to vote, or its opponents shorter",
    "the charter says how long is voted",
    REPEATED,
)
def _closes(world: World, draw: Random) -> Forged:
    event = opened(world.tip, world, draw)
    moved = draw.choice((0.001, 60, DAY, 300 * DAY, -0.001, -60))
    return lie(world.tip, event.model_copy(update={"closes": add_seconds(event.closes, moved)}))


@forged(
    "contributions-that-do-not-count",
    "states contributions where votes weigh the same, so that some programs might count them",
    "what members contributed is stated where votes go by it, and as the merges give it",
    REPEATED,
)
def _contributions(world: World, draw: Random) -> Forged:
    names = draw.sample(world.assembly.members(), 3)
    given = {name: draw.randint(0, 100) for name in names}
    return lie(world.tip, opened(world.tip, world, draw, contributions=given))


@forged(
    "proposal-under-another-name",
    "records a proposal under another hash, or as another member's",
    "the entry is made again from what was signed",
    REPEATED,
)
def _renamed(world: World, draw: Random) -> Forged:
    other = {"proposal": draw.randbytes(32).hex()} if draw.random() < 0.5 else {"member": world.name("flood")}
    return lie(world.tip, opened(world.tip, world, draw, **other))


@forged(
    "ballot-for-another-proposal",
    "counts a ballot for another proposal than it names",
    "the ballot names its proposal",
    REPEATED,
)
def _for_other(world: World, draw: Random) -> Forged:
    envelope = world.ballot(draw.choice(VOTERS), "main", draw.choice(("yes", "no")))
    said = envelope.unverified(Ballot)
    other = world.ids[draw.choice(("old", "flood1", "about"))]
    return lie(world.tip, BallotCast(member=said.member, proposal=other, envelope=text(envelope)))


@forged(
    "ballot-as-anothers",
    "records a member's ballot as that of another",
    "the ballot names its member",
    REPEATED,
)
def _as_other(world: World, draw: Random) -> Forged:
    one, other = draw.sample(VOTERS, 2)
    envelope = world.ballot(one, "main", draw.choice(("yes", "no")))
    said = envelope.unverified(Ballot)
    return lie(
        world.tip, BallotCast(member=world.name(other), proposal=said.proposal, envelope=text(envelope))
    )


@forged(
    "ballot-recorded-twice",
    "records one ballot twice",
    "a ballot stands once",
    ("tapestry.governance.machine.vote", "last is not None and last.ballot == digest"),
    ("tapestry.governance.machine.vote", "said.number != expected"),
)
def _ballot_twice(world: World, draw: Random) -> Forged:
    part, name, number = draw.choice(
        [
            key
            for key in world.cast
            if key[1] in ("main",) and (key[0], key[2]) in (("one", 2), ("two", 1), ("few", 2))
        ]
    )
    envelope = world.cast[part, name, number]
    said = envelope.unverified(Ballot)
    return lie(world.tip, BallotCast(member=said.member, proposal=said.proposal, envelope=text(envelope)))


@forged(
    "entry-with-another-field",
    "adds to an entry what only some programs read",
    "an entry states its event's fields, and nothing else",
    ("tapestry.audit.verify.consortium_event", None, lambda entry: _known(entry)),
    ("tapestry.audit.verify._says", 'body.pop("type") == entry.type and body == entry.body', lambda: True),
)
def _more(world: World, draw: Random) -> Forged:
    event = opened(world.tip, world, draw)
    entry = entry_at(world.tip, event)
    body = {**entry.body, draw.choice(("note", "weight", "quorum")): draw.choice(("x", 1, None))}
    return Forged(entries=(entry.model_copy(update={"body": body}),), tip=world.tip)


def _known(entry: Entry) -> ProposalOpened:
    known = ProposalOpened.model_fields.keys() & entry.body.keys()
    return ProposalOpened(**{name: entry.body[name] for name in known})


# -- members and their keys ---------------------------------------------------------------------


@forged(
    "member-that-nobody-admitted",
    "lets a friend of the operator join who then votes",
    "who joins was admitted by vote, or is named by the charter",
    ("tapestry.audit.verify.may_join", None),
)
def _stranger(world: World, draw: Random) -> Forged:
    person = replace(world.who["friend"], name=f"m{draw.randrange(1 << 30)}", root=world.key())
    join = make_join(person.root, consortium=world.consortium, invitation="A" * 43, member=person.name)
    event = MemberAdmitted(member=person.name, root_key=person.root.public_key, envelope=text(join))
    return lie(world.tip, event)


@forged(
    "key-of-an-expelled-member",
    "certifies a new vote key for an expelled member, by its own root key",
    "an expelled member's root key certifies nothing",
    EXPELLED,
)
def _expelled(world: World, draw: Random) -> Forged:
    person = world.who["out"]
    return lie(
        world.tip, certified(world, replace(person, keys={**person.keys, "vote": world.key()}), "vote")
    )


@forged(
    "key-by-a-replaced-root",
    "certifies a vote key by the root key that the members have replaced",
    "a member's root key is that which the last decision gave it",
    (f"{RING}._from_root", None, lambda _ring, envelope, kind: envelope.unverified(kind)),
)
def _old_root(world: World, draw: Random) -> Forged:
    person = world.who["swap"]
    before = replace(person, root=person.spare[0], keys={**person.keys, "vote": world.key()})
    return lie(world.tip, certified(world, before, "vote"))


@forged(
    "key-certified-for-another",
    "certifies a vote key for another member, by its own root key",
    "a root key certifies keys of its own member",
    (f"{RING}._from_root", "message.member != member"),
)
def _for_another(world: World, draw: Random) -> Forged:
    one, other = draw.sample(VOTERS, 2)
    mine = replace(world.who[other], root=world.who[one].root, keys={"vote": world.key()})
    return lie(world.tip, certified(world, mine, "vote"))


@forged(
    "key-used-by-two",
    "certifies as its own the vote key of another member",
    "a key has one holder",
    (
        f"{RING}.refuse_used",
        "name in self.keys or self._root(name) is not None or name in map(key_id, former)",
    ),
    ("tapestry.audit.members._one", None),
)
def _shared(world: World, draw: Random) -> Forged:
    one, other = draw.sample(VOTERS, 2)
    mine = replace(world.who[one], keys={"vote": world.key_of(other)})
    return lie(world.tip, certified(world, mine, "vote"))
