"""Entries that a core writes although the rules give others, or none. It signs its ledger itself, so only who
repeats what members decided can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from tapestry.governance import machine
from tapestry.governance.proposal import Ballot
from tapestry.governance.tally import Tally, tally
from tapestry.ledger.entries import (
    BallotCast,
    KeyCertified,
    ProposalDecided,
    ProposalOpened,
)
from tapestry.protocol import canonical
from tapestry.protocol.clock import add_seconds
from tests.governance.forged.ballots import VOTERS
from tests.governance.forged.proposals import ABLE, some
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import DAY, HOUR, Tip, World, entry_at, text

WHO = "A core that writes what members did not decide"
REPEATED = ("tapestry.audit.governance.repeated", "step.event != event")
OVERDUE = ("tapestry.audit.verify.nothing_overdue", None)
SOON = ("tapestry.governance.state.Governance.overdue", "each.closes < at", lambda: True)


def due(world: World, draw: Random, name: str = "old") -> Tip:
    """When the vote of that name has ended."""
    late = draw.choice((0.001, 0.5, 60, HOUR * draw.random()))
    return replace(world.tip, at=add_seconds(world.item(name).closes, late))


def decided(tip: Tip) -> ProposalDecided:
    """What the rules give."""
    step = machine.settle(tip.assembly, tip.moment)
    assert step is not None and isinstance(step.event, ProposalDecided)
    return step.event


def lie(tip: Tip, *events: Any) -> Forged:
    return Forged(entries=tuple(entry_at(tip, each, later=n) for n, each in enumerate(events)), tip=tip)


def retold(event: ProposalDecided, **fields: Any) -> ProposalDecided:
    """With other fields of the tally."""
    return event.model_copy(update={"tally": canonical.encode(json.loads(event.tally) | fields).decode()})


def counted(
    world: World, name: str, draw: Random, change: Callable[[list[Any]], list[Any]]
) -> ProposalDecided:
    """A decision of other ballots than were cast."""
    item, governance = world.item(name), world.assembly.governance
    charter = governance.charters[item.charter]
    ballots = change(list(item.counted()))
    found = tally(charter, item.question, item.standings(charter), ballots)
    return event_of(world.ids[name], found)


def event_of(proposal: str, found: Tally) -> ProposalDecided:
    return ProposalDecided(
        proposal=proposal, verdict=found.verdict, in_force=found.passed, tally=found.to_bytes().decode()
    )


def opened(tip: Tip, world: World, draw: Random, **fields: Any) -> ProposalOpened:
    envelope = world.proposal(draw.choice(ABLE), some(world, draw))
    step = machine.propose(tip.assembly, envelope, tip.moment)
    assert isinstance(step.event, ProposalOpened)
    return step.event.model_copy(update=fields)


def certified(world: World, person: Any, role: str) -> KeyCertified:
    envelope = world.certificate(person, role)
    return KeyCertified(member=person.name, key_id=person.keys[role].key_id, envelope=text(envelope))


# -- the count ----------------------------------------------------------------------------------


@forged(
    "outcome-turned",
    "records that a vote failed which passed, or for another reason than it did",
    "everybody counts again",
    REPEATED,
)
def _turned(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    verdict = draw.choice(("not-approved", "no-quorum", "too-few-yes"))
    event = decided(tip).model_copy(update={"verdict": verdict, "in_force": False})
    return lie(tip, retold(event, verdict=verdict) if draw.random() < 0.5 else event)


@forged(
    "outcome-without-effect",
    "records that a decision passed and leaves it without effect",
    "what passed and has something to do is in force",
    REPEATED,
)
def _no_effect(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    return lie(tip, decided(tip).model_copy(update={"in_force": False}))


@forged(
    "outcome-passed-that-failed",
    "records that a vote passed for which nobody voted",
    "everybody counts again",
    REPEATED,
)
def _passed(world: World, draw: Random) -> Forged:
    tip = _only(world, draw, "flood0")
    event = decided(tip).model_copy(update={"verdict": "passed", "in_force": True})
    return lie(tip, retold(event, verdict="passed") if draw.random() < 0.5 else event)


def _only(world: World, draw: Random, name: str) -> Tip:
    """When that vote has ended, and all before it are decided."""
    if name not in world.ended:
        tip = due(world, draw, name).copied()
        while (item := tip.assembly.governance.overdue(tip.at)) is not None and item.proposal != world.ids[
            name
        ]:
            entry = entry_at(tip, decided(tip))
            tip.first.line(("entry", entry))
            tip.second.entry(entry.model_dump(mode="json"))
            tip = replace(tip, assembly=tip.first.assembly, sequence=tip.sequence + 1)
        world.ended[name] = tip
    return world.ended[name]


@forged(
    "tally-with-other-shares",
    "publishes other numbers than the votes give",
    "the tally is made again, to the byte",
    REPEATED,
)
def _shares(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    event = decided(tip)
    said = json.loads(event.tally)
    field = draw.choice(("yes", "no", "abstain", "electors", "yes_members", "quorum", "closes"))
    value: Any = {
        "electors": said["electors"][1:],
        "yes_members": said["yes_members"] + draw.choice((-1, 1, 5)),
        "quorum": {**said["quorum"], "reached": "1/97"},
        "closes": add_seconds(said["closes"], draw.choice((-1, 1, 3600))),
    }.get(field, f"{draw.randint(1, 90)}/97")
    return lie(tip, retold(event, **{field: value}))


@forged(
    "tally-without-a-ballot",
    "leaves ballots out of the count that stand in the ledger",
    "the count is of the ballots in the ledger",
    REPEATED,
)
def _dropped(world: World, draw: Random) -> Forged:
    tip, few = due(world, draw), draw.randint(1, 4)
    return lie(tip, counted(world, "old", draw, lambda found: draw.sample(found, len(found) - few)))


@forged(
    "tally-with-a-ballot-that-was-not-cast",
    "counts a ballot that nobody cast, or that of a member without a vote",
    "the count is of the ballots in the ledger",
    REPEATED,
)
def _added(world: World, draw: Random) -> Forged:
    tip = due(world, draw)

    def more(found: list[Any]) -> list[Any]:
        last = max(each.sequence for each in found)
        member = world.name(draw.choice(("one", "was", "sus", "out")))
        return [*found, replace(found[0], member=member, choice="no", sequence=last + 1)]

    return lie(tip, counted(world, "old", draw, more))


@forged(
    "tally-with-choices-changed",
    "counts some who said yes as if they had said no",
    "the choice is in the signed ballot",
    REPEATED,
)
def _choices(world: World, draw: Random) -> Forged:
    tip = due(world, draw)

    def change(found: list[Any]) -> list[Any]:
        at = draw.sample(range(len(found)), draw.randint(1, 3))
        other = {"yes": draw.choice(("no", "abstain")), "no": "yes", "abstain": "yes"}
        return [replace(b, choice=other[b.choice]) if n in at else b for n, b in enumerate(found)]

    return lie(tip, counted(world, "old", draw, change))


@forged(
    "tally-by-another-charter",
    "counts a vote by the charter in force, though it was opened under that before",
    "a vote is counted by the charter it was opened under",
    REPEATED,
)
def _charter(world: World, draw: Random) -> Forged:
    tip, item = due(world, draw), world.item("old")
    charter = world.second_charter
    found = tally(charter, item.question, item.standings(charter), item.counted())
    return lie(tip, event_of(world.ids["old"], found))


@forged(
    "tally-by-todays-members",
    "counts a vote among those who are members at its end",
    "electors are the members at the opening",
    REPEATED,
)
def _members(world: World, draw: Random) -> Forged:
    tip, item = due(world, draw), world.item("old")
    charter = world.assembly.governance.charters[item.charter]
    here = item.model_copy(update={"members": world.assembly.members(), "suspended": ()})
    found = tally(charter, here.question, here.standings(charter), here.counted())
    return lie(tip, event_of(world.ids["old"], found))


@forged(
    "tally-not-canonical",
    "writes the right tally in another form",
    "the tally is the canonical JSON",
    REPEATED,
)
def _form(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    event = decided(tip)
    value = json.loads(event.tally)
    words = draw.choice((json.dumps(value), event.tally + " ", json.dumps(dict(reversed(value.items())))))
    return lie(tip, event.model_copy(update={"tally": words}))


# -- when ---------------------------------------------------------------------------------------


@forged(
    "outcome-too-early",
    "closes a vote as soon as it stands as the core wants it",
    "a decision is later than the deadline, by the ledger's own times",
    OVERDUE,
    SOON,
)
def _early(world: World, draw: Random) -> Forged:
    closes = world.item("old").closes
    event = decided(due(world, draw))
    before = draw.choice((0.0, 0.001, 1, HOUR, 5 * DAY * draw.random()))
    return lie(replace(world.tip, at=add_seconds(closes, -before)), event)


@forged(
    "outcome-out-of-order",
    "decides a later vote before one that ended first",
    "votes are decided in the order of their deadlines",
    REPEATED,
)
def _order(world: World, draw: Random) -> Forged:
    name = draw.choice(("during", "main"))
    tip = due(world, draw, name)
    return lie(tip, decided(_only(world, draw, name)))


@forged(
    "outcome-twice",
    "decides a vote again",
    "what is decided is decided",
    ("tapestry.audit.governance.repeated", "step is None"),
    REPEATED,
    SOON,
    OVERDUE,
)
def _twice(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    event = decided(tip)
    return lie(tip, event, event)


@forged(
    "outcome-of-nothing",
    "decides a vote that was never opened",
    "a decision is of a proposal of this ledger",
    REPEATED,
)
def _nothing(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    return lie(tip, decided(tip).model_copy(update={"proposal": draw.randbytes(32).hex()}))


@forged(
    "outcome-missing",
    "goes on after a deadline and does not decide",
    "after a deadline nothing stands in the ledger before the decision",
    OVERDUE,
)
def _missing(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    part = draw.choice(VOTERS[:3])
    way = draw.choice(("key", "ballot", "proposal", "member"))
    if way == "ballot":
        envelope = world.ballot(part, "main", draw.choice(("yes", "no")))
        said = envelope.unverified(Ballot)
        return lie(tip, BallotCast(member=said.member, proposal=said.proposal, envelope=text(envelope)))
    if way == "proposal":
        return lie(tip, opened(tip, world, draw))
    if way == "member":
        person = world.who["flood"]
        spare = world.key()
        person = replace(person, keys={**person.keys, "vote": spare})
        return lie(tip, certified(world, person, "vote"))
    person = world.who[part]
    return lie(tip, certified(world, replace(person, keys={**person.keys, "vote": world.key()}), "vote"))


@forged(
    "ballot-between-deadline-and-outcome",
    "takes a friend's ballot after the deadline and before it counts",
    "a ballot is in time, by the ledger's own times",
    OVERDUE,
    ("tapestry.governance.machine._refuse_late", "item.outcome is not None or at > item.closes"),
)
def _between(world: World, draw: Random) -> Forged:
    tip = due(world, draw)
    envelope = world.ballot(draw.choice(VOTERS[:3]), "old", draw.choice(("yes", "no", "abstain")))
    said = envelope.unverified(Ballot)
    return lie(tip, BallotCast(member=said.member, proposal=said.proposal, envelope=text(envelope)))
