"""What is sent to a core over HTTP, to its real application in this process."""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Final

from fastapi.routing import APIRoute

from tapestry.core import operator, public
from tapestry.core.api import Api
from tapestry.core.coordinator import Coordinator
from tapestry.core.quota import Quota
from tapestry.core.watch import Watch
from tapestry.errors import TapestryError, by_code
from tapestry.governance import proposal as subjects
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing, Signer
from tapestry.identity.keys import KeyPair
from tapestry.identity.requests import make_proof
from tapestry.protocol.canonical import sha256
from tapestry.protocol.clock import time_text
from tapestry.transport.server import Shell
from tests.audit.council import Council
from tests.governance.forged.ballots import LATE, NUMBER, RING, ROLE, other_key
from tests.governance.forged.forms import TEXTS
from tests.governance.forged.table import Forged, forged

WHO = "A request that a core must not obey"
PROOF = "tapestry.identity.requests.check_proof"
OTHER = (PROOF, "stated != actual")
BALLOTS, PROPOSALS = "/v1/ballots", "/v1/proposals"
NAMES = ("ada", "bob", "cyd", "dan")


class Desk(Council):
    """A core with four members and a charter, whose application is asked without a socket."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, *NAMES)
        self.adopt()
        self._open = ""
        self.loop = asyncio.new_event_loop()
        self.app = self.loop.run_until_complete(self._app())
        self.run = super().plan()
        self.beyond = super().plan(run="beyond", merge_weighting="tokens")

    async def _app(self) -> Shell:
        public.FRESH_S = 0.0  # type: ignore[misc] - what a control was answered is no answer afterwards
        watch, quota = Watch(), Quota(1 << 30)
        watch.closed = True
        coordinator = Coordinator(
            *(self.core.runs, None, watch),  # type: ignore[arg-type] - it merges nothing
            copies=self.core.copies(None),  # type: ignore[arg-type]
            quota=quota,
            tell=lambda *_, **__: None,
            trouble_changed=lambda _: None,
        )
        self.faults: list[BaseException] = []
        app = Api(self.core, watch, quota, coordinator).app()
        self.routes = [
            (sorted(each.methods)[0], each.path) for each in app.routes if isinstance(each, APIRoute)
        ]
        return Shell(
            app,
            time=lambda: time_text(self.now),
            unexpected=lambda error, *_: self.faults.append(error),
        )

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.core.close()
        shutil.rmtree(self.root.parent, ignore_errors=True)

    def proof(self, key: KeyPair, method: str, target: str, body: bytes, **other: Any) -> str:
        known = {
            "consortium": self.consortium,
            "method": method,
            "target": target,
            "body_sha": sha256(body),
            "at": time_text(self.now),
        }
        return make_proof(key, **(known | other))

    def ask(
        self, method: str, target: str, body: bytes, proof: str | None, *headers: tuple[str, str]
    ) -> None:
        """Raises the typed error of the answer, or what the core ran into."""
        given = [(name.lower().encode(), value.encode()) for name, value in headers]
        if proof is not None:
            given.append((b"authorization", proof.encode()))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": target,
            "raw_path": target.encode(),
            "query_string": b"",
            "headers": given,
            "server": ("core", 80),
            "client": ("node", 1),
            "scheme": "http",
            "root_path": "",
        }
        status, answer = self.loop.run_until_complete(self._asked(scope, body))
        if self.faults:
            raise self.faults.pop()
        if status >= 400:
            error = json.loads(answer)["error"]
            assert by_code(error["code"]) is not TapestryError and status < 500, answer
            raise by_code(error["code"])(error["message"])

    async def _asked(self, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        waiting, found = [body[:1000], body[1000:]], []
        status = 0

        async def receive() -> dict[str, Any]:
            piece = waiting.pop(0) if waiting else b""
            return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                found.append(message.get("body", b""))

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        return status, b"".join(found)

    def opened(self) -> str:
        """A vote that is open. One for many messages, since those that are refused leave it as it is."""
        self.votes.settle()
        item = self.votes.assembly().governance.proposals.get(self._open)
        if item is None or item.outcome is not None or len(item.ballots) > 40:
            self._open = self.propose("ada", subjects.OpenPhase(phase=f"p{self._nonce}"))
        return self._open

    def fresh(self) -> str:
        """A vote that nobody has voted on."""
        self.votes.settle()
        return self.propose("ada", subjects.OpenPhase(phase=f"p{self._nonce}"))

    def vote_of(self, name: str) -> KeyPair:
        return self.nodes[name].vote


@lru_cache(maxsize=1)
def desk() -> Desk:
    made = Desk(Path(tempfile.mkdtemp(prefix="tapestry-forged-")) / "core")
    atexit.register(made.close)
    return made


def posted(
    desk: Desk, envelope: Envelope, *, key: KeyPair | None = None, target: str = BALLOTS, **other: Any
) -> Forged:
    body = envelope.to_bytes()
    proof = desk.proof(key or desk.vote_of("ada"), "POST", target, body, **other)
    return Forged(asked=lambda: desk.ask("POST", target, body, proof))


def a_ballot(desk: Desk, draw: Random) -> Envelope:
    """A good one: what is wrong is how it is sent."""
    return desk.ballot(draw.choice(NAMES), desk.opened(), draw.choice(("yes", "no", "abstain")))


async def anybody(*_: Any) -> Signer:
    return Signer("ada", None, "vote", "0" * 64)


def believed(_ring: KeyRing, envelope: Envelope, kind: Any, **_: Any) -> Any:
    said = envelope.unverified(kind)
    return said, Signer(getattr(said, "member", "ada"), None, "vote", "0" * 64)


NOBODY = ("tapestry.transport.server._check", None, anybody)
ALL_PUBLIC = ("tapestry.core.public.may_read", None, lambda *_: None)


def request(name: str, tries: str, stopped_by: str, *off: tuple[Any, ...]) -> Callable[..., Any]:
    return forged(name, tries, stopped_by, *off, http=True)


@request("request-unsigned", "sends a ballot without saying who sends it", "every request is signed", NOBODY)
def _unsigned(desk: Desk, draw: Random) -> Forged:
    body = a_ballot(desk, draw).to_bytes()
    return Forged(asked=lambda: desk.ask("POST", BALLOTS, body, None))


@request(
    "request-by-a-stranger",
    "signs a request with a key that no member has certified",
    "requests are signed by certified keys",
    (f"{RING}.verify", None, believed),
)
def _stranger(desk: Desk, draw: Random) -> Forged:
    return posted(desk, a_ballot(desk, draw), key=other_key(draw))


@request(
    "request-by-a-witness-key",
    "signs a request with a node's witness key",
    "node and vote keys sign requests",
    ROLE,
)
def _witness(desk: Desk, draw: Random) -> Forged:
    return posted(desk, a_ballot(desk, draw), key=desk.nodes[draw.choice(NAMES)].witness)


@request(
    "request-with-another-body",
    "puts another ballot under the proof of a request",
    "the proof is over the body's hash",
    OTHER,
)
def _body(desk: Desk, draw: Random) -> Forged:
    return posted(desk, a_ballot(desk, draw), body_sha=draw.randbytes(32).hex())


@request(
    "request-to-another-path",
    "uses the proof of one request for another",
    "the proof is over method and path",
    OTHER,
)
def _path(desk: Desk, draw: Random) -> Forged:
    other = draw.choice(({"target": "/v1/members"}, {"target": PROPOSALS}, {"method": "PUT"}))
    body = a_ballot(desk, draw).to_bytes()
    proof = desk.proof(desk.vote_of("ada"), **({"method": "POST", "target": BALLOTS, "body": body} | other))  # type: ignore[arg-type]
    return Forged(asked=lambda: desk.ask("POST", BALLOTS, body, proof))


@request(
    "request-to-another-consortium",
    "uses the proof of a request to another consortium's core",
    "the proof names the consortium",
    OTHER,
)
def _consortium(desk: Desk, draw: Random) -> Forged:
    return posted(desk, a_ballot(desk, draw), consortium=draw.randbytes(32).hex())


@request(
    "request-of-another-time",
    "sends a request again after a while, or one that is signed for later",
    "a proof holds for five minutes",
    (PROOF, "abs(seconds_between(proof.at, now)) > WINDOW_S"),
)
def _time(desk: Desk, draw: Random) -> Forged:
    envelope = a_ballot(desk, draw)
    away = draw.choice((-1, 1)) * draw.randint(300_001, 10**9)
    return posted(desk, envelope, at=time_text(desk.now + away))


@request(
    "vote-key-as-a-node",
    "asks for what nodes alone may, with a vote key",
    "a vote key looks, and sends what members decide",
    ROLE,
)
def _as_node(desk: Desk, draw: Random) -> Forged:
    body = b'{"blobs":["%s"]}' % draw.randbytes(32).hex().encode()
    proof = desk.proof(desk.vote_of(draw.choice(NAMES)), "POST", "/v1/blobs/missing", body)
    return Forged(asked=lambda: desk.ask("POST", "/v1/blobs/missing", body, proof))


KEPT: Final = (PROPOSALS, "/v1/events", "/v1/ledger", "/v1/pledges", "/v1/runs")
"""What this charter keeps to the members."""


@request(
    "votes-read-by-a-stranger",
    "reads votes or ledger with a key that no member has certified, said twice",
    "a core answers members alone, but for what the charter makes public",
    NOBODY,
)
def _reads(desk: Desk, draw: Random) -> Forged:
    target = draw.choice((*KEPT, "/v1/derivatives"))
    proof = desk.proof(other_key(draw), "GET", target, b"")
    return Forged(asked=lambda: desk.ask("GET", target, b"", proof, ("authorization", "x")))


@request(
    "votes-read-without-a-key",
    "reads votes, ledger or runs, which the charter keeps to members, without saying who it is",
    "without a key only what the charter makes public is answered",
    ALL_PUBLIC,
)
def _reads_openly(desk: Desk, draw: Random) -> Forged:
    target = draw.choice(KEPT)
    return Forged(asked=lambda: desk.ask("GET", target, b"", None))


@request(
    "body-oversized",
    "sends more than a request may hold",
    "1 MiB, counted while it comes",
    ("tapestry.transport.server.pieces", "received > max_bytes"),
    TEXTS,
)
def _oversized(desk: Desk, draw: Random) -> Forged:
    body = a_ballot(desk, draw).to_bytes()
    body += b" " * ((1 << 20) - len(body) + draw.randint(1, 5000))
    proof = desk.proof(desk.vote_of("ada"), "POST", BALLOTS, body)
    return Forged(asked=lambda: desk.ask("POST", BALLOTS, body, proof))


@request(
    "body-compressed",
    "says that a body is compressed",
    "compressed bodies are not accepted",
    (
        "tapestry.transport.server.stated_size",
        'request.headers.get("content-encoding", "identity") != "identity"',
    ),
)
def _compressed(desk: Desk, draw: Random) -> Forged:
    body = a_ballot(desk, draw).to_bytes()
    proof = desk.proof(desk.vote_of("ada"), "POST", BALLOTS, body)
    way = ("Content-Encoding", draw.choice(("gzip", "br", "zstd", "deflate")))
    return Forged(asked=lambda: desk.ask("POST", BALLOTS, body, proof, way))


@request(
    "ballot-late-at-the-core",
    "sends a ballot in time, and has it arrive after the deadline",
    "the core's clock, when it has come",
    LATE,
)
def _late(desk: Desk, draw: Random) -> Forged:
    given = desk.ballot(draw.choice(NAMES), desk.fresh(), draw.choice(("yes", "no")))
    desk.now += 60_001 + draw.randint(0, 100_000)
    return posted(desk, given)


@request(
    "ballot-replayed-at-the-core",
    "sends a ballot again that its member has changed since",
    "ballots are numbered by whoever signs them",
    NUMBER,
)
def _replayed(desk: Desk, draw: Random) -> Forged:
    name, member = desk.fresh(), draw.choice(NAMES)
    first = desk.ballot(member, name, "yes")
    desk.votes.vote(first)
    desk.vote(name, no=[member])
    return posted(desk, first, key=desk.vote_of(draw.choice(NAMES)))


@request(
    "plan-that-is-not-the-runs",
    "puts a plan to the vote that is not the one recorded",
    "the core holds the plan against its run before anybody votes",
    ("tapestry.core.votes_api.VotesApi._check_plan", "plan.digest != said.plan"),
)
def _plan(desk: Desk, draw: Random) -> Forged:
    subject = subjects.RatifyPlan(run=desk.run.run, plan=draw.randbytes(32).hex())
    return posted(desk, desk.proposal(draw.choice(NAMES), subject), target=PROPOSALS)


@request(
    "invitation-without-a-decision",
    "has the operator invite whom nobody has admitted",
    "an invitation needs a decision",
    ("tapestry.core.operator.may_join", None),
)
def _invites(desk: Desk, draw: Random) -> Forged:
    name = f"m{draw.randrange(1 << 30)}"
    return Forged(asked=lambda: _quiet(operator.invite(desk.root, name)))


def _quiet(_token: str) -> None:
    return None
