"""The whole core behind its HTTP routes, in this process: a request as a client writes it, and the answer.

An input is a request in text: first line, headers, a blank line, body. `Authorization: sign` has the request
signed by an admitted node's key, so that it is judged by what it says.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tapestry.core import settings
from tapestry.core.api import Api
from tapestry.core.consortium import Consortium, found
from tapestry.core.coordinator import Coordinator
from tapestry.core.home import Home
from tapestry.core.journal import Journal
from tapestry.core.proofs import Proofs
from tapestry.core.quota import Quota
from tapestry.core.runs import Runs
from tapestry.core.service import Core
from tapestry.core.watch import Watch
from tapestry.errors import TapestryError, by_code
from tapestry.identity.envelope import sign
from tapestry.identity.invitations import token_hash
from tapestry.identity.keyring import make_join
from tapestry.identity.requests import make_proof
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob, Model, State
from tapestry.protocol.canonical import is_sha256, sha256
from tapestry.protocol.clock import parse_time
from tapestry.protocol.plan import Plan
from tapestry.rounds import machine
from tapestry.storage import invitations
from tapestry.storage.blobs import BlobStore
from tapestry.storage.database import Database
from tapestry.transport.server import Shell
from tests.fuzz import made
from tests.fuzz.mutate import STRINGS, json_bytes, octets, text
from tests.fuzz.target import MIB, Parser, Target
from tests.fuzz.targets.signed import _envelope, _memory_folder

AT_MS = round(parse_time(made.AT).timestamp() * 1000)
BASE = made.SHARD.header + bytes(made.SHARD.data_bytes)
BASE_ARTIFACT = Artifact(
    kind="base", layout=made.LAYOUT.digest, shards=(Blob(sha256=sha256(BASE), bytes=len(BASE)),)
)
MODEL = Model(layout=made.LAYOUT.digest, files=())
STATE = State(run="run", model=MODEL.digest, merges=0, base=BASE_ARTIFACT.digest, outer=None)
PLAN = made.plan(model=MODEL.digest, initial_state=STATE.digest)
DONE_STATE = STATE.model_copy(update={"run": "done"})
DONE = made.plan(run="done", model=MODEL.digest, initial_state=DONE_STATE.digest)


class Broken(Exception):
    """An answer that no core gives: the request went past the typed errors."""


class OpenCore:
    """A core with a member and a running run, in a folder in memory; every time the same."""

    def __init__(self, root: Path) -> None:
        home = Home(root)
        for folder in (root / "status", root / "logs", root / "keys"):
            folder.mkdir(parents=True)
        given = settings.make(port=0)
        database = Database.open(given.database_at(home), create=True)
        journal = Journal(database, clock=lambda: AT_MS)
        found(journal, title="A test", core_key=made.CORE.public_key, nonce="0" * 32)
        consortium = Consortium(journal, made.CORE)
        assert consortium.id == made.CONSORTIUM_ID
        store = BlobStore.open(root / "blobs")
        self.runs = Runs(journal, store, consortium)
        self.core = Core(
            **{"home": home, "settings": given, "database": database, "journal": journal, "store": store},
            consortium=consortium,
            runs=self.runs,
        )
        self._people()
        self._run(store, PLAN)
        self.fault: BaseException | None = None
        self.signed_head = Proofs(self.core.journal, consortium).checkpoint().decode()
        self.loop = asyncio.new_event_loop()
        self.app = self.loop.run_until_complete(self._app())

    def _people(self) -> None:
        token = "A" * 43
        with self.core.database.transaction() as connection:
            invitations.add(connection, token_hash(token), "ada", made.UNTIL)
            invitations.add(connection, token_hash("B" * 43), "bob", made.UNTIL)
        join = make_join(made.ROOT, consortium=made.CONSORTIUM_ID, invitation=token, member="ada")
        self.core.consortium.join(join, [made.certificate(), made.certificate("witness")])

    def _run(self, store: BlobStore, plan: Plan) -> None:
        for data in (
            BASE,
            BASE_ARTIFACT.to_bytes(),
            made.LAYOUT.to_bytes(),
            MODEL.to_bytes(),
            STATE.to_bytes(),
        ):
            store.put(data, durable=False)
        self.runs.plan(plan)
        self.runs.apply("run", machine.Start())
        store.put(DONE_STATE.to_bytes(), durable=False)
        self.runs.plan(DONE)
        self._merged(store)

    def _merged(self, store: BlobStore) -> None:
        """The other run has one merge, which nobody has attested yet."""
        named = {"run": "done", "plan": DONE.digest}
        enrolled = sign(made.enrolment(made.CONSORTIUM_ID, **named), made.NODE)
        said = made.contribution(made.CONSORTIUM_ID, **named, state=DONE_STATE.digest)
        signed = sign(said, made.NODE)
        for envelope in (enrolled, signed):
            store.put(envelope.to_bytes(), durable=False)
        looked = {"round": 1, "fragment": 0}
        for given in (
            machine.Start(),
            made.enrol(enrolled, DONE),
            made.contribute(said, signed),
            machine.Screened(**looked, node="ada-1", contribution=signed.digest, reason=None),
            machine.MergeDone(**looked, state=made.H[7], base=made.H[8], outer=None),
        ):
            self.runs.apply("done", given)
        (committed,) = self.core.journal.of_round("done", 1, "round-committed")
        origin, size = origin_of(made.CONSORTIUM_ID), committed.sequence
        self.head = Checkpoint(origin, size, self.core.journal.tree_root(size))

    async def _app(self) -> Shell:
        watch, quota = Watch(), Quota(64 * MIB)
        watch.closed = True  # nobody waits for news here
        coordinator = Coordinator(
            *(self.runs, None, watch),  # type: ignore[arg-type] - it merges nothing
            copies=self.core.copies(None),  # type: ignore[arg-type]
            quota=quota,
            tell=lambda *_, **__: None,
            trouble_changed=lambda _: None,
        )
        api = Api(self.core, watch, quota, coordinator)

        def unexpected(error: BaseException, method: str, path: str) -> None:
            self.fault = error

        return Shell(api.app(), time=lambda: made.AT, unexpected=unexpected)

    def ask(self, data: bytes) -> None:
        """Raises the typed error of the answer, or `Broken`, or what the core ran into."""
        scope, body = _scope(data)
        self.fault = None
        status, answer = self.loop.run_until_complete(self._asked(scope, body))
        if self.fault is not None:
            raise self.fault
        if status < 400 or status == 416:
            return
        value = json.loads(answer)
        assert canonical.encode(value) == answer
        kind = by_code(value["error"]["code"])
        if kind is TapestryError or status == 500:
            raise Broken(f"{status}: {value}")
        raise kind(value["error"]["message"])

    async def _asked(self, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        waiting = [body[:1000], body[1000:]]
        status, found = 0, []

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


def _scope(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The request as a server hands it to an application; signed where it asks to be."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    verb = method.decode("latin-1").upper()
    path, _, query = target.partition(b"?")
    headers = []
    for line in lines:
        name, _, value = line.partition(b": ")
        if name == b"Authorization" and value == b"sign":
            value = _proof(verb, target, body, path)
        headers.append((name.lower(), value))
    scope = {
        **{"type": "http", "http_version": "1.1", "method": verb, "scheme": "http", "root_path": ""},
        **{"path": path.decode("utf-8", "replace"), "raw_path": path, "query_string": query},
        "headers": headers,
        "server": ("localhost", 80),
        "client": ("localhost", 1),
    }
    return scope, body


def _proof(method: str, target: bytes, body: bytes, path: bytes) -> bytes:
    last = path.rpartition(b"/")[2].decode("latin-1")
    of_blob = is_sha256(last) and method in ("PUT", "POST")
    try:
        return make_proof(
            made.NODE,
            consortium=made.CONSORTIUM_ID,
            method=method,
            target=target.decode("latin-1"),
            body_sha=last if of_blob else sha256(body),
            at=made.AT,
        ).encode()
    except TapestryError:
        return b"Tapestry x"


def _written(method: str, target: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {target}", "Authorization: sign", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\n".join(lines).encode() + b"\n\n" + body


def _seeds(core: OpenCore) -> list[bytes]:
    said = made.contribution(
        made.CONSORTIUM_ID, plan=PLAN.digest, state=STATE.digest, delta=made.ARTIFACT.digest
    )
    followed = said.model_copy(update={"checkpoint": core.signed_head})
    attested = made.attestation(made.CONSORTIUM_ID, core.head, "done")
    root = made.key("bob")
    join = make_join(root, consortium=made.CONSORTIUM_ID, invitation="B" * 43, member="bob")
    told = {"join": json.loads(join.to_bytes()), "certificates": []}
    enrolment = made.ENROLMENT.model_copy(update={"plan": PLAN.digest})
    sha = sha256(BASE)
    certificate = {"certificate": json.loads(made.certificate().to_bytes())}
    return [
        _written("GET", "/v1/hello"),
        _written("POST", "/v1/join", canonical.encode(told)),
        _written("POST", "/v1/keys", canonical.encode(certificate)),
        _written("GET", "/v1/members"),
        _written("GET", "/v1/runs"),
        _written("GET", "/v1/runs/run?after=0&wait_s=0.5&gist=1"),
        _written("POST", "/v1/runs/run/enrolments", sign(enrolment, made.NODE).to_bytes()),
        _written("GET", "/v1/runs/run/rounds/1"),
        _written("POST", "/v1/runs/run/contributions", sign(said, made.NODE).to_bytes()),
        _written("POST", "/v1/runs/run/contributions", sign(followed, made.NODE).to_bytes()),
        _written("POST", "/v1/runs/done/attestations", sign(attested, made.WITNESS).to_bytes()),
        _written("GET", "/v1/runs/done/rounds/1/checkpoint"),
        _written("GET", "/v1/ledger?after=0"),
        _written("GET", f"/v1/ledger?after={core.head.size}"),
        _written("POST", "/v1/runs/run/scores", sign(made.SCORE, made.NODE).to_bytes()),
        _written("POST", "/v1/runs/run/progress", made.PROGRESS.to_bytes()),
        _written("POST", "/v1/blobs/missing", canonical.encode({"blobs": [sha, made.H[1]]})),
        _written("PUT", f"/v1/blobs/{sha256(b'hello')}?bytes=5&offset=0", b"hello"),
        _written("POST", f"/v1/blobs/{sha}?bytes={len(BASE)}"),
        _written("GET", f"/v1/blobs/{sha}", b"", "Range: bytes=10-20"),
        _written("GET", "/v1/events?after=0&limit=3"),
        _written("GET", "/v1/ledger/checkpoint"),
        _written("GET", "/v1/ledger/inclusion?sequence=1&size=3"),
        _written("GET", "/v1/ledger/consistency?old=1&new=3"),
    ]


NUMBERS = (
    "0",
    "-1",
    "1.5",
    "1e3",
    "²",
    "9" * 17,
    "9" * 5000,
    "",
    "٣",
    "0x1",
    "1" * 16,
    "true",
    "%00",
    "+1",
    "1 ",
)
HEADERS = (
    *("Content-Length: ²", "Content-Length: " + "9" * 5000, "Content-Length: -1", "Content-Length: 99999999"),
    *(
        "Content-Encoding: gzip",
        "Range: bytes=0-",
        "Range: bytes=5-1",
        "Range: bytes=-5",
        "Range: bytes=1-2,3-4",
    ),
    *(
        "Range: bytes=" + "9" * 18 + "-",
        "Authorization: Basic x",
        "Authorization: sign",
        "Tapestry-Direct: 1",
    ),
)


def _mutate(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    head, _, body = seed.partition(b"\n\n")
    lines = head.split(b"\n")
    kind = random.randrange(10)
    if kind < 5 and body:
        change = _envelope if body.startswith(b'{"payload"') else _nested
        body = change(random, body, [body])
        lines = [line for line in lines if not line.startswith(b"Content-Length")]
        if random.random() < 0.5:
            lines.append(b"Content-Length: %d" % len(body))
    elif kind < 7:
        first = lines[0].decode()
        path, _, query = first.partition("?")
        parts = [part.partition("=")[::2] for part in query.split("&")] if query else [("after", "0")]
        at = random.randrange(len(parts))
        parts[at] = (random.choice((parts[at][0], parts[at][0], "x", "")), random.choice(NUMBERS))
        if random.random() < 0.2:
            parts.append(parts[at])
        lines[0] = (path + "?" + "&".join(f"{a}={b}" for a, b in parts)).encode()
    elif kind == 7:
        method, _, target = lines[0].decode().partition(" ")
        pieces = target.split("/")
        at = random.randrange(len(pieces))
        pieces[at] = random.choice((text(random, pieces[at]), random.choice(STRINGS), "%2e%2e", "a%00"))
        verb = random.choice((method, method, "GET", "PUT", "POST", "HEAD", "DELETE"))
        lines[0] = f"{verb} {'/'.join(pieces)}".replace("\n", "").encode("utf-8", "replace")
    elif kind == 8:
        lines.insert(random.randrange(1, len(lines) + 1), random.choice(HEADERS).encode())
    else:
        return octets(random, seed, seeds)
    return b"\n".join(lines) + b"\n\n" + body


def _nested(random: Random, body: bytes, seeds: Sequence[bytes]) -> bytes:
    """JSON, or an envelope inside it."""
    try:
        value = json.loads(body)
        key = next(iter(value))
    except (ValueError, TypeError, StopIteration):
        return octets(random, body, seeds)
    if random.random() < 0.5 and isinstance(value[key], dict) and "payload" in value[key]:
        inside = canonical.encode(value[key])
        if base64.b64decode(value[key]["payload"]).find(made.ROOT.public_key.encode()) >= 0 or key != "join":
            try:
                value[key] = json.loads(_envelope(random, inside, [inside]))
                return canonical.encode(value)
            except (ValueError, KeyError, TapestryError):
                pass
    return json_bytes(random, body, seeds)


def _open() -> Parser:
    root = Path(tempfile.mkdtemp(prefix="tapestry-fuzz-", dir=_memory_folder()))
    core = OpenCore(root / "core")
    return Parser(seeds=_seeds(core), call=core.ask, close=lambda: shutil.rmtree(root, ignore_errors=True))


TARGETS: Sequence[Target] = (Target(name="core-api", open=_open, mutate=_mutate, alone=True),)
