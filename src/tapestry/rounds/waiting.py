"""What a run waits for, in words for a person."""

from __future__ import annotations

from tapestry.rounds.machine import nodes_needed
from tapestry.rounds.state import Round, RunState
from tapestry.rounds.weights import cap_can_be_met


def waiting_for(state: RunState, now_ms: int) -> str | None:
    """Why nothing happens, in words for a person; None while something does."""
    rules = state.plan.rounds
    if state.status == "planned":
        return "the operator to start the run"
    if state.status == "finished":
        return None
    at = state.current
    if at is None and not state.witnessed:
        needed, known = state.plan.witness.quorum, sorted(state.witnesses)
        others = sorted({m for m in state.enrolled.values() if state.plan.witness.counts(m)} - set(known))
        named = f"; missing: {', '.join(others[:8])}" if others else "; no other witness is enrolled"
        return f"witnesses of merge {state.merges}: {len(known)} of {needed} members{named}"
    if at is None:
        return f"nodes: {len(state.enrolled)} of {nodes_needed(state)} enrolled"
    if at.phase == "revealing":
        owing = [s.node for s in at.with_status("committed")]
        return f"the bytes of {', '.join(owing[:8])}" if owing else None
    if at.phase != "training":
        return None
    missing = [n for n in at.nodes if n not in at.submissions]
    if now_ms < at.deadline_ms:
        return f"contributions of {', '.join(missing[:8])}{_abandoned(state, at)}" if missing else None
    kind = "accepted" if rules.reveal_s is None else "committed"
    accepted = at.with_status(kind)
    if len(accepted) < rules.quorum:
        return f"a quorum: {len(accepted)} of {rules.quorum} contributions {kind}, deadline passed"
    if cap_can_be_met(state.plan.merge.influence_cap, len({s.member for s in accepted})):
        return None
    return "more members: the influence cap cannot be met by those accepted so far"


def _abandoned(state: RunState, at: Round) -> str:
    """Why the round before was abandoned; empty where it was not."""
    before = state.find(at.round - 1, at.fragment)
    why = before.abandoned if before is not None else None
    return f"; round {at.round - 1} was abandoned, {why}" if why else ""
