"""A consortium with a history: suspended, expelled, retired and new members, changed charters, open and
decided votes. Everything in it is drawn from a seed, keys too. Beside the rules stand two verifiers that have
read its ledger, ready for the next entry."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tapestry.audit.verify import Verifier
from tapestry.governance import machine
from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Charter
from tapestry.governance.machine import Moment, Step
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal, Subject
from tapestry.governance.state import Assembly, Item
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import Role, make_certificate, make_join, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import (
    CONSORTIUM,
    Entry,
    Founded,
    KeyCertified,
    KeyRevoked,
    MemberAdmitted,
    make_entry,
)
from tapestry.protocol.clock import add_seconds
from tapestry.protocol.message import Part
from tapestry.protocol.plan import Inner, Merge, Plan, Rounds
from tapestry.rounds import machine as rounds
from tests.audit import second
from tests.governance import made

START: Final = "2026-05-01T12:00:00.000Z"
HOUR, DAY = 3600.0, 86400.0
PARTS: Final = ("ask", "one", "two", "few", "aud", "sus", "was", "out", "gone", "swap", "flood")
"""What members are in this history: ask and one to few vote; aud has no seat; sus is suspended; was is so no
more; out is expelled; gone has left, its keys are retired; swap has another root key; flood has 16 proposals
open."""
WORDS: Final = (
    *("alder", "aspen", "beech", "birch", "cedar", "elm", "fir", "hazel"),
    *("holly", "larch", "maple", "oak", "pine", "rowan", "walnut", "willow"),
)
QUICK: Final = ("admit", "suspend", "expel", "replace-root-key", "hear-appeal", "ratify-plan")


@dataclass(frozen=True, kw_only=True)
class Tip:
    """Where the ledger ends, and who has read so far."""

    assembly: Assembly
    at: str
    sequence: int
    first: Verifier
    second: second.Ledger

    @property
    def moment(self) -> Moment:
        return Moment(consortium=self.first.found.consortium, at=self.at, sequence=self.sequence)

    def copied(self) -> Tip:
        """Verifiers that take entries leave those of the other alone."""
        return replace(self, first=copy.deepcopy(self.first), second=copied(self.second))


def copied(ledger: second.Ledger) -> second.Ledger:
    return copy.deepcopy(ledger, {id(second): second})


@dataclass
class Person:
    name: str
    root: KeyPair
    keys: dict[str, KeyPair]
    """By role; besides `old`, a vote key that ended with the root key before, `expired` and `later`."""
    spare: list[KeyPair] = field(default_factory=list)


class World:
    """Attributes named as in `PARTS` are in `who`; proposals by what they are for in `item`."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"world:{seed}")
        names = self.random.sample(WORDS, len(PARTS) + 2)
        self.who = {
            part: self._person(name) for part, name in zip((*PARTS, "new", "friend"), names, strict=True)
        }
        self.at, self.sequence, self.nonce = START, 1, 0
        self.assembly, self.first, self.second = Assembly(), Verifier(), second.Ledger()
        self.ids: dict[str, str] = {}
        self.cast: dict[tuple[str, str, int], Envelope] = {}
        """Ballots as they were sent: by part, proposal and number."""
        self.sent: dict[str, Envelope] = {}
        self.plans: dict[str, Plan] = {}
        self.ended: dict[str, Tip] = {}
        """Where the vote of that name is the next to be decided."""
        self._history()

    # -- the history ------------------------------------------------------------------------------

    def _history(self) -> None:
        self.record(
            Founded(
                title="Forged", core_key=self._key().public_key, nonce=f"{self.random.getrandbits(128):032x}"
            )
        )
        for part in PARTS:
            self._joins(part, self._also(part))
        self.charter = self.rules()
        self.founding = self.tip.copied()
        self.take(machine.adopt(self.assembly, self.charter, self.signatures(self.charter), self.moment))
        for run in ("elsewhere", "lost", "unasked"):
            self._planned(run)
        self._first_month()
        self._second_month()

    def _first_month(self) -> None:
        """The charter is changed; a plan is voted down; one vote goes on under the charter before."""
        self.second_charter = self.rules(revision=2)
        self.opens("change", "ask", subjects.ChangeCharter(charter=self.second_charter))
        self.votes("change")
        self.passes(25 * DAY)
        self.opens("lost", "one", subjects.RatifyPlan(run="lost", plan=self.plans["lost"].digest))
        for part in ("ask", "two", "few"):
            self.casts("lost", part, "no")
        self.passes(DAY)
        self.opens("old", "two", subjects.OpenPhase(phase="old"))
        self.votes("old", but=("was",))
        self.casts("old", "was", "no")
        self.passes(5 * DAY)
        assert self.assembly.governance.charter == self.second_charter
        self.decided("suspend-was", subjects.Suspend(member=self.name("was")))
        self.opens("during", "ask", subjects.OpenPhase(phase="during"))
        self.votes("during", but=("was",))
        self.passes(HOUR)
        away = self.ids["suspend-was"]
        self.decided("appeal", subjects.HearAppeal(member=self.name("was"), decision=away))

    def _second_month(self) -> None:
        """The vote that most lies are about, and what happens to members while it is open."""
        self.opens("main", "one", subjects.OpenPhase(phase="main"))
        for part, choices in (("one", "yes no"), ("two", "yes"), ("few", "no yes")):
            for choice in choices.split():
                self.casts("main", part, choice)
        self.decided("admit", subjects.Admit(member=self.name("new")))
        self._joins("new", ())
        self.decided("suspend-sus", subjects.Suspend(member=self.name("sus")))
        self.decided("key", subjects.ReplaceRootKey(member=self.name("swap"), root_key=self._swapped()))
        self._certifies("swap", "vote")
        self.decided("expel", subjects.Expel(member=self.name("out")))
        self.decided("elsewhere", subjects.RatifyPlan(run="another", plan=self.plans["elsewhere"].digest))
        person = self.who["gone"]
        envelope = make_revocation(
            person.root, member=person.name, revoked=person.keys["vote"].key_id, reason="retired"
        )
        self.record(
            KeyRevoked(member=person.name, key_id=person.keys["vote"].key_id, envelope=text(envelope))
        )
        lost = self.who["few"]
        envelope = make_revocation(
            lost.root, member=lost.name, revoked=lost.keys["stolen"].key_id, reason="compromised"
        )
        self.record(KeyRevoked(member=lost.name, key_id=lost.keys["stolen"].key_id, envelope=text(envelope)))
        self.opens("about", "ask", subjects.AppointOperator(member=self.name("two")))
        for number in range(machine.MAX_OPEN):
            self.opens(f"flood{number}", "flood", subjects.OpenPhase(phase=f"f{number}"))
        self.passes(60)

    def _also(self, part: str) -> Sequence[str]:
        return {"one": ("node", "witness", "release"), "few": ("stolen", "expired", "later")}.get(part, ())

    def rules(self, **fields: Any) -> Charter:
        """Thresholds, weights and seats are drawn; the quick kinds take an hour, the others thirty days."""
        draw = self.random
        usual = {
            "approval": draw.choice(("more than 1/2", "at least 3/5", "at least 2/3")),
            "of": draw.choice(("cast", "all")),
            "quorum": draw.choice(("at least 1/4", "more than 1/3", "at least 1/2")),
            "yes_members": draw.choice((2, 3)),
            "voting": "30 days",
        }
        seats = draw.random() < 0.5
        members: dict[str, Any] = {
            self.name(part): {"seats": draw.choice((1, 2)) if seats else 1, "roles": ("member", "steward")}
            for part in PARTS
        }
        members[self.name("aud")] = {"seats": 0, "roles": ("auditor",)}
        value = made.value(
            (1,) * 3,
            usual=usual,
            kinds={kind: {"voting": "1 hour"} for kind in QUICK if kind != "ratify-plan"},  # type: ignore[misc]
            members=members,
            release={"signatures": 2, "holders": tuple(self.name(part) for part in ("ask", "one", "two"))},
            deadlines={"appeal": "2 days", "suspension": "120 days"},
        )
        value["decisions"]["ratify-plan"]["voting"] = "2 hours"
        return Charter.model_validate({**value, **fields})

    def _person(self, name: str) -> Person:
        roles = ("vote", "node", "witness", "release", "stolen", "expired", "later", "old")
        return Person(name, self._key(), {role: self._key() for role in roles})

    def _key(self) -> KeyPair:
        return KeyPair(Ed25519PrivateKey.from_private_bytes(self.random.randbytes(32)))

    key = _key

    def _joins(self, part: str, also: Iterable[str]) -> None:
        person = self.who[part]
        join = make_join(person.root, consortium=self.consortium, invitation="A" * 43, member=person.name)
        self.record(MemberAdmitted(member=person.name, root_key=person.root.public_key, envelope=text(join)))
        for role in ("vote", *also):
            self._certifies(part, role)

    def _certifies(self, part: str, role: str) -> None:
        person = self.who[part]
        envelope = self.certificate(person, role)
        self.record(
            KeyCertified(member=person.name, key_id=person.keys[role].key_id, envelope=text(envelope))
        )

    def certificate(self, person: Person, role: str, **fields: Any) -> Envelope:
        kind: Role = role if role in ("node", "witness", "release") else "vote"  # type: ignore[assignment]
        begin, end = add_seconds(START, -60), add_seconds(START, 400 * DAY)
        known = {
            "member": person.name,
            "node": f"{person.name}-1" if kind == "node" else None,
            "role": kind,
            "public_key": person.keys[role].public_key,
            "not_before": add_seconds(START, 300 * DAY) if role == "later" else begin,
            "expires": add_seconds(START, 20 * DAY) if role == "expired" else end,
        }
        return make_certificate(person.root, **(known | fields))

    def _swapped(self) -> str:
        person = self.who["swap"]
        person.spare.append(person.root)
        person.root, person.keys["old"], person.keys["vote"] = self._key(), person.keys["vote"], self._key()
        return person.root.public_key

    def _planned(self, run: str) -> None:
        plan = Plan(
            **{name: self.hash() for name in ("model", "layout", "initial_state")},
            run=run,
            parameters=100,
            rounds=Rounds(total=2, min_nodes=2, quorum=2, deadline_s=60.0),
            inner=Inner(steps=10),
            merge=Merge(),
        )
        self.plans[run] = plan
        self.record(rounds.plan_run(plan).events[0], scope=run)

    # -- what is done and recorded ----------------------------------------------------------------

    def record(self, event: Part, *, scope: str = CONSORTIUM) -> None:
        entry = make_entry(self.sequence, self.at, scope, event)
        self.first.line(("entry", entry))
        self.second.entry(entry.model_dump(mode="json"))
        self.assembly = self.first.assembly
        self.sequence += 1

    def take(self, step: Step | None) -> None:
        assert step is not None and step.event is not None
        self.record(step.event)
        assert self.assembly == step.assembly

    def passes(self, seconds: float) -> None:
        """Time; whatever is due is decided."""
        self.at = add_seconds(self.at, seconds)
        while (step := machine.settle(self.assembly, self.moment)) is not None:
            self.take(step)

    def opens(self, name: str, part: str, subject: Subject) -> None:
        self.passes(0.5)
        self.sent[name] = self.proposal(part, subject)
        self.take(machine.propose(self.assembly, self.sent[name], self.moment))
        self.ids[name] = self.sent[name].unverified(Proposal).digest

    def casts(self, name: str, part: str, choice: str) -> None:
        self.passes(0.5)
        envelope = self.ballot(part, name, choice)
        self.take(machine.vote(self.assembly, envelope, self.moment))
        self.cast[part, name, envelope.unverified(Ballot).number] = envelope

    def votes(self, name: str, *, but: Sequence[str] = ()) -> None:
        """All say yes who may."""
        governance, about = self.assembly.governance, self.item(name).question.about
        for part in (*PARTS, "new"):
            member = self.name(part)
            key = self.assembly.ring.keys.get(self.who[part].keys["vote"].key_id)
            able = key is not None and key.revoked is None and governance.suspension(member, self.at) is None
            if able and part not in ("aud", *but) and member != about and member in self.item(name).members:
                self.casts(name, part, "yes")

    def decided(self, name: str, subject: Subject) -> None:
        self.opens(name, "ask", subject)
        self.votes(name)
        self.passes(2 * HOUR + 1)
        outcome = self.item(name).outcome
        assert outcome is not None and outcome.in_force, (name, outcome)

    # -- what is signed ---------------------------------------------------------------------------

    @property
    def consortium(self) -> str:
        return self.first.found.consortium

    @property
    def moment(self) -> Moment:
        return Moment(consortium=self.consortium, at=self.at, sequence=self.sequence)

    @property
    def tip(self) -> Tip:
        return Tip(
            assembly=self.assembly, at=self.at, sequence=self.sequence, first=self.first, second=self.second
        )

    def name(self, part: str) -> str:
        return self.who[part].name

    def item(self, name: str) -> Item:
        return self.assembly.governance.proposals[self.ids[name]]

    def hash(self) -> str:
        return self.random.randbytes(32).hex()

    def key_of(self, part: str, role: str = "vote") -> KeyPair:
        return self.who[part].keys[role]

    def proposal(self, part: str, subject: Subject, *, key: KeyPair | None = None, **fields: Any) -> Envelope:
        return sign(Proposal(**self.said(part, subject, **fields)), key or self.key_of(part))

    def said(self, part: str, subject: Any, **fields: Any) -> dict[str, Any]:
        """Fields of a proposal."""
        self.nonce += 1
        held = self.assembly.governance.charter
        known = {
            "consortium": self.consortium,
            "member": self.name(part),
            "charter": held.digest if held is not None else "0" * 64,
            "subject": subject,
            "title": f"{subject.kind}",
            "text": "Because.",
            "nonce": f"{self.nonce:032x}",
        }
        return known | fields

    def ballot(
        self, part: str, name: str, choice: str, *, key: KeyPair | None = None, **fields: Any
    ) -> Envelope:
        return sign(Ballot(**self.vote(part, name, choice, **fields)), key or self.key_of(part))

    def vote(self, part: str, name: str, choice: str, **fields: Any) -> dict[str, Any]:
        """Fields of a ballot."""
        last = self.item(name).last(self.name(part))
        known: dict[str, Any] = {
            "consortium": self.consortium,
            "member": self.name(part),
            "proposal": self.ids[name],
            "number": 1 if last is None else last.number + 1,
            "choice": choice,
            "reason": "",
        }
        return known | fields

    def signature(
        self, part: str, charter: Charter, *, key: KeyPair | None = None, **fields: Any
    ) -> Envelope:
        known = {"consortium": self.consortium, "member": self.name(part), "charter": charter.digest}
        then = "old" if part == "swap" and "key" in self.ids else "vote"
        return sign(CharterSignature(**(known | fields)), key or self.key_of(part, then))

    # Of the time when the first charter was adopted: swap has had another key since.
    def signatures(self, charter: Charter, *parts: str) -> list[Envelope]:
        return [self.signature(part, charter) for part in parts or PARTS]


def text(envelope: Envelope) -> str:
    return envelope.to_bytes().decode()


def entry_at(tip: Tip, event: Part, *, scope: str = CONSORTIUM, later: int = 0) -> Entry:
    """The next entry of a ledger, or one of the next."""
    return make_entry(tip.sequence + later, tip.at, scope, event)
