"""Which input led to an event of a run, as far as the event itself tells: what the core alone has said."""

from __future__ import annotations

from typing import Any

from tapestry.rounds import events as ev
from tapestry.rounds import machine
from tapestry.rounds.inputs import Input
from tapestry.rounds.taking import NOT_REVEALED


def unsigned(event: ev.Event) -> Input:
    """The input; time alone where it is none of these. Those that a node has signed are made of its words."""
    plain: dict[str, Any] = {
        name: getattr(event, name)
        for name in ("round", "fragment", "node", "contribution")
        if hasattr(event, name)
    }
    match event:
        case ev.RunStarted():
            return machine.Start()
        case ev.PlanRevised():
            return machine.Revise(plan=event.plan)
        case ev.NodeWithdrawn():
            return machine.Withdraw(node=event.node, reason=event.reason)
        case ev.ContributionRevealed():
            return machine.Reveal(node=event.node, contribution=event.contribution)
        case ev.ContributionAccepted():
            return machine.Screened(**plain, reason=None)
        case ev.ContributionRefused() if event.reason != NOT_REVEALED:
            return machine.Screened(**plain, reason=event.reason)
        case ev.RoundCommitted():
            return machine.MergeDone(
                round=event.round,
                fragment=event.fragment,
                state=event.state,
                base=event.base,
                outer=event.outer,
            )
        case ev.RoundAbandoned() if event.reason != "below-quorum":
            return machine.MergeFailed(
                round=event.round, fragment=event.fragment, reason=event.reason, detail=event.detail
            )
        case _:
            return machine.Tick()
