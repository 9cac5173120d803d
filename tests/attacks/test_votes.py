"""Members who vote more often than they may, or as somebody else; a core that counts what it likes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import IntegrityError, TapestryError
from tapestry.governance import proposal as subjects
from tapestry.governance.machine import Moment, settle
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing, Signer, make_certificate
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import make_entry
from tapestry.protocol.clock import time_text
from tapestry.rounds import machine
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.switches import Switches
from tests.audit.council import Council
from tests.audit.support import Ledger, verify
from tests.core.support import time_at

WHO = "a member, and a core, that want another decision"
Given = tuple[Any, ...]
RING = "tapestry.identity.keyring.KeyRing"
RULES = "tapestry.governance.machine"
REPEATED = ("tapestry.audit.governance.repeated", "step.event != event")


@pytest.fixture
def council(tmp_path: Path) -> Iterator[Council]:
    """Ada, bob, cyd and dan, with a charter."""
    council = Council(tmp_path / "core", "ada", "bob", "cyd", "dan")
    with council.core:
        council.adopt()
        yield council


def asked(council: Council) -> str:
    return council.propose("ada", subjects.OpenPhase(phase="two"))


def believed(_ring: KeyRing, envelope: Envelope, kind: Any, **_: Any) -> Any:
    said = envelope.unverified(kind)
    return said, Signer(said.member, None, "vote", "0" * 64)


# -- ballots ------------------------------------------------------------------------------------
# Each makes a ballot that must not count, and the name of its proposal.


def _forged(council: Council) -> tuple[str, Envelope]:
    name = asked(council)
    return name, council.ballot("bob", name, "yes", key=KeyPair.generate())


def _in_anothers_name(council: Council) -> tuple[str, Envelope]:
    name = asked(council)
    return name, council.ballot("bob", name, "yes", key=council.nodes["ada"].vote)


def _by_a_node(council: Council) -> tuple[str, Envelope]:
    name = asked(council)
    return name, council.ballot("bob", name, "yes", key=council.nodes["bob"].key)


def _by_a_revoked_key(council: Council) -> tuple[str, Envelope]:
    name, bob = asked(council), council.nodes["bob"]
    council.revoke(bob, bob.vote)
    return name, council.ballot("bob", name, "yes")


def _by_an_expired_key(council: Council) -> tuple[str, Envelope]:
    bob, key = council.nodes["bob"], KeyPair.generate()
    times = {"not_before": time_at(-60), "expires": time_at(30)}
    council.core.consortium.certify(
        make_certificate(bob.root, member="bob", node=None, role="vote", public_key=key.public_key, **times)
    )
    name = asked(council)
    council.now += 40_000
    return name, council.ballot("bob", name, "yes", key=key)


def _replayed(council: Council) -> tuple[str, Envelope]:
    name = asked(council)
    first = council.ballot("bob", name, "yes")
    council.votes.vote(first)
    council.vote(name, no=["bob"])
    return name, first


def _double(council: Council) -> tuple[str, Envelope]:
    name = asked(council)
    council.vote(name, yes=["bob"])
    return name, council.ballot("bob", name, "no", number=1)


def _of_another_consortium(council: Council) -> tuple[str, Envelope]:
    name = asked(council)
    return name, council.ballot("bob", name, "yes", consortium="7" * 64)


def _late(council: Council) -> tuple[str, Envelope]:
    name = asked(council)
    given = council.ballot("bob", name, "yes")
    council.now += 60_001
    return name, given


def _suspended(council: Council) -> tuple[str, Envelope]:
    away = council.propose("ada", subjects.Suspend(member="bob"))
    council.vote(away, yes=["ada", "cyd", "dan"])
    council.now += 30_000
    name = asked(council)
    council.end(32)
    return name, council.ballot("bob", name, "yes")


def _about_itself(council: Council) -> tuple[str, Envelope]:
    name = council.propose("ada", subjects.Expel(member="bob"))
    return name, council.ballot("bob", name, "no")


@attacks(
    case(
        "ballot-forged",
        "votes as bob with a key of its own making",
        "a ballot is signed by a key that the member's root key has certified",
        _forged,
        "",
        None,
        believed,
    ),
    case(
        "ballot-in-anothers-name",
        "signs a ballot of bob with ada's vote key",
        "the key must be the member's",
        _in_anothers_name,
        f"{RING}.verify",
        "own is not None and named != own",
    ),
    case(
        "ballot-by-a-node",
        "votes with the key that lies on bob's node",
        "only a vote key votes",
        _by_a_node,
        f"{RING}.verify",
        "certificate.role not in roles",
    ),
    case(
        "ballot-by-a-revoked-key",
        "votes with a stolen key that bob has revoked",
        "keys are judged where the ballot stands in the ledger",
        _by_a_revoked_key,
        f"{RING}._refuse_invalid",
        "entry.revoked is not None and (sequence is None or sequence > entry.revoked)",
    ),
    case(
        "ballot-by-an-expired-key",
        "votes with a key whose time is over",
        "the core's time when it comes",
        _by_an_expired_key,
        f"{RING}._refuse_invalid",
        "moment >= parse_time(certificate.expires)",
    ),
    case(
        "ballot-replayed",
        "puts bob's yes of yesterday behind his no of today",
        "ballots are numbered by whoever signs them",
        _replayed,
        f"{RULES}.vote",
        "said.number != expected",
    ),
    case(
        "ballot-double",
        "casts two first ballots on one proposal",
        "a member's next ballot has the next number",
        _double,
        f"{RULES}.vote",
        "said.number != expected",
    ),
    case(
        "ballot-of-another-consortium",
        "brings a ballot that was signed for another consortium",
        "the consortium is in what is signed",
        _of_another_consortium,
        f"{RULES}._here",
        "consortium != moment.consortium",
    ),
    case(
        "ballot-late",
        "votes when the others' votes are counted",
        "the core's clock, and a decision that stands before all that comes later",
        _late,
        f"{RULES}._refuse_late",
        "item.outcome is not None or at > item.closes",
    ),
    case(
        "ballot-of-a-suspended-member",
        "votes while it is suspended",
        "who is suspended takes no part",
        _suspended,
        f"{RULES}._refuse_suspended",
        "found is not None",
    ),
    case(
        "ballot-about-itself",
        "votes on its own expulsion",
        "the party that a decision is about has no vote",
        _about_itself,
        f"{RULES}._refuse_barred",
        "why is not None",
    ),
)
def test_a_ballot(given: Given, council: Council, switches: Switches) -> None:
    make, place, check, *instead = given
    name, envelope = make(council)
    before = council.core.journal.tree_head()[0]
    with pytest.raises(TapestryError) as caught:
        council.votes.vote(envelope)
    assert caught.value.hint, "the way out is said"
    size = council.core.journal.tree_head()[0]
    assert size == before + (make is _late), "but for the decision that was due, nothing is recorded"
    counted = len(council.votes.item(name).ballots)
    spec = (place, check) if place else (f"{RING}.verify", check, *instead)
    with switches.all_off(spec):
        council.votes.vote(envelope)
    assert len(council.votes.item(name).ballots) == counted + 1


# -- the core -----------------------------------------------------------------------------------


@pytest.fixture
def decided(council: Council) -> Ledger:
    """Two for it, one against, and a run that goes on meanwhile."""
    nodes = list(council.nodes.values())
    plan = council.plan(rounds_quorum=1)
    council.ratified(plan)
    council.put(machine.Start())
    name = asked(council)
    council.vote(name, yes=["ada", "bob"], no=["cyd"])
    council.enrol(nodes[0])
    council.end()
    council.enrol(nodes[1])
    return council.ledger()


def _without(given: Ledger, place: int) -> Ledger:
    return replace(given, lines=[line for n, line in enumerate(given.lines) if n != place])


def _drops(given: Ledger) -> Ledger:
    return _without(given, given.of("ballot-cast", -1))


def _moves(given: Ledger) -> Ledger:
    other = given.lines[given.of("proposal-opened")][1].body["proposal"]
    return given.changed(given.of("ballot-cast", -1), proposal=other)


def _lost(given: Ledger) -> Ledger:
    return given.changed(given.of("proposal-decided", -1), verdict="not-approved", in_force=False)


def _recounts(given: Ledger) -> Ledger:
    place = given.of("proposal-decided", -1)
    tally = given.lines[place][1].body["tally"]
    assert '"no":"1/4"' in tally
    return given.changed(place, tally=tally.replace('"no":"1/4"', '"no":"1/2"'))


def _moved_deadline(given: Ledger) -> Ledger:
    place = given.of("proposal-opened", -1)
    later = given.lines[place][1].body["closes"].replace("20", "21", 1)
    return given.changed(place, closes=later)


@attacks(
    case(
        "ballot-dropped",
        "leaves a ballot out that it has recorded",
        "the count is of the ballots that stand in the ledger",
        _drops,
    ),
    case("ballot-moved", "counts a ballot for another proposal", "the ballot names its proposal", _moves),
    case("decision-turned", "records that a vote failed which has passed", "everybody counts again", _lost),
    case(
        "tally-changed",
        "publishes other shares than the votes give",
        "the tally is made again, to the byte",
        _recounts,
    ),
    case(
        "voting-prolonged",
        "gives its friends a century more to vote",
        "the charter says how long is voted",
        _moved_deadline,
    ),
)
def test_a_core_that_counts_otherwise(given: Given, decided: Ledger, switches: Switches) -> None:
    verify(decided)
    lie = given[0](decided).signed_anew()
    with pytest.raises(IntegrityError, match="by the rules comes another"):
        verify(lie)
    with switches.check_off(*REPEATED):
        verify(lie)


@attack(
    "decision-before-the-deadline",
    tries="closes a vote as soon as it stands as the core wants it",
    stopped_by="a decision is later than the deadline, by the ledger's own times",
)
def test_early(council: Council, switches: Switches) -> None:
    name = asked(council)
    council.vote(name, yes=["ada", "bob", "cyd"])
    given, assembly = council.ledger(), council.votes.assembly()
    size = len(given.entries)
    late = settle(
        assembly, Moment(consortium=council.consortium, at=time_text(council.now + 99_000), sequence=size + 1)
    )
    assert late is not None and late.event is not None
    entry = make_entry(size + 1, time_text(council.now), "consortium", late.event)
    lie = replace(given, lines=[*given.lines[:-1], ("entry", entry), given.lines[-1]]).signed_anew()
    with pytest.raises(IntegrityError, match="no vote has ended"):
        verify(lie)
    with switches.all_off(
        ("tapestry.governance.state.Governance.overdue", "each.closes < at", lambda: True),
        ("tapestry.audit.verify.nothing_overdue", None),
    ):
        verify(lie)


@attack(
    "decision-put-off",
    tries="lets a run go on and does not decide what would stop it",
    stopped_by="after a deadline, nothing stands in the ledger before the decision",
)
def test_put_off(council: Council, switches: Switches) -> None:
    plan = council.plan()
    council.ratified(plan)
    council.put(machine.Start())
    council.vote(council.propose("ada", subjects.Suspend(member="bob")), yes=["ada", "cyd", "dan"])
    council.now += 61_000
    with pytest.MonkeyPatch.context() as lies:
        lies.setattr(council.core.journal, "settle", None)
        council.enrol(council.nodes["bob"])
        lie = council.ledger()
    with pytest.raises(IntegrityError, match="stands before what was decided"):
        verify(lie)
    with switches.off("tapestry.audit.verify.nothing_overdue"):
        verify(lie)


def _starts(council: Council) -> None:
    council.plan()
    council.put(machine.Start())


def _goes_beyond(council: Council) -> None:
    plan = council.plan(merge_weighting="tokens")
    council.ratified(plan)
    narrow = council.votes.assembly().governance.charter
    assert narrow is not None
    fields = {
        "revision": 2,
        "contribution": narrow.contribution.model_copy(update={"weightings": ("equal",)}),
    }
    council.passed(subjects.ChangeCharter(charter=narrow.model_copy(update=fields)))
    council.put(machine.Start())


def _takes_part(council: Council) -> None:
    plan = council.plan()
    council.ratified(plan)
    council.put(machine.Start())
    council.passed(subjects.Suspend(member="bob"), "bob")
    council.enrol(council.nodes["bob"])


def _contributes(council: Council) -> None:
    plan = council.plan()
    council.ratified(plan)
    council.put(machine.Start())
    for name in ("ada", "bob"):
        council.enrol(council.nodes[name])
    council.passed(subjects.Suspend(member="bob"), "bob")
    council.send(council.nodes["bob"])


@attacks(
    case(
        "plan-not-ratified",
        "starts a run that nobody has voted for",
        "a plan starts by the members' decision",
        _starts,
        "no decision of the members",
    ),
    case(
        "plan-beyond-the-charter",
        "starts a plan that the charter has come to forbid",
        "the charter in force when it starts",
        _goes_beyond,
        "goes beyond the charter",
    ),
    case(
        "enrolment-of-a-suspended-member",
        "lets a suspended member's node into a run",
        "whoever is suspended takes no part",
        _takes_part,
        "suspended until",
    ),
    case(
        "contribution-of-a-suspended-member",
        "merges what a suspended member sends",
        "whoever is suspended takes no part, its nodes in a run neither",
        _contributes,
        "suspended until",
    ),
)
def test_a_core_that_obeys_nobody(given: Given, council: Council, switches: Switches) -> None:
    act, why = given
    with pytest.raises(TapestryError, match=why):
        act(council)
    again = Council(council.root.parent / "again", "ada", "bob", "cyd", "dan")
    with again.core:
        again.adopt()
        with pytest.MonkeyPatch.context() as lies:
            lies.setattr("tapestry.core.runs.permit", lambda *_: None)
            act(again)
        lie = again.ledger()
    with pytest.raises(IntegrityError, match=why):
        verify(lie)
    with switches.off("tapestry.audit.verify.permit"):
        verify(lie)


def _after_the_expulsion(council: Council) -> Ledger:
    plan = council.plan()
    council.ratified(plan)
    council.put(machine.Start())
    for name in ("ada", "bob"):
        council.enrol(council.nodes[name])
    council.passed(subjects.Expel(member="bob"), "bob")
    council.send(council.nodes["bob"])
    return council.ledger()


@attack(
    "contribution-of-an-expelled-member",
    tries="merges what a member sends that is out",
    stopped_by="an expelled member's keys end with the decision, and its root key certifies no others",
)
def test_expelled(council: Council, switches: Switches) -> None:
    with pytest.raises(TapestryError, match="was expelled, as entry"):
        _after_the_expulsion(council)
    ends: tuple[tuple[Any, ...], ...] = (
        (f"{RING}._refuse_expelled", None),
        (
            f"{RING}._refuse_invalid",
            "entry.revoked is not None and (sequence is None or sequence > entry.revoked)",
        ),
    )
    again = Council(council.root.parent / "again", "ada", "bob", "cyd", "dan")
    with again.core:
        again.adopt()
        with Switches().all_off(*ends):
            lie = _after_the_expulsion(again)
    with pytest.raises(IntegrityError, match="was expelled, as entry"):
        verify(lie)
    with switches.all_off(*ends):
        verify(lie)


@attack(
    "member-not-admitted",
    tries="lets a friend of the operator join who then votes",
    stopped_by="with a charter, who joins was admitted by vote or is named by the charter",
)
def test_not_admitted(council: Council, switches: Switches) -> None:
    with pytest.raises(TapestryError, match="no decision of the members admits eve"):
        council.join("eve")
    with pytest.MonkeyPatch.context() as lies:
        lies.setattr("tapestry.core.operator.may_join", lambda *_: None)
        lies.setattr("tapestry.core.consortium.machine.may_join", lambda *_: None)
        council.join("eve")
    lie = council.ledger()
    with pytest.raises(IntegrityError, match="no decision of the members admits eve"):
        verify(lie)
    with switches.off("tapestry.audit.verify.may_join"):
        verify(lie)


@attack(
    "charter-that-one-has-not-signed",
    tries="adopts a charter over the head of a member",
    stopped_by="the first charter needs the signature of every member",
)
def test_not_signed(council: Council, switches: Switches) -> None:
    given = council.ledger()
    place = given.of("charter-adopted")
    few = given.lines[place][1].body["envelopes"][:-1]
    lie = given.changed(place, envelopes=few).signed_anew()
    with pytest.raises(IntegrityError, match="dan has not signed the charter"):
        verify(lie)
    with switches.check_off(f"{RULES}.adopt", "missing := sorted(named - signed.keys())"):
        verify(lie)
