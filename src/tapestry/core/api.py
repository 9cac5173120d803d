"""The endpoints of docs/formats/http.md. Each reads its request, asks the rules, and answers."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, Response

from tapestry import __version__
from tapestry.catalog.listing import CatalogEntry
from tapestry.core.catalog import CatalogApi
from tapestry.core.coordinator import Coordinator
from tapestry.core.deltas import Lacking
from tapestry.core.direct import LEAST_BYTES, direct
from tapestry.core.ledger_api import MAX_BYTES as MAX_EVENTS_BYTES
from tapestry.core.ledger_api import LedgerApi, Signed, number
from tapestry.core.pledges import PledgesApi
from tapestry.core.quota import Quota
from tapestry.core.runs import Committed
from tapestry.core.service import Core
from tapestry.core.views import round_record, run_view, trouble_of
from tapestry.core.votes_api import VotesApi, who_may
from tapestry.core.watch import Watch
from tapestry.errors import Conflict, DiskFull, FormatError, NotFound, TooLarge
from tapestry.governance.charter import Charter
from tapestry.governance.disputes import Dispute
from tapestry.governance.pledge import Confirmation, Pledge
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal
from tapestry.host import failpoints
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import Signer
from tapestry.identity.requests import check_proof
from tapestry.ledger.entries import Entry
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob, Model, State
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
from tapestry.storage.blobs import BlobStore
from tapestry.storage.receiver import Receiver
from tapestry.transport import server, wire
from tapestry.transport.server import Call

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
PIECE_BYTES: Final = 256 << 10
"""Read from or written to the disk at once."""
GATHER_S: Final = 0.5
"""What a node need not act on at once is told it after so long, with all else that came meanwhile."""
MAX_CERTIFICATES: Final = 64

SignedList = Annotated[Call, Depends(server.signed_list)]
SignedBlob = Annotated[Call, Depends(server.signed_blob)]


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
        self._direct = direct(core.settings, core.store, quota)
        self._progress: dict[str, dict[str, Progress]] = {}

    def app(self) -> FastAPI:
        app = server.make_app(self._check)
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
            ("POST", "/v1/blobs/missing", self.missing),
            ("PUT", "/v1/blobs/{sha}", self.put_blob),
            ("POST", "/v1/blobs/{sha}", self.place_blob),
            ("GET", "/v1/blobs/{sha}", self.get_blob),
            ("GET", "/v1/events", self.events),
            *LedgerApi(self._core).routes(),
            *CatalogApi(self._core).routes(),
            *VotesApi(self._core).routes(),
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

    async def members(self, request: Request, call: Signed) -> Response:
        server.query(request)
        members = await asyncio.to_thread(self._core.consortium.members)
        return server.answer({"members": members})

    async def events(self, request: Request, call: Signed) -> Response:
        asked = server.query(request, after=0, limit=wire.MAX_EVENTS)
        limit = min(asked["limit"], wire.MAX_EVENTS)

        def read() -> Response:
            entries, head = self._core.journal.entries(
                asked["after"], limit=limit, max_bytes=MAX_EVENTS_BYTES
            )
            return server.answer_bytes(b'{"entries":[%b],"head":%d}' % (b",".join(entries), head))

        return await asyncio.to_thread(read)

    # -- runs ---------------------------------------------------------------------------------

    async def runs(self, request: Request, call: Signed) -> Response:
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

    async def run(self, request: Request, run: str, call: Signed) -> Response:
        asked = server.query(request, after=0, wait_s=0.0, gist=0)
        loop = asyncio.get_running_loop()
        until = loop.time() + min(asked["wait_s"], wire.LONG_POLL_S)
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
        progress = self._progress.get(run, {})
        trouble = trouble_of(run, self._coordinator.trouble)
        return run_view(standing, self._core.journal.now_ms(), dict(progress), trouble)

    async def round(self, request: Request, run: str, round: str, call: Signed) -> Response:
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
            self._progress.setdefault(run, {})[call.by.node] = progress
        return server.answer({})

    # -- blobs --------------------------------------------------------------------------------

    async def missing(self, request: Request, call: SignedList) -> Response:
        server.query(request)
        body = server.json_object(call.body, "blobs", max_bytes=wire.MAX_MISSING_BYTES)
        asked = body["blobs"]
        if not isinstance(asked, list) or len(asked) > wire.MAX_MISSING:
            raise FormatError(f"blobs must be a list of at most {wire.MAX_MISSING} addresses")
        if not all(isinstance(sha, str) and canonical.is_sha256(sha) for sha in asked):
            raise FormatError("blobs holds what is not the address of a blob")
        store = self._core.store

        def look() -> dict[str, int]:
            return {sha: store.partial(sha) for sha in store.lacking(asked)}

        offered = {} if self._direct is None else {"direct": LEAST_BYTES}
        return server.answer({"missing": await asyncio.to_thread(look), **offered})

    async def place_blob(self, request: Request, sha: str, call: SignedBlob) -> Response:
        """Ask where to put a blob, and ask again when it lies there."""
        asked = server.query(request, bytes=None)
        if self._direct is None:
            raise NotFound("blobs are sent to this core itself")
        expected = self._expected(sha, asked["bytes"])
        try:
            url = await asyncio.to_thread(self._direct.place, str(call.by.node), expected)
        except DiskFull as error:
            self._coordinator.taking_in(error)
            raise
        if url is None:
            self._coordinator.taking_in(None)
            failpoints.reach("core.blob.received")
        return server.answer({"sha256": sha, "bytes": expected.bytes, "url": url})

    async def put_blob(self, request: Request, sha: str, call: SignedBlob) -> Response:
        asked = server.query(request, bytes=None, offset=0)
        expected = self._expected(sha, asked["bytes"])
        most = max(0, expected.bytes - asked["offset"])
        server.stated_size(request, most)
        node = str(call.by.node)
        # In full, so that uploads that begin at the same moment are not each let in by what is left now.
        self._quota.reserve(node, sha, most, math.inf)
        try:
            receiver = await asyncio.to_thread(self._core.store.receive, expected)
            with receiver:
                if not receiver.complete and receiver.offset != asked["offset"]:
                    error = Conflict(
                        f"blob {sha} goes on at byte {receiver.offset}", hint="send it from that offset on"
                    )
                    return server.failure(error, offset=receiver.offset)
                if not receiver.complete:
                    await self._receive(request, receiver, most, node)
        finally:
            self._quota.forget(node, sha)
        if receiver.complete:
            failpoints.reach("core.blob.received")
        return server.answer({"sha256": sha, "bytes": expected.bytes, "offset": receiver.offset})

    def _expected(self, sha: str, size: int) -> Blob:
        most = self._core.settings.limits.blob_bytes
        if size > most:
            raise TooLarge(f"a blob has at most {most} bytes here, not {size}")
        return Blob(sha256=sha, bytes=size)

    async def _receive(self, request: Request, receiver: Receiver, most: int, node: str) -> None:
        """Socket to disk. What came before a broken connection is kept."""
        before = receiver.offset
        try:
            async for piece in server.pieces(request, most, gather_bytes=PIECE_BYTES):
                await asyncio.to_thread(receiver.write, piece)
            if receiver.offset == receiver.expected.bytes:
                await asyncio.to_thread(receiver.finish)
            self._coordinator.taking_in(None)
        except DiskFull as error:
            self._coordinator.taking_in(error)
            raise
        finally:
            self._quota.charge(node, receiver.offset - before)

    async def get_blob(self, request: Request, sha: str, call: Signed) -> Response:
        server.query(request)
        store = self._core.store
        if self._direct is not None and wire.DIRECT_HEADER in request.headers:
            source = await asyncio.to_thread(self._direct.source, sha)
            if source is not None:
                answer = server.answer(source)
                answer.headers.update({wire.DIRECT_HEADER: "1", "Cache-Control": "no-store"})
                return answer
        size = await asyncio.to_thread(_verified_size, store, sha)
        try:
            part = server.byte_range(request, size)
        except ValueError:
            return Response(None, 416, {"Content-Range": f"bytes */{size}"})
        start, stop = part or (0, size)
        headers = {"Accept-Ranges": "bytes"}
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        reader = _Reader(store, sha, start, stop)
        return server.Streamed(
            reader.read, reader.close, size=stop - start, status=206 if part else 200, headers=headers
        )


def _verified_size(store: BlobStore, sha: str) -> int:
    size = store.size(sha)
    if not store.verify(Blob.model_construct(sha256=sha, bytes=size)):
        raise NotFound(f"blob {sha} was damaged and has been removed")
    return size


class _Reader:
    """Pieces of a blob, read in threads."""

    def __init__(self, store: BlobStore, sha: str, start: int, stop: int) -> None:
        self._fd = store.open_for_reading(sha)
        self._at = start
        self._stop = stop

    async def read(self) -> bytes:
        piece = await asyncio.to_thread(os.pread, self._fd, min(PIECE_BYTES, self._stop - self._at), self._at)
        self._at += len(piece)
        return piece

    def close(self) -> None:
        os.close(self._fd)
