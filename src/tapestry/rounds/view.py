"""A run's state as it is told: to nodes by the core, and by each node to itself from its own ledger."""

from __future__ import annotations

from collections.abc import Mapping

from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Progress
from tapestry.protocol.views import Head, NodeStanding, OpenRound, RunView
from tapestry.rounds.state import Round, RunState


def view_of(
    state: RunState,
    sequence: int,
    *,
    waiting_for: str | None = None,
    progress: Mapping[str, Progress] | None = None,
) -> RunView:
    """Where a run stands.

    Args:
        state: its state.
        sequence: position of the event that led to it.
        waiting_for: why nothing happens, in words.
        progress: newest word of each node.
    """
    current = state.current
    led = next((r for r in state.rounds if r.round == state.head_round), None)
    return RunView(
        run=state.run,
        status=state.status,
        waiting_for=waiting_for,
        sequence=sequence,
        plan=state.plan.digest,
        head=Head(
            merges=state.merges,
            state=state.head,
            round=state.head_round,
            before=led.state if led is not None else None,
            witnessed=state.witnessed,
            witnesses=tuple(sorted(state.witnesses)),
        ),
        current=None if current is None else _open_round(state, current, progress or {}),
        enrolled=tuple(sorted(state.enrolled)),
    )


def _open_round(state: RunState, at: Round, progress: Mapping[str, Progress]) -> OpenRound:
    members = {s.node: s.member for s in at.submissions.values()} | state.enrolled
    nodes = sorted(set(at.nodes) | set(at.submissions) | set(at.late))
    return OpenRound(
        round=at.round,
        fragment=at.fragment,
        phase=at.phase,
        state=at.state,
        opened_at=time_text(at.opened_ms),
        deadline=time_text(at.deadline_ms),
        quorum=state.plan.rounds.quorum,
        nodes=tuple(_node(at, node, members[node], progress) for node in nodes if node in members),
    )


def _node(at: Round, node: str, member: str, progress: Mapping[str, Progress]) -> NodeStanding:
    submission = at.submissions.get(node)
    said = progress.get(node)
    return NodeStanding(
        node=node,
        member=member,
        expected=node in at.nodes,
        status=submission.status if submission is not None else "late" if node in at.late else None,
        reason=submission.reason if submission is not None else None,
        progress=said if said is not None and said.round == at.round else None,
    )
