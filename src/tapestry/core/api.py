"""The endpoints of docs/formats/http.md. Each reads its request, asks the rules, and answers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import FastAPI, Request, Response

from tapestry import __version__
from tapestry.catalog.listing import CatalogEntry
from tapestry.core.blobs_api import BlobsApi
from tapestry.core.catalog import CatalogApi
from tapestry.core.coordinator import Coordinator
from tapestry.core.deltas import Lacking
from tapestry.core.derivatives import DerivativesApi
from tapestry.core.ledger_api import MAX_BYTES as MAX_EVENTS_BYTES
from tapestry.core.ledger_api import LedgerApi, Seen, Signed, number
from tapestry.core.pledges import PledgesApi
from tapestry.core.public import PublicReads, run_for_anybody
from tapestry.core.quota import Quota
from tapestry.core.runs import Committed
from tapestry.core.service import Core
from tapestry.core.telling import Telling
from tapestry.core.views import round_record, run_view, trouble_of
from tapestry.core.votes_api import VotesApi, who_may
from tapestry.core.watch import Watch
from tapestry.errors import Conflict, FormatError
from tapestry.governance.charter import Charter
from tapestry.governance.disputes import Dispute
from tapestry.governance.pledge import Confirmation, Pledge
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import Signer
from tapestry.identity.requests import check_proof
from tapestry.ledger.entries import Entry
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.clock import time_text
from tapestry.protocol.layout import Layout
from tapestry.protocol.message import Message
from tapestry.protocol.messages import (
    Attestation,
    Contribution,
    Enrolment,
    Join,
    KeyCertificate,
    KeyRevocation,
    Progress,
    Receipt,
    RequestProof,
    Score,
)
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import Hello, RoundRecord, RunView
from tapestry.transport import server, wire

SPOKEN: Final[tuple[type[Message], ...]] = (
    *(
        Artifact,
        Attestation,
        CatalogEntry,
        Contribution,
        Enrolment,
        Entry,
        Hello,
        Join,
        KeyCertificate,
        KeyRevocation,
        Layout,
        Model,
    ),
    *(Ballot, Charter, CharterSignature, Confirmation, Dispute, Pledge, Proposal),
    *(Plan, Progress, Receipt, RequestProof, RoundRecord, RunView, Score, State),
)
"""Every format that crosses to a node."""
GATHER_S: Final = 0.5
"""What a node need not act on at once is told it after so long, with all else that came meanwhile."""
MAX_CERTIFICATES: Final = 64


class Api:
    """Routes over one core.

    Args:
        core: what they serve.
        watch: for those who wait.
        quota: how much each node may leave here.
        coordinator: knows what keeps the core from its part.
    """

    def __init__(self, core: Core, watch: Watch, quota: Quota, coordinator: Coordinator) -> None:
        self._core = core
        self._watch = watch
        self._quota = quota
        self._coordinator = coordinator
        self._telling = Telling(core.home.progress)
        self._votes = VotesApi(core)

    def app(self) -> FastAPI:
        app = server.make_app(self._check)
        app.add_middleware(PublicReads, charter=self._votes.charter_in_force)
        routes: tuple[tuple[str, str, Any], ...] = (
            ("GET", "/v1/hello", self.hello),
            ("POST", "/v1/join", self.join),
            ("POST", "/v1/keys", self.keys),
            ("GET", "/v1/members", self.members),
            ("GET", "/v1/runs", self.runs),
            ("GET", "/v1/runs/{run}", self.run),
            ("POST", "/v1/runs/{run}/enrolments", self.enrol),
            ("GET", "/v1/runs/{run}/rounds/{round}", self.round),
            ("POST", "/v1/runs/{run}/contributions", self.contribute),
            ("POST", "/v1/runs/{run}/attestations", self.attest),
            ("POST", "/v1/runs/{run}/scores", self.score),
            ("POST", "/v1/runs/{run}/progress", self.progress),
            ("GET", "/v1/events", self.events),
            *BlobsApi(self._core, self._quota, self._coordinator).routes(),
            *LedgerApi(self._core).routes(),
            *CatalogApi(self._core).routes(),
            *DerivativesApi(self._core).routes(),
            *self._votes.routes(),
            *PledgesApi(self._core).routes(),
        )
        for method, path, endpoint in routes:
            app.add_api_route(path, endpoint, methods=[method])
        return app

    def now(self) -> str:
        return time_text(self._core.journal.now_ms())

    def _check(self, header: str, method: str, target: str, body_sha: str) -> Signer:
        consortium = self._core.consortium
        roles = who_may(method, target)
        return check_proof(
            header, consortium.ring(), consortium.id, method, target, body_sha, self.now(), roles=roles
        )

    # -- the consortium -----------------------------------------------------------------------

    async def hello(self, request: Request) -> Response:
        server.query(request)
        formats = {kind.format_name(): [kind.format_version()] for kind in SPOKEN}
        hello = Hello(
            consortium=self._core.consortium.id,
            core_key=self._core.consortium.core_key.public_key,
            release=__version__,
            formats=formats,
            time=self.now(),
        )
        return server.answer_bytes(hello.to_bytes())

    async def join(self, request: Request) -> Response:
        server.query(request)
        body = server.json_object(
            await server.read_body(request, wire.MAX_BODY_BYTES), "join", "certificates"
        )
        given = body["certificates"]
        if not isinstance(given, list) or len(given) > MAX_CERTIFICATES:
            raise FormatError(f"certificates must be a list of at most {MAX_CERTIFICATES} envelopes")
        join = Envelope.from_json(body["join"])
        certificates = [Envelope.from_json(value) for value in given]
        member, keys = await asyncio.to_thread(self._core.consortium.join, join, certificates)
        return server.answer({"member": member, "keys": keys})

    async def keys(self, request: Request, call: Signed) -> Response:
        server.query(request)
        value = canonical.decode(call.body, what="request")
        kind = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None
        if kind not in ("certificate", "revocation"):
            raise FormatError("the request must be a JSON object with one field, certificate or revocation")
        envelope = Envelope.from_json(value[kind])
        consortium = self._core.consortium
        change = consortium.certify if kind == "certificate" else consortium.revoke
        member, key_id = await asyncio.to_thread(change, envelope)
        return server.answer({"member": member, "key_id": key_id})

    async def members(self, request: Request, call: Seen) -> Response:
        server.query(request)
        members = await asyncio.to_thread(self._core.consortium.members)
        return server.answer({"members": members})

    async def events(self, request: Request, call: Seen) -> Response:
        asked = server.query(request, after=0, limit=wire.MAX_EVENTS)
        limit = min(asked["limit"], wire.MAX_EVENTS)

        def read() -> Response:
            entries, head = self._core.journal.entries(
                asked["after"], limit=limit, max_bytes=MAX_EVENTS_BYTES
            )
            return server.answer_bytes(b'{"entries":[%b],"head":%d}' % (b",".join(entries), head))

        return await asyncio.to_thread(read)

    # -- runs ---------------------------------------------------------------------------------

    async def runs(self, request: Request, call: Seen) -> Response:
        server.query(request)

        def look() -> list[dict[str, Any]]:
            found = [(name, self._core.runs.standing(name)) for name in self._core.runs.names()]
            return [
                {
                    "run": name,
                    "status": standing.state.status,
                    "merges": standing.state.merges,
                    "plan": standing.state.plan.digest,
                    "sequence": standing.sequence,
                }
                for name, standing in found
            ]

        return server.answer({"runs": await asyncio.to_thread(look)})

    async def run(self, request: Request, run: str, call: Seen) -> Response:
        asked = server.query(request, after=0, wait_s=0.0, gist=0)
        loop = asyncio.get_running_loop()
        until = loop.time() + min(asked["wait_s"], wire.LONG_POLL_S)
        if call is None:  # nobody in particular is waited for
            return server.answer_bytes((await asyncio.to_thread(self._view_for_anybody, run)).to_bytes())
        gathering = False
        while True:
            view = await asyncio.to_thread(self._view, run)
            news = view.sequence > asked["after"]
            pressing = news and view.gist_for(str(call.by.node)) != asked["gist"]
            if news and not gathering:
                gathering, until = True, min(until, loop.time() + GATHER_S)
            left_s = until - loop.time()
            if pressing or left_s <= 0 or self._watch.closed:
                return server.answer_bytes(view.to_bytes())
            await self._watch.newer({run: view.sequence}, left_s)

    def _view(self, run: str) -> RunView:
        standing = self._core.runs.standing(run)
        progress = self._telling.of(run)
        trouble = trouble_of(run, self._coordinator.trouble)
        return run_view(standing, self._core.journal.now_ms(), progress, trouble)

    def _view_for_anybody(self, run: str) -> RunView:
        """What ails the core itself may name its folders: that is for members."""
        standing = self._core.runs.standing(run)
        view = run_view(standing, self._core.journal.now_ms(), self._telling.of(run), None)
        return run_for_anybody(view, self._votes.charter_in_force())

    async def round(self, request: Request, run: str, round: str, call: Seen) -> Response:
        server.query(request)
        record = await asyncio.to_thread(
            round_record, self._core.journal, self._core.store, run, number(round)
        )
        return server.answer_bytes(record.to_bytes())

    async def enrol(self, request: Request, run: str, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        standing = await asyncio.to_thread(self._core.runs.enrol, run, envelope, call.by)
        return server.answer({"sequence": standing.sequence})

    async def contribute(self, request: Request, run: str, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        result = await asyncio.to_thread(self._core.runs.contribute, run, envelope, call.by)
        if isinstance(result, Committed):
            return server.answer({"committed": result.sequence})
        if isinstance(result, Lacking):
            error = Conflict(f"{len(result.shas)} blobs of this contribution lack", hint="send them first")
            return server.failure(error, missing=list(result.shas))
        return server.answer_bytes(result.to_bytes())

    async def attest(self, request: Request, run: str, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        standing = await asyncio.to_thread(self._core.runs.attest, run, envelope, call.by)
        return server.answer({"sequence": standing.sequence})

    async def score(self, request: Request, run: str, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        standing = await asyncio.to_thread(self._core.runs.score, run, envelope, call.by)
        return server.answer({"sequence": standing.sequence})

    async def progress(self, request: Request, run: str, call: Signed) -> Response:
        server.query(request)
        progress = Progress.from_bytes(call.body)
        standing = await asyncio.to_thread(self._core.runs.standing, run)
        if call.by.node in standing.state.enrolled:
            self._telling.take(run, str(call.by.node), progress)
        return server.answer({})
