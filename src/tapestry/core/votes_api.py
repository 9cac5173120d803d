"""Endpoints of proposals and votes. Whoever asks is a member, by a node's key or by its vote key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response

from tapestry.core.service import Core
from tapestry.core.votes import Votes, summary
from tapestry.errors import Conflict, PlanError
from tapestry.governance.charter import Charter, plan_faults
from tapestry.governance.machine import in_force
from tapestry.governance.proposal import Proposal, RatifyPlan
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import NODE_ONLY, Role
from tapestry.protocol.canonical import is_sha256
from tapestry.protocol.clock import time_text
from tapestry.transport import server
from tapestry.transport.server import Call

Signed = Annotated[Call, Depends(server.signed)]
Seen = Annotated[Call | None, Depends(server.seen)]
Endpoint = Callable[..., Any]
MEMBERS: Final[frozenset[Role]] = frozenset({"node", "vote"})
OF_MEMBERS: Final = (
    "/v1/proposals",
    "/v1/ballots",
    "/v1/pledges",
    "/v1/confirmations",
    "/v1/disputes",
    "/v1/keys",
)
"""What a member may send without a node of its own."""


def who_may(method: str, target: str) -> frozenset[Role]:
    """Kinds of key that may sign a request: a vote key looks, and sends what members decide."""
    return MEMBERS if method == "GET" or target in OF_MEMBERS else NODE_ONLY


class VotesApi:
    """Over one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._votes = Votes(core.journal, core.consortium.id)

    def routes(self) -> tuple[tuple[str, str, Endpoint], ...]:
        return (
            ("GET", "/v1/charter", self.charter),
            ("POST", "/v1/proposals", self.propose),
            ("GET", "/v1/proposals", self.list),
            ("GET", "/v1/proposals/{proposal}", self.show),
            ("POST", "/v1/ballots", self.vote),
            ("POST", "/v1/disputes", self.dispute),
        )

    def charter_in_force(self) -> Charter | None:
        return self._votes.assembly().governance.charter

    async def charter(self, request: Request, call: Seen) -> Response:
        server.query(request)
        assembly = await asyncio.to_thread(self._votes.assembly)
        return server.answer_bytes(in_force(assembly.governance).to_bytes())

    async def propose(self, request: Request, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)

        def take() -> dict[str, Any]:
            self._check_plan(envelope)
            item = self._votes.propose(envelope)
            return {"proposal": item.proposal, "sequence": item.sequence, "closes": item.closes}

        return server.answer(await asyncio.to_thread(take))

    async def vote(self, request: Request, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)

        def take() -> dict[str, Any]:
            item, cast = self._votes.vote(envelope)
            return {"proposal": item.proposal, "sequence": cast.sequence, "at": cast.at}

        return server.answer(await asyncio.to_thread(take))

    async def dispute(self, request: Request, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        name = await asyncio.to_thread(self._votes.dispute, envelope)
        return server.answer({"dispute": name})

    async def list(self, request: Request, call: Seen) -> Response:
        server.query(request)

        def look() -> dict[str, Any]:
            governance = self._votes.assembly().governance
            charter = governance.charter
            return {
                "charter": charter.digest if charter is not None else None,
                "now": time_text(self._core.journal.now_ms()),
                "proposals": [summary(each) for each in governance.proposals.values()],
            }

        return server.answer(await asyncio.to_thread(look))

    async def show(self, request: Request, proposal: str, call: Seen) -> Response:
        server.query(request)

        def look() -> dict[str, Any]:
            item = self._votes.item(proposal if is_sha256(proposal) else "")
            return {**self._votes.shown(item), "now": time_text(self._core.journal.now_ms())}

        return server.answer(await asyncio.to_thread(look))

    def _check_plan(self, envelope: Envelope) -> None:
        """What members would vote for in vain: a plan that is not the run's, or goes beyond the charter. The
        ledger shows both when the run starts; this says so before anybody votes."""
        said = envelope.unverified(Proposal).subject
        charter = self._votes.assembly().governance.charter
        if not isinstance(said, RatifyPlan) or charter is None:
            return
        state = self._core.runs.standing(said.run).state
        plan = state.next_plan or state.plan
        if plan.digest != said.plan:
            raise Conflict(
                f"the plan of run {said.run} is {plan.digest[:12]}, not {said.plan[:12]}",
                hint="propose the plan that is recorded: tapestry run status",
            )
        merge = plan.merge
        faults = plan_faults(charter, weighting=merge.weighting, influence_cap=merge.influence_cap)
        if faults:
            raise PlanError(
                f"the plan of run {said.run} goes beyond the charter: {faults[0]}",
                hint="plan a run within the charter, or change the charter by a vote first",
            )
