"""No way of proposing, voting, waiting and deciding leads to where a rule of the charter is broken."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tapestry.cli import charterfile
from tapestry.errors import CharterError, Conflict, NotFound, Refused, StoreError, TapestryError
from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Charter
from tapestry.governance.machine import MAX_OPEN, Moment, Step, adopt, may_join, propose, settle, vote
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal, Subject
from tapestry.governance.state import Assembly, Item
from tapestry.governance.tally import tally
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing, make_certificate
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import Governed, make_entry
from tapestry.protocol import canonical
from tapestry.protocol.clock import add_seconds
from tests.audit import second, second_votes
from tests.governance import made

HERE: Final = "7" * 64
NAMES: Final = ("ada", "bob", "cyd", "dan")
ROOT = {name: KeyPair.generate() for name in (*NAMES, "eve")}
VOTE = {name: KeyPair.generate() for name in (*NAMES, "eve")}
START: Final = "2026-05-01T12:00:00.000Z"
KINDS: Final = ("suspend", "expel", "appeal", "change", "admit", "key", "phase")
RULES: Final[dict[str, Any]] = {
    "usual": {"voting": "1 minute", "quorum": "at least 1/2", "approval": "more than 1/2"},
    "kinds": {
        "expel": {"voting": "2 minutes", "approval": "at least 2/3", "of": "all"},
        "change-charter": {"voting": "2 minutes", "approval": "at least 2/3", "of": "all"},
    },
    "deadlines": {"suspension": "3 minutes", "appeal": "4 minutes"},
}


def charter(**fields: Any) -> Charter:
    seats = {name: {"seats": 1} for name in NAMES}
    found = made.charter((1,) * 4, members=seats, release={"signatures": 2, "holders": NAMES[:3]}, **RULES)
    return found.model_copy(update=fields)


def ring_of(*names: str) -> KeyRing:
    ring = KeyRing()
    for name in names:
        ring = joined(ring, name)
    return ring


def joined(ring: KeyRing, name: str) -> KeyRing:
    size = len(ring.members) + len(ring.keys)
    ring = ring.admit(name, ROOT[name].public_key, sequence=size + 1)
    times = {"not_before": add_seconds(START, -60), "expires": add_seconds(START, 1e6)}
    key = VOTE[name].public_key
    given = make_certificate(ROOT[name], member=name, node=None, role="vote", public_key=key, **times)
    return ring.certify(given, sequence=size + 2, at=START)


def signature(name: str, of: Charter) -> Envelope:
    return sign(CharterSignature(consortium=HERE, member=name, charter=of.digest), VOTE[name])


def moment(at: str = START, sequence: int = 100) -> Moment:
    return Moment(consortium=HERE, at=at, sequence=sequence)


def begun(rules: Charter | None = None) -> Step:
    rules = rules or charter()
    return adopt(Assembly(ring=ring_of(*NAMES)), rules, [signature(n, rules) for n in NAMES], moment())


BEGUN = begun()


class Decisions(RuleBasedStateMachine):
    """The machine, and beside it the second verifier, which is shown every event."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.sequence, self.nonce = START, 100, 0
        self.cast: list[Envelope] = []
        self.assembly = Assembly()

    @initialize()
    def begin(self) -> None:
        self.beside = SimpleNamespace(
            consortium=HERE,
            roots={name: ROOT[name].public_key for name in NAMES},
            used={pair.public_key for pair in (*ROOT.values(), *VOTE.values())},
            keys={pair.key_id: {"member": name, "revoked": False} for name, pair in VOTE.items()},
            valid=self._valid,
        )
        self.votes = second_votes.Votes(self.beside, second)
        self._took(BEGUN)

    def _valid(self, data: bytes, kind: str, _now: int) -> tuple[Any, str]:
        envelope = json.loads(data)
        said = json.loads(b64decode(envelope["payload"]))
        assert said["format"] == f"tapestry.{kind}"
        key = self.beside.keys[envelope["signatures"][0]["keyid"]]
        second.need(key["member"] == said["member"] and not key["revoked"], "a key is not valid")
        return said, ""

    def _took(self, step: Step) -> None:
        if step.event is None:
            assert step.assembly is self.assembly
            return
        entry = make_entry(self.sequence, self.at, "consortium", step.event).model_dump(mode="json")
        self.votes.in_time(entry["type"], self.at)
        self.votes.entry(entry, second.milliseconds(self.at))
        self.assembly = step.assembly
        self.sequence += 1

    def _moment(self) -> Moment:
        return moment(self.at, self.sequence)

    def _settled(self) -> None:
        while (step := settle(self.assembly, self._moment())) is not None:
            self._took(step)

    def _subject(self, kind: str, about: str, number: int) -> Subject:
        charter = self.assembly.governance.charter
        assert charter is not None
        match kind:
            case "change":
                new = {"revision": charter.revision + 1, "title": str(number)}
                return subjects.ChangeCharter(charter=charter.model_copy(update=new))
            case "appeal":
                out = {name: each.decision for name, each in self.assembly.governance.suspended.items()}
                out |= self.assembly.governance.expelled
                if out:
                    about = sorted(out)[number % len(out)]
                return subjects.HearAppeal(member=about, decision=out.get(about, "0" * 64))
            case "suspend":
                return subjects.Suspend(member=about)
            case "expel":
                return subjects.Expel(member=about)
            case "key":
                return subjects.ReplaceRootKey(member=about, root_key=KeyPair.generate().public_key)
            case "admit":
                return subjects.Admit(member="eve")
            case _:
                return subjects.OpenPhase(phase=f"phase{number % 3}")

    def _items(self) -> list[Item]:
        return list(self.assembly.governance.proposals.values())

    @rule(
        by=st.sampled_from(NAMES),
        kind=st.sampled_from(KINDS),
        about=st.sampled_from(NAMES),
    )
    def proposes(self, by: str, kind: str, about: str) -> None:
        self._settled()
        self.nonce += 1
        governance = self.assembly.governance
        assert governance.charter is not None
        said = Proposal(
            consortium=HERE,
            member=by,
            charter=governance.charter.digest,
            subject=self._subject(kind, about, self.nonce),
            title="",
            text="",
            nonce=f"{self.nonce:032x}",
        )
        try:
            self._took(propose(self.assembly, sign(said, VOTE[by]), self._moment()))
        except TapestryError as refused:
            assert refused.hint, refused

    @rule(
        by=st.sampled_from(NAMES),
        kind=st.sampled_from(KINDS),
        about=st.sampled_from(NAMES),
        against=st.sampled_from(["", "ada", "bob", "cyd", "dan", "ada bob"]),
        wait=st.sampled_from([0, 59, 61, 121]),
    )
    def decide(self, by: str, kind: str, about: str, against: str, wait: float) -> None:
        """A proposal on which nearly all vote, and perhaps its deadline: what chance alone seldom gives."""
        self.proposes(by, kind, about)
        for name in NAMES:
            if self._items():
                self.votes_(name, 0, "no" if name in against.split() else "yes")
        self.time_passes(wait)

    @precondition(lambda self: self._items())
    @rule(
        by=st.sampled_from(NAMES),
        which=st.integers(0, 4),
        choice=st.sampled_from(["yes", "yes", "yes", "no", "abstain"]),
    )
    def votes_(self, by: str, which: int, choice: Any) -> None:
        self._settled()
        items = self._items()
        item = items[-1 - which % len(items)]
        last = item.last(by)
        number = 1 if last is None else min(100, last.number + 1)
        said = Ballot(
            consortium=HERE, member=by, proposal=item.proposal, number=number, choice=choice, reason=""
        )
        envelope = sign(said, VOTE[by])
        try:
            self._took(vote(self.assembly, envelope, self._moment()))
            self.cast.append(envelope)
        except TapestryError as refused:
            assert refused.hint, refused
            open_ = item.outcome is None and by in item.members and not item.suspended
            here = self.assembly.governance.suspension(by, self.at) is None
            here = here and self.assembly.ring.keys[VOTE[by].key_id].revoked is None
            assert not (open_ and here and item.question.about != by), (refused, by, item)

    @precondition(lambda self: self.cast)
    @rule(which=st.integers(0, 20))
    def casts_again(self, which: int) -> None:
        """What was cast before changes nothing any more."""
        self._settled()
        before = self.assembly
        try:
            step = vote(before, self.cast[which % len(self.cast)], self._moment())
        except TapestryError as refused:
            assert refused.hint
        else:
            assert step.event is None and step.assembly is before

    @rule(seconds=st.sampled_from([0.001, 10, 30, 59.999, 60, 60.001, 200]))
    def time_passes(self, seconds: float) -> None:
        self.at = add_seconds(self.at, seconds)

    @rule()
    def is_settled(self) -> None:
        self._settled()
        assert self.assembly.governance.overdue(self.at) is None
        assert settle(self.assembly, self._moment()) is None

    @invariant()
    def rules_hold(self) -> None:
        governance = self.assembly.governance
        for item in self._items():
            barred = {*item.suspended, item.question.about}
            for each in item.ballots:
                assert item.opened <= each.at <= item.closes and each.member not in barred
            for name in NAMES:
                assert [b.number for b in item.ballots if b.member == name] == list(
                    range(1, 1 + sum(b.member == name for b in item.ballots))
                )
            if item.outcome is not None:
                yes = {name for name in NAMES if (last := item.last(name)) and last.choice == "yes"}
                assert item.outcome.verdict != "passed" or len(yes) >= 2
                assert item.outcome.verdict == "passed" or not item.outcome.in_force
                assert item.closes < item.outcome.at <= self.at
        for name in governance.expelled:
            assert name not in self.assembly.members() and name not in governance.suspended
        by_second = {name: held[1] for name, held in self.votes.suspended.items()}
        assert {name: held.until for name, held in governance.suspended.items()} == by_second
        assert (self.votes.admitted, self.votes.phases) == ({*governance.admitted}, {*governance.phases})
        assert self.votes.expelled == governance.expelled
        assert list(self.assembly.members()) == self.votes.members()

    def teardown(self) -> None:
        assert Assembly.from_json(self.assembly.to_json()) == self.assembly


