"""A long ledger: writing it to a file, verifying it from its bytes, and opening a core that has it.

Goals: 100,000 entries verified in at most 60 s, and a core with them opened, up to its first read of a run,
in at most 5 s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.report import Report, Settings, rates, seconds, spread
from tapestry.audit import file as ledger
from tapestry.audit.heads import cosignature
from tapestry.audit.verify import Found, Verifier
from tapestry.core import operator
from tapestry.core import settings as core_settings
from tapestry.core.clock import now_ms
from tapestry.core.journal import Decision, Moment, Standing, run_scope
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.identity.envelope import sign
from tapestry.identity.keyring import Role, make_certificate, make_join
from tapestry.identity.keys import KeyPair
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol import canonical
from tapestry.protocol.clock import time_text
from tapestry.protocol.message import Part
from tapestry.protocol.messages import Attestation, Contribution, Enrolment
from tapestry.protocol.plan import Inner, Plan, Rounds, Witness
from tapestry.rounds import machine
from tapestry.rounds.state import RunState

Manifest = Callable[[str, int], str]
Pairs = tuple[KeyPair, KeyPair]
"""A node's key and its witness key."""
RUN: Final = "long"
NODES: Final = 8
ENTRIES: Final = 100_000
QUICK_ENTRIES: Final = 2_000
QUORUM: Final = 6
OF_A_ROUND: Final = 2 * NODES + 3 + QUORUM
"""Opened, each contribution received and accepted, closed, committed, attested."""
NOT_SHOWN: Final = (
    "Merges are not repeated (see `merge`, `replay`): a ledger shows rules and signatures.",
    "The entries are written round by round in one transaction each; a core takes one for each request.",
    "Opening is in a process that has Python's modules loaded (see `cli` for what loading takes).",
)


def measure(settings: Settings) -> Report:
    report = Report(what="verify", title="A long ledger", not_shown=NOT_SHOWN)
    entries = settings.entries or (QUICK_ENTRIES if settings.quick else ENTRIES)
    repeat = settings.repeat or 3
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder) / "core", Path(folder) / "ledger.jsonl"
        rounds = make(root, entries)
        opening = seconds(lambda: open_core(root), repeat=repeat)
        with Core.open(root) as core:
            exporting = seconds(lambda: export(core, path), repeat=1)
        seen: list[Found] = []
        verifying = seconds(lambda: seen.append(verify(path)), repeat=repeat)
        found = seen[0]
        size = path.stat().st_size
    report.section(
        "Times",
        f"{found.entries:,} entries: a run of {rounds:,} rounds of {NODES} nodes, so {found.contributions:,} "
        f"signed contributions, and {found.attestations:,} attestations of witnesses; {size / 1e6:.0f} MB as "
        "a file. Goals for 100,000: verify 60 s, open 5 s.",
    )
    report.table(
        ("what", "seconds", "entries a second"),
        [
            ("export to a file", spread(exporting), f"{median(rates(found.entries, exporting)):,.0f}"),
            ("verify the file", spread(verifying), f"{median(rates(found.entries, verifying)):,.0f}"),
            ("open the core, read its keys, run and tree's head", spread(opening, 3), ""),
        ],
    )
    return report


def export(core: Core, path: Path) -> None:
    with path.open("wb") as out:
        out.write(ledger.FIRST)
        out.writelines(Proofs(core.journal, core.consortium).written(core.store))


def verify(path: Path) -> Found:
    return Verifier().take(ledger.read(path))


def open_core(root: Path) -> None:
    with Core.open(root) as core:
        core.consortium.ring()
        core.runs.standing(RUN)
        core.journal.tree_head()


