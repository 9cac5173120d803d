"""A walk through the decisions of a consortium. The rules act, the second verifier repeats each entry and
says of each refusal whether it would have refused too; `Watch` holds the charter's rules against both."""

from __future__ import annotations

import copy
import json
from base64 import b64decode
from types import SimpleNamespace
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tapestry.errors import TapestryError
from tapestry.governance import machine
from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Charter
from tapestry.governance.machine import Moment, Step
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal
from tapestry.governance.state import Assembly, Item
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing, make_certificate, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import BallotCast, ProposalDecided, ProposalOpened, make_entry
from tapestry.protocol.clock import add_seconds
from tests.audit import second, second_votes
from tests.governance.life.rules import (
    EVERYBODY,
    FIRST,
    FOUNDERS,
    GUESTS,
    HERE,
    KINDS,
    START,
    charter,
    key,
    subject,
)
from tests.governance.life.watch import Watch, need

ABLE: Final = st.sampled_from((*FOUNDERS, *FOUNDERS, *GUESTS))
CHOICES: Final = st.sampled_from(["yes"] * 6 + ["no", "abstain", ""])
NUMBERS: Final = st.integers(0, 100)


class Life(RuleBasedStateMachine):
    steps: ClassVar[int] = 0
    """Taken by all walks so far."""
    seen: ClassVar[dict[str, int]] = {}
    """What came of them: events and refusals."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.sequence, self.nonce = START, 100, 0
        self.sent: list[Envelope] = []
        self.root = {name: key(f"root {name}") for name in EVERYBODY}
        self.vote_key = {name: key(f"vote {name} 0") for name in EVERYBODY}
        self.former: list[tuple[str, KeyPair]] = []
        """Vote keys that members had before."""
        self.former_charter = ""
        """That the consortium began with."""
        self.merges: list[tuple[int, dict[str, int]]] = []
        """Where each stands in the ledger, and what it weighs of whom."""
        self.waiting: dict[str, KeyPair] = {}
        """Root keys that are asked for, by proposal."""
        self.assembly = Assembly()
        self.beside = SimpleNamespace(consortium=HERE, roots={}, used=set(), keys={}, valid=self._valid)
        self.votes = second_votes.Votes(self.beside, second)
        self.watch: Watch | None = None
        self._held: tuple[Charter | None, Any] = (None, None)
        for name in FOUNDERS:
            self._admitted(name)
            self._certified(name)

    @initialize(which=st.sampled_from(FIRST))
    def begins(self, which: int) -> None:
        """With one of the charters."""
        first = charter(which, 1)
        self.former_charter = first.digest
        signed = [
            sign(CharterSignature(consortium=HERE, member=n, charter=first.digest), self.vote_key[n])
            for n in FOUNDERS
        ]
        self._took(machine.adopt(self.assembly, first, signed, self.moment))
        self.watch = Watch(json.loads(first.to_bytes()), dict(self.beside.roots))

    # -- what is recorded -------------------------------------------------------------------------

    @property
    def moment(self) -> Moment:
        return Moment(consortium=HERE, at=self.at, sequence=self.sequence, contributed=self._contributed)

    def _contributed(self, measure: str, window: int, since: int) -> dict[str, int]:
        """As a core's log would tell it."""
        merges = [weights for at, weights in self.merges if at > since][-window:]
        return {
            name: sum(each.get(name, 0) if measure == "weight" else name in each for each in merges)
            for name in EVERYBODY
        }

    def _count(self, what: str) -> None:
        Life.seen[what] = Life.seen.get(what, 0) + 1

    def _valid(self, data: bytes, kind: str, _now: int) -> tuple[Any, str]:
        """As the second verifier's ledger opens what is signed; its signatures are tried elsewhere."""
        envelope = json.loads(data)
        said = json.loads(b64decode(envelope["payload"]))
        second.need(said["format"] == f"tapestry.{kind}", "another kind")
        held = self.beside.keys.get(envelope["signatures"][0]["keyid"])
        second.need(
            held is not None and held["member"] == said["member"] and not held["revoked"],
            "a key is not valid",
        )
        return said, ""

    def _ring(self, ring: KeyRing) -> None:
        self.assembly = Assembly(ring=ring, governance=self.assembly.governance)
        self.sequence += 1

    def _admitted(self, name: str) -> None:
        self._ring(self.assembly.ring.admit(name, self.root[name].public_key, sequence=self.sequence))
        self.beside.roots[name] = self.root[name].public_key
        self.beside.used.add(self.root[name].public_key)

    def _certified(self, name: str) -> None:
        pair = self.vote_key[name]
        times = {"not_before": add_seconds(START, -60), "expires": add_seconds(START, 1e7)}
        given = make_certificate(
            self.root[name], member=name, node=None, role="vote", public_key=pair.public_key, **times
        )
        self._ring(self.assembly.ring.certify(given, sequence=self.sequence, at=self.at))
        self.beside.keys[pair.key_id] = {
            "member": name, "revoked": False, "role": "vote", "start": 0, "end": 1 << 60,
        }  # fmt: skip
        self.beside.used.add(pair.public_key)

    def _entry(self, step: Step) -> dict[str, Any]:
        assert step.event is not None
        return make_entry(self.sequence, self.at, "consortium", step.event).model_dump(mode="json")

    def _took(self, step: Step) -> None:
        entry = self._entry(step)
        self.votes.in_time(entry["type"], self.at)
        self.votes.entry(entry, second.milliseconds(self.at))
        self.assembly = step.assembly
        self.sequence += 1
        self._count(entry["type"])
        watch, event = self.watch, step.event
        if watch is None:
            return
        match event:
            case ProposalOpened():
                watch.opened(event.proposal, _said(event.envelope), self.at, event.contributions)
            case BallotCast():
                watch.cast(_said(event.envelope), self.at)
            case ProposalDecided():
                watch.decided(event.proposal, event.verdict == "passed", event.in_force, self.at)
                if event.in_force:
                    kind = self.assembly.governance.proposals[event.proposal].question.kind
                    self._count(f"in force: {kind}")
                if event.in_force and event.proposal in self.waiting:
                    self._root_replaced(event.proposal)

    def _root_replaced(self, proposal: str) -> None:
        name = self.assembly.governance.proposals[proposal].question.about
        assert name is not None
        self.root[name] = self.waiting.pop(proposal)

    def _refused(self, envelope: Envelope, kind: str, body: dict[str, Any], error: TapestryError) -> None:
        """The rules refuse; the second verifier must refuse the entry that a core would write anyway."""
        need(bool(error.hint), f"no way out is said: {error}")
        self._count(f"refused {kind}")
        entry = {"type": kind, "at": self.at, "sequence": self.sequence, "body": body}
        trial = copy.copy(self.votes)
        trial.items = {name: {**item, "ballots": [*item["ballots"]]} for name, item in trial.items.items()}
        try:
            trial.entry(entry, second.milliseconds(self.at))
        except (ValueError, KeyError):
            return
        raise AssertionError(f"refused against the rules: {error}")

    def _settled(self) -> None:
        while (step := machine.settle(self.assembly, self.moment)) is not None:
            self._took(step)

    def _items(self) -> list[Item]:
        return list(self.assembly.governance.proposals.values())

    # -- steps ------------------------------------------------------------------------------------

    def _step(self) -> None:
        Life.steps += 1
        self._settled()

    def _new_root(self, about: str, number: int) -> str:
        """What a root key is to be replaced by; now and then one that somebody has."""
        return (self.root["ada"] if number % 9 == 0 else key(f"root {about} {self.nonce}")).public_key

    def _asks(
        self, by: str, kind: str, about: str, number: int, pair: KeyPair, *, under: str | None = None
    ) -> str | None:
        self.nonce += 1
        governance = self.assembly.governance
        assert governance.charter is not None
        said = Proposal(
            consortium=HERE,
            member=by,
            charter=under or governance.charter.digest,
            subject=subject(governance, kind, about, number, self._new_root(about, number)),
            title="",
            text="",
            nonce=f"{self.nonce:032x}",
        )
        if isinstance(said.subject, subjects.ReplaceRootKey):
            self.waiting[said.digest] = key(f"root {about} {self.nonce}")
        envelope = sign(said, pair)
        self.sent.append(envelope)
        return self._proposed(envelope)

    def _proposed(self, envelope: Envelope) -> str | None:
        said = envelope.unverified(Proposal)
        try:
            step = machine.propose(self.assembly, envelope, self.moment)
        except TapestryError as error:
            rule = said.subject.kind
            held = self.assembly.governance.charter
            assert held is not None
            closes = second_votes.later(self.at, held.decisions[rule].voting)
            body = {
                "member": said.member,
                "proposal": said.digest,
                "closes": closes,
                "envelope": _text(envelope),
            }
            given = self.votes.contributed()
            body |= {} if given is None else {"contributions": given}
            self._refused(envelope, "proposal-opened", body, error)
            return None
        if step.event is not None:
            self._took(step)
        return said.digest

    def _casts(self, by: str, item: Item, choice: Any, pair: KeyPair, number: int | None = None) -> None:
        last = item.last(by)
        number = number or (1 if last is None else min(100, last.number + 1))
        said = Ballot(
            consortium=HERE, member=by, proposal=item.proposal, number=number, choice=choice, reason=""
        )
        envelope = sign(said, pair)
        self.sent.append(envelope)
        self._voted(envelope)

    def _voted(self, envelope: Envelope) -> None:
        said, before = envelope.unverified(Ballot), self.assembly
        try:
            step = machine.vote(before, envelope, self.moment)
        except TapestryError as error:
            body = {"member": said.member, "proposal": said.proposal, "envelope": _text(envelope)}
            self._refused(envelope, "ballot-cast", body, error)
            return
        if step.event is None:
            need(step.assembly is before, "a ballot without an entry changes something")
        else:
            self._took(step)

    @rule(
        by=ABLE,
        kind=st.sampled_from(KINDS),
        about=st.sampled_from(EVERYBODY),
        number=NUMBERS,
        stale=st.sampled_from([False, False, False, True]),
    )
    def proposes(self, by: str, kind: str, about: str, number: int, stale: bool) -> None:
        """`stale`: under a charter that was in force before."""
        self._step()
        under = self.former_charter if stale else None
        self._asks(by, kind, about, number, self.vote_key[by], under=under)

    @rule(
        by=ABLE,
        kind=st.sampled_from(KINDS),
        about=st.sampled_from(EVERYBODY),
        number=NUMBERS,
        choices=st.lists(CHOICES, min_size=7, max_size=7),
        wait=st.sampled_from([0, 60.001, 121]),
        twice=st.sampled_from([False, False, False, True]),
    )
    def puts_to_the_vote(
        self, by: str, kind: str, about: str, number: int, choices: list[str], wait: float, twice: bool
    ) -> None:
        """A proposal on which many vote, perhaps two of the same, and perhaps the deadline: what chance alone
        seldom gives."""
        self._step()
        for _ in range(2 if twice else 1):
            name = self._asks(by, kind, about, number, self.vote_key[by])
            for member, choice in zip(EVERYBODY, choices, strict=True):
                if name is not None and choice:
                    item = self.assembly.governance.proposals[name]
                    self._casts(member, item, choice, self.vote_key[member])
        self.at = add_seconds(self.at, wait)
        self._settled()

    @precondition(lambda self: self._items())
    @rule(
        by=st.sampled_from(EVERYBODY),
        which=st.integers(0, 6),
        choice=st.sampled_from(["yes", "yes", "no", "abstain"]),
        number=st.sampled_from([None, None, None, 1, 2, 5]),
    )
    def votes_on(self, by: str, which: int, choice: str, number: int | None) -> None:
        self._step()
        items = self._items()
        self._casts(by, items[-1 - which % len(items)], choice, self.vote_key[by], number)

    @rule(about=st.sampled_from(FOUNDERS), by=st.sampled_from(FOUNDERS), number=NUMBERS)
    def votes_when_suspended(self, about: str, by: str, number: int) -> None:
        """On what was opened before, and is open for longer than it takes to suspend."""
        self._step()
        other = self._asks(by, "change-charter", by, number, self.vote_key[by])
        name = self._asks(by, "suspend", about, number, self.vote_key[by])
        for member in EVERYBODY if name is not None else ():
            self._casts(member, self.assembly.governance.proposals[name], "yes", self.vote_key[member])
        self.at = add_seconds(self.at, 60.001)
        self._settled()
        if other is not None:
            self._casts(about, self.assembly.governance.proposals[other], "yes", self.vote_key[about])

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 40))
    def is_sent_again(self, which: int) -> None:
        """What was signed before, whether it was taken or not."""
        self._step()
        envelope = self.sent[which % len(self.sent)]
        if "proposal" in envelope.payloadType:
            self._proposed(envelope)
        else:
            self._voted(envelope)

    @precondition(lambda self: self.former and self._items())
    @rule(which=st.integers(0, 9), choice=st.sampled_from(["yes", "no"]))
    def votes_with_a_former_key(self, which: int, choice: str) -> None:
        self._step()
        by, pair = self.former[which % len(self.former)]
        self._casts(by, self._items()[-1], choice, pair)

    @rule(name=st.sampled_from(GUESTS))
    def joins(self, name: str) -> None:
        """By invitation, where there is a decision for it."""
        self._step()
        if name in self.assembly.ring.members:
            return
        try:
            machine.may_join(self.assembly, name)
        except TapestryError:
            assert self.watch is not None
            able = name in self.watch.charter["members"] or name in self.watch.admitted
            need(not able, f"{name} is admitted and may not join")
            return
        assert self.watch is not None
        self.watch.joined(name, self.root[name].public_key)
        self._admitted(name)
        self._certified(name)
        self._count("joined")

    @rule(name=st.sampled_from(EVERYBODY), leaves=st.sampled_from([False] * 9 + [True]))
    def changes_its_key(self, name: str, leaves: bool) -> None:
        """Its vote key ends and, if it does not leave, another comes."""
        self._step()
        ring = self.assembly.ring
        if name not in ring.members:
            return
        pair = self.vote_key[name]
        if pair.key_id in ring.keys and ring.keys[pair.key_id].revoked is None:
            given = make_revocation(self.root[name], member=name, revoked=pair.key_id, reason="rotated")
            self._ring(ring.revoke(given, sequence=self.sequence))
            self.beside.keys[pair.key_id]["revoked"] = True
        self.former.append((name, pair))
        self.nonce += 1
        self.vote_key[name] = key(f"vote {name} {self.nonce}")
        self._count("left" if leaves else "key changed")
        if not leaves and name in ring.active:
            self._certified(name)

    @rule(names=st.lists(st.sampled_from(EVERYBODY), min_size=1, max_size=4, unique=True), weight=NUMBERS)
    def is_merged(self, names: list[str], weight: int) -> None:
        """A round of a run ends, with an update of each of these."""
        self._step()
        weights = {name: weight + place for place, name in enumerate(names)}
        self.merges.append((self.sequence, weights))
        self.sequence += 1
        self.votes.merged({"merged": [{"member": name, "weight": each} for name, each in weights.items()]})
        assert self.watch is not None
        self.watch.merged(weights)
        self._count("merged")

    @rule(seconds=st.sampled_from([0.001, 10, 30, 59.999, 60, 60.001, 130, 400]))
    def time_passes(self, seconds: float) -> None:
        self.at = add_seconds(self.at, seconds)
        self._step()

    @invariant()
    def the_rules_hold(self) -> None:
        assert self.watch is not None
        governance = self.assembly.governance
        held = governance.charter
        assert held is not None
        if held is not self._held[0]:
            self._held = held, json.loads(held.to_bytes())
        self.watch.agrees(governance, self.assembly.ring, self._held[1], self.at)
        by_second = {name for name in self.votes.suspended if self.votes.is_suspended(name, self.at)}
        need(
            {n for n in governance.suspended if governance.suspension(n, self.at)} == by_second,
            "who is suspended",
        )
        need(
            (self.votes.phases, self.votes.operator or None) == ({*governance.phases}, governance.operator),
            "phases",
        )

    def teardown(self) -> None:
        assert Assembly.from_json(self.assembly.to_json()) == self.assembly


def _said(envelope: str) -> Any:
    return json.loads(b64decode(json.loads(envelope)["payload"]))


def _text(envelope: Envelope) -> str:
    return envelope.to_bytes().decode()