TestDecisions = Decisions.TestCase
TestDecisions.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def fields_of(assembly: Assembly, subject: Subject, *, by: str = "ada", nonce: int = 1) -> dict[str, Any]:
    held = assembly.governance.charter
    return {
        "consortium": HERE,
        "member": by,
        "charter": held.digest if held is not None else "0" * 64,
        "subject": subject,
        "title": "",
        "text": "",
        "nonce": f"{nonce:032x}",
    }


def asked(assembly: Assembly, subject: Subject, *, by: str = "ada", at: str = START, nonce: int = 1) -> Step:
    said = Proposal(**fields_of(assembly, subject, by=by, nonce=nonce))
    given = replace(moment(at), contributed=lambda *_: {}) if nonce > 1 else moment(at)
    return propose(assembly, sign(said, VOTE[by]), given)


def test_a_consortium_without_a_charter_is_as_it_was() -> None:
    ring = ring_of(*NAMES)
    assert Assembly(ring=ring).to_json() == ring.to_json()
    assert Assembly.from_json(ring.to_json()) == Assembly(ring=ring)
    may_join(Assembly(ring=ring), "eve")
    with pytest.raises(NotFound, match="has no charter"):
        asked(Assembly(ring=ring), subjects.OpenPhase(phase="one"))


def test_the_first_charter_is_everybodys() -> None:
    rules, ring = charter(), ring_of(*NAMES)
    signed = [signature(name, rules) for name in NAMES]
    for few in range(4):
        with pytest.raises(Refused, match=f"has not signed the charter \\({few} of 4 have\\)"):
            adopt(Assembly(ring=ring), rules, signed[:few], moment())
    with pytest.raises(Conflict, match="eve is a member that it does not name"):
        adopt(Assembly(ring=joined(ring, "eve")), rules, signed, moment())
    with pytest.raises(Conflict, match="dan has not joined"):
        adopt(Assembly(ring=ring_of(*NAMES[:3])), rules, signed, moment())
    other = charter(title="Another")
    with pytest.raises(Refused, match="another charter"):
        adopt(Assembly(ring=ring), other, signed, moment())
    assert adopt(BEGUN.assembly, rules, signed, moment()).event is None
    with pytest.raises(Conflict, match="is in force"):
        adopt(BEGUN.assembly, other, [], moment())