def make(root: Path, entries: int, manifest: Manifest = lambda *_: canonical.sha256(b"")) -> int:
    """A core whose run has rounds enough for so many entries; how many. `manifest` is the data manifest of a
    node's contribution to a round."""
    consortium = operator.init(root, core_settings.make(port=0), title="Benchmark")
    keys = {f"node{number:02}": (KeyPair.generate(), KeyPair.generate()) for number in range(NODES)}
    with Core.open(root) as core:
        for name, pairs in keys.items():
            _join(core, root, consortium, name, pairs)
        rounds = -(-entries // OF_A_ROUND)
        plan = Plan(
            run=RUN,
            **dict.fromkeys(("model", "layout", "initial_state"), canonical.sha256(b"")),
            parameters=1,
            rounds=Rounds(total=rounds, min_nodes=NODES, quorum=NODES),
            inner=Inner(steps=100),
            witness=Witness(quorum=QUORUM),
        )
        put_to(core, RUN, [], (machine.plan_run(plan).state, machine.plan_run(plan).events))
        given: list[machine.Input] = [machine.Start()]
        for name, (key, _) in keys.items():
            said = Enrolment(consortium=consortium, run=RUN, plan=plan.digest, member=name, node=name)
            envelope = core.store.put(sign(said, key).to_bytes(), durable=False)
            given.append(machine.Enrol(node=name, member=name, plan=plan.digest, enrolment=envelope))
        put_to(core, RUN, given)
        for _ in range(rounds):
            put_to(core, RUN, list(_round(core, consortium, keys, manifest)))
            put_to(core, RUN, list(_attestations(core, consortium, keys)))
    return rounds


def _join(core: Core, root: Path, consortium: str, name: str, pairs: Pairs) -> None:
    member = KeyPair.generate()
    join = make_join(member, consortium=consortium, invitation=operator.invite(root, name), member=name)
    roles: tuple[Role, ...] = ("node", "witness")
    certificates = [
        make_certificate(
            member,
            member=name,
            node=name,
            role=role,
            public_key=key.public_key,
            not_before=time_text(now_ms() - 3_600_000),
            expires=time_text(now_ms() + 86_400_000),
        )
        for role, key in zip(roles, pairs, strict=True)
    ]
    core.consortium.join(join, certificates)


def _attestations(core: Core, consortium: str, keys: dict[str, Pairs]) -> Iterator[machine.Input]:
    """The quorum's, each with its cosignature of the head that commits the round."""
    state = core.runs.standing(RUN).state
    size, root = core.journal.tree_head()
    head = Checkpoint(origin_of(consortium), size, root)
    for name, (_, key) in list(keys.items())[:QUORUM]:
        what = {"round": state.head_round, "merges": state.merges, "state": state.head}
        said = Attestation(
            consortium=consortium, run=RUN, member=name, node=name, size=size, root=root.hex(),
            cosignature=cosignature(head, name, name, key, now_ms() // 1000), **what,
        )  # fmt: skip
        envelope = core.store.put(sign(said, key).to_bytes(), durable=False)
        yield machine.Attest(node=name, member=name, attestation=envelope, **what)


def _round(
    core: Core, consortium: str, keys: dict[str, Pairs], manifest: Manifest
) -> Iterator[machine.Input]:
    """What is put to the run until its open round is merged; the envelopes lie in the core's store."""
    state = core.runs.standing(RUN).state
    at = state.current
    assert at is not None
    plan = state.plan.digest
    where = {"round": at.round, "fragment": at.fragment}
    for name, (key, _) in keys.items():
        delta = canonical.sha256(f"{at.round} {name}".encode())
        amount = {"tokens": 1000 + at.round % 7, "steps": 100}
        said = Contribution(
            consortium=consortium, run=RUN, plan=plan, member=name, node=name, state=at.state, delta=delta,
            data_manifest=manifest(name, at.round), environment={}, nonce=delta[:32], **where, **amount,
        )  # fmt: skip
        envelope = core.store.put(sign(said, key).to_bytes(), durable=False)
        yield machine.Contribute(
            member=name, node=name, plan=plan, state=at.state, contribution=envelope, delta=delta,
            **where, **amount,
        )  # fmt: skip
        yield machine.Screened(node=name, contribution=envelope, reason=None, **where)
    made = canonical.sha256(f"state {at.round}".encode())
    yield machine.MergeDone(state=made, base=made, outer=made, **where)


def put_to(
    core: Core, run: str, given: list[machine.Input], first: tuple[RunState, tuple[Part, ...]] | None = None
) -> None:
    """Several inputs to a run in one transaction, as its server would take each; `first`: it begins."""

    def decide(moment: Moment, standing: Standing[RunState] | None) -> Decision[RunState]:
        if first is not None:
            return Decision(state=first[0], events=first[1])
        assert standing is not None
        state, events = standing.state, list[Part]()
        for each in given:
            step = machine.step(state, each, moment.now_ms)
            assert step.refusal is None and step.events
            state = step.state
            events += step.events
        return Decision(state=state, events=tuple(events))

    core.journal.apply(run_scope(run), decide)
