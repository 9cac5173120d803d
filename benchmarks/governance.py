"""Tally, account and entitlements of 50 members and 1,000 rounds, from a ledger in a file.

Goal: all three together in less than 10 s, on one core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final

from benchmarks.report import Report, Settings, spread
from tapestry.audit import account, file
from tapestry.audit.grants import Grants
from tapestry.governance import machine as council
from tapestry.governance.charter import Charter
from tapestry.governance.proposal import (
    AcceptRelease,
    Ballot,
    CharterSignature,
    Proposal,
    RatifyPlan,
    Subject,
)
from tapestry.governance.state import Assembly, Item
from tapestry.governance.tally import tally
from tapestry.governance.words import KINDS
from tapestry.identity.envelope import sign
from tapestry.identity.keyring import Role, make_certificate, make_join
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import CONSORTIUM, Entry, Founded, KeyCertified, MemberAdmitted, make_entry
from tapestry.protocol import canonical
from tapestry.protocol.clock import time_text
from tapestry.protocol.message import Part
from tapestry.protocol.messages import Contribution, Enrolment
from tapestry.protocol.plan import Inner, Plan, Rounds
from tapestry.rounds import machine

RUN: Final = "long"
MEMBERS: Final = 50
ROUNDS: Final = 1000
START_MS: Final = 1_780_000_000_000
GOAL_S: Final = 10.0
NOT_SHOWN: Final = (
    "The ledger is taken as it stands, as a node takes its own copy, which it has verified entry by entry as "
    "it came (see `verify` for what that takes); entries of the consortium are verified here too.",
    "Signing by holders, and sending papers around.",
)


def measure(settings: Settings) -> Report:
    report = Report(what="governance", title="Tally, account, entitlements", not_shown=NOT_SHOWN)
    members, rounds = (5, 20) if settings.quick else (MEMBERS, ROUNDS)
    repeat = settings.repeat or (1 if settings.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        with path.open("wb") as out:
            made = Made(out, members)
            made.play(rounds)
        item, charter = made.vote()
        counting = _times(
            lambda: tally(charter, item.question, item.standings(charter), item.counted()), repeat
        )
        rows: list[object] = []
        accounts: list[account.Account] = []

        def read() -> None:
            rows.clear()
            accounts.append(account.read(file.read(path), on_row=rows.append, verify=False))

        accounting = _times(read, repeat)
        papers: list[int] = []

        def entitle() -> None:
            grants = Grants(file.read(path), verify=False)
            names = [each.member for each in grants.grants("one") if each.verdict.granted]
            papers.append(sum(len(each.to_bytes()) for each in grants.papers("one", names)) // len(names))

        entitling = _times(entitle, repeat)
        size = path.stat().st_size
    run = accounts[0].runs[RUN]
    assert (run.merges, len(run.members), len(rows)) == (rounds, members, rounds * members)
    assert sum(run.share(name) for name in run.members) == Fraction(1)
    report.section(
        "Times",
        f"{members} members, {rounds:,} rounds: {made.size:,} entries, {size / 1e6:.0f} MB as a file. "
        f"One thread; with other work on the machine the time of the processor says more. Goal: all together "
        f"{GOAL_S:.0f} s.",
    )
    parts = (
        (f"tally of a vote of {members}", counting),
        (f"account of each member in each round: {len(rows):,} rows, from the file", accounting),
        (f"a certificate for each, with proofs: {papers[0] / 1e3:.0f} kB each", entitling),
        (
            "together",
            [
                (sum(a), sum(b))
                for a, b in (
                    zip(*each, strict=True) for each in zip(counting, accounting, entitling, strict=True)
                )
            ],
        ),
    )
    report.table(
        ("what", "seconds", "seconds of the processor"),
        [(what, spread([a for a, _ in times], 3), spread([b for _, b in times], 3)) for what, times in parts],
    )
    return report


def _times(work: Callable[[], object], repeat: int) -> list[tuple[float, float]]:
    """Of each call: by the clock, and of the processor."""
    found = []
    for _ in range(repeat):
        clock, processor = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - clock, time.process_time() - processor))
    return found


class Made:
    """A ledger written as the rules make it, without a core."""

    def __init__(self, out: BinaryIO, members: int) -> None:
        self._out, self._now, self._tree = out, START_MS, tree.Tree()
        self._assembly = Assembly()
        self._core = KeyPair.generate()
        self.consortium = ""
        self._node = {f"m{n:02}": KeyPair.generate() for n in range(members)}
        self._vote = {name: KeyPair.generate() for name in self._node}
        out.write(file.FIRST)
        founded = Founded(title="Benchmark", core_key=self._core.public_key, nonce="0" * 32)
        self.consortium = self._put(CONSORTIUM, founded).digest
        for name in self._node:
            self._join(name)

    @property
    def size(self) -> int:
        return self._tree.size

    def play(self, rounds: int) -> None:
        """Adopt a charter, train for so many rounds, release what came of it."""
        self._adopt()
        digest = canonical.sha256(b"")
        plan = Plan(
            run=RUN,
            **dict.fromkeys(("model", "layout", "initial_state"), digest),
            parameters=1,
            rounds=Rounds(total=rounds, min_nodes=len(self._node), quorum=len(self._node)),
            inner=Inner(steps=100),
        )
        step = machine.plan_run(plan)
        self._put(RUN, *step.events)
        self._decide(RatifyPlan(run=RUN, plan=plan.digest))
        self._state = step.state
        self._step(machine.Start())
        for name in self._node:
            said = Enrolment(consortium=self.consortium, run=RUN, plan=plan.digest, member=name, node=name)
            envelope = self._blob(sign(said, self._node[name]).to_bytes())
            self._step(machine.Enrol(node=name, member=name, plan=plan.digest, enrolment=envelope))
        for number in range(rounds):
            for each in self._round(plan.digest, number):
                self._step(each)
        self._decide(AcceptRelease(release="one", state=self._state.head))
        self._end()

    def vote(self) -> tuple[Item, Charter]:
        """The last vote, with all its ballots."""
        charter = self._assembly.governance.charter
        assert charter is not None
        return list(self._assembly.governance.proposals.values())[-1], charter

    def _round(self, plan: str, number: int) -> Iterator[machine.Input]:
        at = self._state.current
        assert at is not None
        where = {"round": at.round, "fragment": at.fragment}
        for place, (name, key) in enumerate(self._node.items()):
            self._now += 1000
            delta = canonical.sha256(f"{number} {name}".encode())
            amount = {"tokens": 1000 + place + number % 7, "steps": 100}
            said = Contribution(
                consortium=self.consortium, run=RUN, plan=plan, member=name, node=name, state=at.state,
                delta=delta, data_manifest=delta, environment={"ranks": "1"}, nonce=delta[:32],
                train_ms=900 + (number * place) % 100, bytes=1_000_000, **where, **amount,
            )  # fmt: skip
            envelope = self._blob(sign(said, key).to_bytes())
            yield machine.Contribute(
                member=name, node=name, plan=plan, state=at.state, contribution=envelope, delta=delta,
                **where, **amount,
            )  # fmt: skip
            yield machine.Screened(node=name, contribution=envelope, reason=None, **where)
        made = canonical.sha256(f"state {number}".encode())
        yield machine.MergeDone(state=made, base=made, outer=made, **where)

    def _join(self, name: str) -> None:
        root = KeyPair.generate()
        join = make_join(root, consortium=self.consortium, invitation="0" * 16, member=name)
        admitted = MemberAdmitted(member=name, root_key=root.public_key, envelope=join.to_bytes().decode())
        ring = self._assembly.ring.admit(name, root.public_key, sequence=self.size + 1)
        self._put(CONSORTIUM, admitted)
        kinds: tuple[tuple[Role, KeyPair, str | None], ...] = (
            ("node", self._node[name], name),
            ("vote", self._vote[name], None),
        )
        for role, key, node in kinds:
            certificate = make_certificate(
                root,
                member=name,
                node=node,
                role=role,
                public_key=key.public_key,
                not_before=time_text(START_MS - 1000),
                expires=time_text(START_MS + 10**10),
            )
            ring = ring.certify(certificate, sequence=self.size + 1, at=time_text(self._now))
            envelope = certificate.to_bytes().decode()
            self._put(CONSORTIUM, KeyCertified(member=name, key_id=key.key_id, envelope=envelope))
        self._assembly = Assembly(ring=ring, governance=self._assembly.governance)

    def _moment(self) -> council.Moment:
        return council.Moment(consortium=self.consortium, at=time_text(self._now), sequence=self.size + 1)

    def _took(self, step: council.Step | None) -> None:
        assert step is not None and step.event is not None
        self._assembly = step.assembly
        self._put(CONSORTIUM, step.event)

    def _adopt(self) -> None:
        rule = {"approval": "more than 1/2", "quorum": "at least 1/2", "voting": "1 hour"}
        tables = ("contribution", "entitlements", "data", "public", "deadlines")
        charter = Charter.model_validate(
            {
                "title": "Benchmark",
                "revision": 1,
                "members": {name: {} for name in self._vote},
                "voting": {},
                "decisions": dict.fromkeys(KINDS, rule),
                "release": {"signatures": 3, "holders": tuple(self._vote)[:5]},
                **{table: {} for table in tables},
            }
        )
        signed = [
            sign(CharterSignature(consortium=self.consortium, member=name, charter=charter.digest), key)
            for name, key in self._vote.items()
        ]
        self._took(council.adopt(self._assembly, charter, signed, self._moment()))

    def _decide(self, subject: Subject) -> None:
        first = next(iter(self._vote))
        charter = self._assembly.governance.charter
        assert charter is not None
        said = Proposal(
            consortium=self.consortium,
            member=first,
            charter=charter.digest,
            subject=subject,
            title=subject.kind,
            text="",
            nonce=f"{self.size:032x}",
        )
        self._took(council.propose(self._assembly, sign(said, self._vote[first]), self._moment()))
        for name, key in self._vote.items():
            ballot = Ballot(
                consortium=self.consortium,
                member=name,
                proposal=said.digest,
                number=1,
                choice="yes",
                reason="",
            )
            self._took(council.vote(self._assembly, sign(ballot, key), self._moment()))
        self._now += 3_601_000
        self._took(council.settle(self._assembly, self._moment()))

    def _step(self, given: machine.Input) -> None:
        step = machine.step(self._state, given, self._now)
        assert step.refusal is None and step.events
        self._state = step.state
        self._put(RUN, *step.events)

    def _blob(self, data: bytes) -> str:
        self._out.write(file.of_bytes("blob", data))
        return canonical.sha256(data)

    def _put(self, scope: str, *events: Part) -> Entry:
        for event in events:
            entry = make_entry(self.size + 1, time_text(self._now), scope, event)
            data = entry.to_bytes()
            self._out.write(file.of_bytes("entry", data))
            self._tree.add(tree.leaf_hash(data))
        return entry

    def _end(self) -> None:
        origin = origin_of(self.consortium)
        note = Note(Checkpoint(origin, self.size, self._tree.root()).text).signed(origin, self._core)
        self._out.write(file.encode(("checkpoint", note.to_bytes().decode())))