def by_contribution(**fields: Any) -> Charter:
    voting = charter().voting.model_copy(
        update={"weights": "contribution", "equal_part": "1/2", "cap": "1/3"}
    )
    return charter(voting=voting, **fields)


def test_a_charter_that_cannot_be_held() -> None:
    with pytest.raises(CharterError, match="could sign a release alone"):
        begun(charter(release=charter().release.model_copy(update={"signatures": 1})))


def test_votes_by_contribution_are_those_at_the_opening() -> None:
    assembly = begun(by_contribution()).assembly
    assert assembly.governance.counted_from == 100
    with pytest.raises(StoreError, match="nobody has told"):
        asked(assembly, subjects.OpenPhase(phase="one"))
    told: list[tuple[str, int, int]] = []

    def contributed(measure: str, window: int, since: int) -> dict[str, int]:
        told.append((measure, window, since))
        return {"ada": 3, "bob": 1, "gone": 9}

    at = Moment(consortium=HERE, at=START, sequence=101, contributed=contributed)
    said = Proposal(**fields_of(assembly, subjects.OpenPhase(phase="one")))
    step = propose(assembly, sign(said, VOTE["ada"]), at)
    assert told == [("rounds", 100, 100)]
    item = step.assembly.governance.proposals[said.digest]
    assert item.contributions == {"ada": 3, "bob": 1, "cyd": 0, "dan": 0}
    found = tally(by_contribution(), item.question, item.standings(by_contribution()), ())
    assert [each.share for each in found.electors] == ["1/3", "1/3", "1/6", "1/6"]
    assert Assembly.from_json(step.assembly.to_json()) == step.assembly


