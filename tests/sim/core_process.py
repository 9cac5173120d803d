"""The core: its real API and coordinator, whose coroutines are run without an event loop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import httpx
from fastapi import Request, Response
from sqlalchemy.engine import Connection
from starlette.requests import ClientDisconnect

from tapestry.core.api import Api
from tapestry.core.blobs_api import BlobsApi
from tapestry.core.coordinator import Coordinator
from tapestry.core.ledger_api import LedgerApi
from tapestry.core.quota import Quota
from tapestry.core.service import Core
from tapestry.errors import NotFound, TapestryError
from tapestry.identity.keyring import Signer
from tapestry.storage.database import Database
from tapestry.transport import server, wire
from tests.sim.net import Box, Reply, Wire
from tests.sim.observer import Observer
from tests.sim.scheduler import Process
from tests.sim.shims import drive
from tests.sim.toy import RUN

if TYPE_CHECKING:
    from tests.sim.world import World

ROUTES: Final = tuple(
    (method, re.compile(pattern), name, gate)
    for method, pattern, name, gate in (
        ("GET", r"/v1/hello", "hello", None),
        ("GET", r"/v1/members", "members", server.signed),
        ("GET", r"/v1/runs", "runs", server.signed),
        ("GET", r"/v1/runs/([^/]+)", "run", server.signed),
        ("POST", r"/v1/runs/([^/]+)/enrolments", "enrol", server.signed),
        ("GET", r"/v1/runs/([^/]+)/rounds/([^/]+)", "round", server.signed),
        ("POST", r"/v1/runs/([^/]+)/contributions", "contribute", server.signed),
        ("POST", r"/v1/runs/([^/]+)/attestations", "attest", server.signed),
        ("POST", r"/v1/runs/([^/]+)/scores", "score", server.signed),
        ("POST", r"/v1/runs/([^/]+)/progress", "progress", server.signed),
        ("POST", r"/v1/blobs/missing", "missing", server.signed_list),
        ("PUT", r"/v1/blobs/([^/]+)", "put_blob", server.signed_blob),
        ("GET", r"/v1/blobs/([^/]+)", "get_blob", server.signed),
        ("GET", r"/v1/events", "events", server.signed),
        ("GET", r"/v1/ledger", "ledger", server.signed),
    )
)
"""What a router would do, with those endpoints that an agent asks."""


class SimWatch:
    """As `core.watch.Watch`."""

    def __init__(self, world: World) -> None:
        self._scheduler = world.scheduler
        self._sequences: dict[str, int] = {}
        self.closed = False

    def tell(self, scope: str, sequence: int) -> None:
        self._sequences[scope] = max(sequence, self._sequences.get(scope, 0))

    @property
    def scopes(self) -> set[str]:
        return set(self._sequences)

    async def newer(self, seen: Mapping[str, int], timeout_s: float) -> None:
        def moved() -> bool:
            return any(self._sequences.get(scope, 0) > last for scope, last in seen.items())

        self._scheduler.wait(0.0 if moved() else timeout_s, until=moved)


class CoreProcess:
    """What runs on the core's machine; made anew after each crash."""

    def __init__(self, world: World, name: str = "core") -> None:
        self._world = world
        self.name = name
        self._boxes: list[Box] = []
        self.observer = Observer(world, self)
        self.process = Process(name)
        self.up = False
        self.core: Core | None = None

    def boot(self, process: Process) -> None:
        """The body of its first task."""
        world = self._world
        self.process = process
        core = self.core = Core.open(world.root / self.name, clock=world.core_ms)
        self._reads = _Reading(core.database)
        core.database.reading = self._reads.reading  # type: ignore[method-assign]
        watch = SimWatch(world)

        def told(scope: str, sequence: int) -> None:
            self.observer.committed()
            watch.tell(scope, sequence)

        core.journal.listener = told
        for scope, sequence in core.journal.sequences().items():
            watch.tell(scope, sequence)
        quota = Quota(core.settings.limits.pending_bytes)
        replay = world.replay(core.store, self.name)
        coordinator = Coordinator(
            core.runs,
            replay,
            watch,  # type: ignore[arg-type]
            copies=core.copies(replay),  # type: ignore[arg-type]
            quota=quota,
            tell=lambda what, more: world.scheduler.say(f"{what} {_short(more)}"),
            trouble_changed=lambda _: None,
        )
        self._api = Api(core, watch, quota, coordinator)  # type: ignore[arg-type]
        blobs = BlobsApi(core, quota, coordinator)
        self._endpoints = {
            name: getattr(self._api, name, getattr(blobs, name, None)) for _, _, name, _ in ROUTES
        }
        self._endpoints["ledger"] = LedgerApi(core).lines
        check = self._api._check if world.proofs else _believe
        self._app = SimpleNamespace(state=SimpleNamespace(check=check))
        self.observer.reopened()
        self.up = True
        world.scheduler.say("serves")
        drive(coordinator._tend(RUN))

    def down(self) -> None:
        """Its process died."""
        self.up = False
        boxes, self._boxes = self._boxes, []
        for box in boxes:
            box.put(None)
        self._world.scheduler.say("core is down")

    def shut(self) -> None:
        """All its tasks have ended: let go of what the process held."""
        if self.core is not None:
            self._reads.close()
            self.core.close()
            self.core = None

    # -- requests ---------------------------------------------------------------------------------

    def deliver(self, request: Wire, box: Box, *, in_s: float) -> None:
        """A request is on its way here."""
        if not self.up:
            box.put(None)
            return
        self._boxes.append(box)
        self._world.scheduler.spawn(
            self.process,
            f"{request.method} {request.path[:48]}",
            lambda: self._serve(request, box),
            in_s=in_s,
        )

    def _serve(self, request: Wire, box: Box) -> None:
        world = self._world
        world.scheduler.say(f"{request.sender}: {request.method} {request.path[:60]}")
        reply = drive(self._reply(request))
        self.observer.answered(request, reply)
        world.point("answer")
        self._boxes.remove(box)
        box.put(reply)

    async def _reply(self, request: Wire) -> Reply | None:
        """The answer; None where the sender broke off."""
        asked = Request(self._scope(request), _receive(request))
        try:
            response = await self._route(request, asked)
        except TapestryError as error:
            response = server.failure(error)
        except ClientDisconnect:
            return None
        parts: list[Any] = []

        async def send(message: Any) -> None:
            parts.append(message)

        await response(asked.scope, asked.receive, send)
        headers = [(name.decode(), value.decode()) for name, value in parts[0]["headers"]]
        headers.append((wire.TIME_HEADER, self._api.now()))
        body = b"".join(part.get("body", b"") for part in parts[1:])
        return Reply(parts[0]["status"], httpx.Headers(headers), body)

    async def _route(self, request: Wire, asked: Request) -> Response:
        for method, pattern, name, gate in ROUTES:
            match = pattern.fullmatch(request.path)
            if match is None or method != request.method:
                continue
            endpoint, parts = self._endpoints[name], match.groups()
            assert endpoint is not None
            if gate is None:
                answer: Response = await endpoint(asked)
            elif gate is server.signed_blob:
                answer = await endpoint(asked, *parts, await gate(asked, *parts))
            else:
                answer = await endpoint(asked, *parts, await gate(asked))
            return answer
        raise NotFound("there is nothing at this path")

    def _scope(self, request: Wire) -> dict[str, Any]:
        return {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "raw_path": request.path.encode(),
            "query_string": request.query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in request.headers.items()],
            "app": self._app,
        }


class _Reading:
    """Reads over one connection: to take one and begin costs more than most reads. No task waits in one."""

    def __init__(self, database: Database) -> None:
        self._open = database.reading
        self._held = ExitStack()
        self._connection: Connection | None = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        if self._connection is None:
            self._connection = self._held.enter_context(self._open())
            self._connection.exec_driver_sql("ROLLBACK")  # each statement sees the newest then
        yield self._connection

    def close(self) -> None:
        self._held.close()


def _believe(header: str, *_: str) -> Signer:
    """Whoever the header names, where requests are not signed."""
    member, node = header.split()
    return Signer(member=member, node=node, role="node", key_id="0" * 64)


def _receive(request: Wire) -> Any:
    whole = request.body if request.cut is None else request.body[: request.cut]
    messages = [{"type": "http.request", "body": whole, "more_body": request.cut is not None}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def _short(more: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={str(value)[:40]}" for key, value in more.items() if key != "seconds")
