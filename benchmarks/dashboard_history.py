"""Rounds that lie behind a run before anybody looks at it, written into a stopped core's home.

They are what members of `benchmarks.dashboard` would have sent, with their real signatures, but put to the
round machine in one transaction a round: a core takes one for each request, and half an hour for them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.core.support import CoreUnderTest, Member, artifact, shards

from benchmarks.verify import put_to
from tapestry.core.service import Core
from tapestry.identity.envelope import sign
from tapestry.protocol.artifact import State
from tapestry.protocol.messages import Score
from tapestry.protocol.plan import Plan
from tapestry.rounds import machine
from tapestry.rounds.state import RunState


def write(under: CoreUnderTest, plan: Plan, delta: str, members: Sequence[Member], rounds: int) -> None:
    """Args:
    under: not running.
    plan: of the run, which has begun and in which all members are enrolled.
    delta: what all send; its blobs are at the core.
    members: all of the run.
    rounds: how many.
    """
    with Core.open(under.root) as core:
        outer = shards(0.0)
        momentum = artifact("outer", outer).to_bytes()
        for blob in (*outer, momentum):
            core.store.put(blob)
        for _ in range(rounds):
            state = core.runs.standing(plan.run).state
            put_to(core, plan.run, list(_round(core, state, plan, delta, members, core.store.put(momentum))))


def _round(
    core: Core, state: RunState, plan: Plan, delta: str, members: Sequence[Member], outer: str
) -> Iterator[machine.Input]:
    at = state.current
    assert at is not None
    where = {"round": at.round, "fragment": at.fragment}
    bits = 8.0 / (state.merges + 1)
    for member in members:
        envelope = member.contribution(plan, delta, state=at.state, train_ms=900, bytes=4096, **where)
        kept = core.store.put(envelope.to_bytes(), durable=False)
        who = {"member": member.name, "node": member.node}
        yield machine.Contribute(
            plan=plan.digest,
            state=at.state,
            contribution=kept,
            delta=delta,
            tokens=1000,
            steps=10,
            **who,
            **where,
        )
        yield machine.Screened(node=member.node, contribution=kept, reason=None, **where)
        of = {"merges": state.merges, "state": state.head, "bits_per_byte": bits, "bytes": 100}
        said = Score(consortium=member.consortium, run=plan.run, **who, **of)
        score = core.store.put(sign(said, member.key).to_bytes(), durable=False)
        yield machine.Publish(score=score, **who, **of)
    before = State.from_bytes(core.store.read(state.head))
    after = State(run=plan.run, model=plan.model, merges=state.merges + 1, base=before.base, outer=outer)
    made = core.store.put(after.to_bytes(), durable=False)
    yield machine.MergeDone(state=made, base=after.base, outer=outer, **where)
