"""First charters that not everybody has signed, or that another has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from tapestry.governance import machine
from tapestry.governance.charter import Charter
from tapestry.governance.proposal import CharterSignature
from tapestry.identity.envelope import Envelope, sign_bytes
from tapestry.ledger.entries import CharterAdopted
from tapestry.protocol import canonical
from tapestry.protocol.clock import add_seconds
from tests.governance.forged.ballots import BELIEVED, EXPIRED, OWN, ROLE, RULES, UNSIGNED, other_key
from tests.governance.forged.proposals import CAPTURED
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import DAY, PARTS, START, Tip, World, entry_at, text

WHO = "A first charter that not all members have signed"
MISSING = (f"{RULES}.adopt", "missing := sorted(named - signed.keys())")
OTHER = (f"{RULES}.adopt", "(said.consortium, said.charter) != (moment.consortium, charter.digest)")
NAMED = (f"{RULES}.adopt", "here != named")


def put(
    world: World, charter: Charter, envelopes: Sequence[Envelope], *, tip: Tip | None = None, words: str = ""
) -> Forged:
    tip = tip or world.founding
    named = {each.unverified(CharterSignature).member: text(each) for each in envelopes}
    listed = tuple(named[name] for name in sorted(named)) or ("",)
    event = CharterAdopted(charter=words or charter.to_bytes().decode(), envelopes=listed)
    return Forged(
        act=lambda: machine.adopt(tip.assembly, charter, envelopes, tip.moment),
        entries=(entry_at(tip, event),),
        tip=tip,
    )


def all_but(world: World, draw: Random, count: int = 1) -> tuple[list[str], list[str]]:
    """Parts that sign, and parts that do not."""
    out = draw.sample(PARTS, count)
    return [part for part in PARTS if part not in out], out


@forged(
    "adoption-signature-missing",
    "adopts a charter over the heads of some members",
    "the first charter needs the signature of every member",
    MISSING,
)
def _missing(world: World, draw: Random) -> Forged:
    signing, _ = all_but(world, draw, draw.randint(1, len(PARTS) - 1))
    return put(world, world.charter, world.signatures(world.charter, *signing))


@forged(
    "adoption-signature-twice",
    "counts the signature of one member for another's",
    "signatures are counted by member",
    MISSING,
)
def _twice(world: World, draw: Random) -> Forged:
    signing, _ = all_but(world, draw)
    envelopes = world.signatures(world.charter, *signing)
    return put(world, world.charter, [*envelopes, draw.choice(envelopes)])


@forged(
    "adoption-of-another-charter",
    "adopts a charter with signatures for another one",
    "what is signed is the charter's digest",
    OTHER,
)
def _other(world: World, draw: Random) -> Forged:
    other = world.charter.model_copy(update={"title": f"Other {draw.random()}"})
    if draw.random() < 0.5:
        return put(world, other, world.signatures(world.charter))
    signing, (out,) = all_but(world, draw)
    return put(
        world, world.charter, [*world.signatures(world.charter, *signing), world.signature(out, other)]
    )


@forged(
    "adoption-for-another-consortium",
    "adopts a charter with signatures for another consortium",
    "the consortium is in what is signed",
    OTHER,
)
def _elsewhere(world: World, draw: Random) -> Forged:
    signing, (out,) = all_but(world, draw)
    there = world.signature(out, world.charter, consortium=draw.randbytes(32).hex())
    return put(world, world.charter, [*world.signatures(world.charter, *signing), there])


@forged(
    "adoption-signature-forged",
    "signs for a member with a key of its own making",
    "a signature is by a certified vote key",
    BELIEVED,
)
def _forged(world: World, draw: Random) -> Forged:
    signing, (out,) = all_but(world, draw)
    made = world.signature(out, world.charter, key=other_key(draw))
    return put(world, world.charter, [*world.signatures(world.charter, *signing), made])


@forged(
    "adoption-signature-altered",
    "puts the signature for a former draft under the charter",
    "the signature covers every byte",
    UNSIGNED,
)
def _altered(world: World, draw: Random) -> Forged:
    signing, (out,) = all_but(world, draw)
    draft = world.signature(out, world.charter.model_copy(update={"title": f"Draft {draw.random()}"}))
    made = world.signature(out, world.charter).model_copy(update={"signatures": draft.signatures})
    return put(world, world.charter, [*world.signatures(world.charter, *signing), made])


@forged(
    "adoption-signed-in-anothers-name",
    "signs for another member with its own vote key",
    "the key must be that of the member in the signature",
    OWN,
    MISSING,
)
def _anothers(world: World, draw: Random) -> Forged:
    signing, (out,) = all_but(world, draw)
    made = world.signature(
        out, world.charter, key=world.key_of(draw.choice([each for each in signing if each != "swap"]))
    )
    return put(world, world.charter, [*world.signatures(world.charter, *signing), made])


@forged(
    "adoption-signed-by-a-node",
    "signs with the key that lies on a member's node",
    "only a vote key signs a charter",
    ROLE,
)
def _by_node(world: World, draw: Random) -> Forged:
    rest = [part for part in PARTS if part != "one"]
    role = draw.choice(("node", "witness", "release"))
    made = world.signature("one", world.charter, key=world.key_of("one", role))
    return put(world, world.charter, [*world.signatures(world.charter, *rest), made])


@forged(
    "adoption-signed-by-an-expired-key",
    "signs with a key whose time is over",
    "the core's time when it is adopted",
    EXPIRED,
)
def _expired(world: World, draw: Random) -> Forged:
    rest = [part for part in PARTS if part != "few"]
    made = world.signature("few", world.charter, key=world.key_of("few", "expired"))
    tip = replace(world.founding, at=add_seconds(START, (20 + 30 * draw.random()) * DAY))
    return put(world, world.charter, [*world.signatures(world.charter, *rest), made], tip=tip)


@forged(
    "adoption-that-leaves-a-member-out",
    "adopts a charter that does not name a member, signed by all it names",
    "the first charter names all members there are",
    NAMED,
)
def _left_out(world: World, draw: Random) -> Forged:
    out = draw.choice(("few", "sus", "was", "gone", "flood", "swap"))  # who holds no release key
    members = {name: each for name, each in world.charter.members.items() if name != world.name(out)}
    charter = world.charter.model_copy(update={"members": members})
    return put(world, charter, world.signatures(charter, *(part for part in PARTS if part != out)))


@forged(
    "adoption-that-names-a-stranger",
    "adopts a charter that gives a vote to somebody who has not joined",
    "the first charter names nobody but members",
    NAMED,
    MISSING,
)
def _stranger(world: World, draw: Random) -> Forged:
    name = world.name(draw.choice(("friend", "new")))
    seat = world.charter.members[world.name("ask")]
    charter = world.charter.model_copy(update={"members": {**world.charter.members, name: seat}})
    return put(world, charter, world.signatures(charter))


@forged(
    "adoption-a-second-time",
    "adopts another first charter, signed by many, while one is in force",
    "a charter in force is changed by a vote and not by signatures",
    (f"{RULES}.adopt", "held is not None"),
    NAMED,
    MISSING,
    OTHER,
)
def _second(world: World, draw: Random) -> Forged:
    charter = world.charter.model_copy(update={"title": f"Again {draw.random()}"})
    able = ("ask", "one", "two", "few", "was", "flood", "aud", "sus")
    return put(world, charter, world.signatures(charter, *able), tip=world.tip)


@forged(
    "adoption-of-a-charter-that-one-controls",
    "adopts a charter by which one member passes things alone, though all have signed it",
    "the capture check",
    CAPTURED,
    first_only=True,
)
def _captured(world: World, draw: Random) -> Forged:
    decisions = {
        kind: rule.model_copy(update={"yes_members": 1}) for kind, rule in world.charter.decisions.items()
    }
    if draw.random() < 0.5:
        decisions = world.charter.decisions
    release = world.charter.release.model_copy(update={"signatures": 1})
    update = {"decisions": decisions, "release": release, "title": f"{draw.random()}"}
    charter = world.charter.model_copy(update=update)
    return put(world, charter, world.signatures(charter))


@forged(
    "adoption-by-other-words",
    "writes a charter into the ledger in other words than were signed",
    "the entry holds the very text whose digest is signed",
    OTHER,
)
def _words(world: World, draw: Random) -> Forged:
    value = json.loads(world.charter.to_bytes())
    kind = draw.choice(sorted(value["decisions"]))
    way = draw.choice(("title", "approval", "seats"))
    if way == "title":
        value["title"] = f"Other {draw.random()}"
    elif way == "approval":
        for rule in value["decisions"].values():
            rule["quorum"] = "at least 1/5"
    else:
        value["decisions"][kind]["proposers"] = ["steward"]
    event = CharterAdopted(
        charter=canonical.encode(value).decode(),
        envelopes=tuple(text(each) for each in _sorted(world, world.signatures(world.charter))),
    )
    return Forged(entries=(entry_at(world.founding, event),), tip=world.founding)


def _sorted(world: World, envelopes: Sequence[Envelope]) -> list[Envelope]:
    return sorted(envelopes, key=lambda each: each.unverified(CharterSignature).member)


@forged(
    "adoption-by-a-message-of-another-kind",
    "takes a ballot for a signature of the charter",
    "the type of a message is signed",
    ("tapestry.identity.envelope.Envelope._verify", "self.payloadType != expected"),
)
def _other_kind(world: World, draw: Random) -> Forged:
    out = draw.choice([part for part in PARTS if part != "swap"])
    signing = [part for part in PARTS if part != out]
    said = world.signature(out, world.charter).unverified(CharterSignature)
    kind = draw.choice(("ballot", "proposal", "join"))
    made = sign_bytes(f"application/vnd.tapestry.{kind}+json", said.to_bytes(), world.key_of(out))
    return put(world, world.charter, [*world.signatures(world.charter, *signing), made])