def test_the_sample_for_fifty_can_be_adopted() -> None:
    """Its votes go by contribution."""
    rules = charterfile.load(Path(__file__).parents[2] / "examples" / "charter-50.toml")
    ring, signed = KeyRing(), []
    times = {"not_before": add_seconds(START, -60), "expires": add_seconds(START, 1e6)}
    for place, name in enumerate(rules.members):
        root, key = KeyPair.generate(), KeyPair.generate()
        ring = ring.admit(name, root.public_key, sequence=2 * place + 1)
        given = make_certificate(
            root, member=name, node=None, role="vote", public_key=key.public_key, **times
        )
        ring = ring.certify(given, sequence=2 * place + 2, at=START)
        signed.append(sign(CharterSignature(consortium=HERE, member=name, charter=rules.digest), key))
    step = adopt(Assembly(ring=ring), rules, signed, moment(sequence=101))
    assert (step.assembly.governance.charter, step.assembly.governance.counted_from) == (rules, 101)


def test_from_when_on_merges_count() -> None:
    """From the charter by which votes came to go by contribution; others after it change nothing of that."""
    assembly, at = BEGUN.assembly, START
    since = []
    for number, new in enumerate((by_contribution, by_contribution, charter, by_contribution), start=2):
        opened = asked(assembly, subjects.ChangeCharter(charter=new(revision=number)), at=at, nonce=number)
        assembly, (proposal,) = opened.assembly, [each.proposal for each in opened.assembly.governance.open]
        for place, name in enumerate(NAMES):
            said = Ballot(consortium=HERE, member=name, proposal=proposal, number=1, choice="yes", reason="")
            assembly = vote(assembly, sign(said, VOTE[name]), moment(at, 100 * number - 9 + place)).assembly
        at = add_seconds(at, 121)
        step = settle(assembly, moment(at, sequence=100 * number))
        assert step is not None
        assembly = step.assembly
        since.append(assembly.governance.counted_from)
    assert since == [200, 200, None, 500]


def test_nobody_floods_the_others() -> None:
    assembly = BEGUN.assembly
    for number in range(MAX_OPEN):
        assembly = asked(assembly, subjects.OpenPhase(phase=f"p{number}"), nonce=number).assembly
    with pytest.raises(Conflict, match="has 16 proposals open"):
        asked(assembly, subjects.OpenPhase(phase="more"), nonce=99)
    asked(assembly, subjects.OpenPhase(phase="more"), by="bob")


def test_a_proposal_is_under_the_charter_in_force() -> None:
    said = subjects.OpenPhase(phase="one")
    stale = BEGUN.assembly.governance.model_copy(update={"charter": charter(title="New", revision=2)})
    old = {"charter": charter().digest, "title": "", "text": "", "nonce": "0" * 32}
    envelope = sign(Proposal(consortium=HERE, member="ada", subject=said, **old), VOTE["ada"])
    with pytest.raises(Conflict, match="was written under charter"):
        propose(Assembly(ring=BEGUN.assembly.ring, governance=stale), envelope, moment())


def test_events_are_messages() -> None:
    step = asked(BEGUN.assembly, subjects.OpenPhase(phase="one"))
    event: Governed | None = step.event
    assert event is not None
    entry = make_entry(100, START, "consortium", event)
    assert canonical.decode(entry.to_bytes())["body"]["member"] == "ada"
    again = propose(step.assembly, Envelope.from_bytes(entry.body["envelope"].encode()), moment(sequence=101))
    assert again.event is None
