"""The network between nodes and core, below the real client: requests and answers that are lost, late,
doubled, cut short or kept apart by a partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from tapestry.identity.keys import KeyPair
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.transport.client import CoreClient
from tapestry.transport.connection import Connection, Request, Traffic
from tapestry.transport.core_time import CoreClock
from tapestry.transport.direct import Direct
from tapestry.transport.transfers import Transfers

if TYPE_CHECKING:
    from tests.sim.core_process import CoreProcess
    from tests.sim.lies import Dropper, Liar
    from tests.sim.world import World

URL = "http://core.sim"
PATIENCE_S = 5.0
REFUSED_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A request as it goes over the wire."""

    sender: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    """The body breaks off after so many bytes."""


@dataclass
class Reply:
    """An answer as it comes."""

    status_code: int
    headers: httpx.Headers
    body: bytes
    cut: int | None = None

    def iter_raw(self) -> Iterator[bytes]:
        if self.cut is None:
            yield self.body
            return
        yield self.body[: self.cut]
        raise httpx.ReadError("the connection was reset")

    def close(self) -> None:
        pass


@dataclass(eq=False)
class Box:
    """Where a sender finds what became of its request."""

    wake: Callable[[], None] = lambda: None
    reply: Reply | None = None
    broken: bool = False

    def put(self, reply: Reply | None) -> None:
        self.reply, self.broken = reply, reply is None
        self.wake()


@dataclass
class Network:
    """Between all nodes and the core, or the copies of it."""

    world: World
    apart: set[str] = field(default_factory=set)
    """Nodes that a partition keeps from the core."""
    liar: Liar | Dropper | None = None
    """What a core that lies makes of its answers."""
    sent: int = 0

    def exchange(self, wire: Wire, patience_s: float, core: CoreProcess) -> Reply:
        """Send and wait. Raises what `httpx` raises."""
        world, scheduler = self.world, self.world.scheduler
        world.point("send")
        self.sent += 1
        core.observer.sent(wire)
        if wire.sender in self.apart:
            scheduler.wait(1.0)
            raise httpx.ConnectTimeout("no route")
        if not core.up:
            scheduler.wait(REFUSED_S)
            raise httpx.ConnectError("connection refused")
        if world.chance("drop"):
            scheduler.say(f"lost: {wire.method} {wire.path[:40]}")
            scheduler.wait(PATIENCE_S)
            raise httpx.ReadTimeout("no answer")
        if wire.body and world.chance("cut"):
            wire = Wire(**{**vars(wire), "cut": int(world.scheduler.rng.random() * len(wire.body))})
        if world.chance("double"):
            world.later(world.delay() * 20, lambda: self._deliver(core, wire, Box()))
        box = Box(wake=self._waker())
        self._deliver(core, wire, box)
        scheduler.wait(patience_s + PATIENCE_S, until=lambda: box.reply is not None or box.broken)
        if box.reply is None:
            raise httpx.ReadError("connection reset") if box.broken else httpx.ReadTimeout("no answer")
        return self._back(wire, box.reply)

    def _waker(self) -> Callable[[], None]:
        task = self.world.scheduler.current
        assert task is not None
        process = task.process

        def wake() -> None:
            process.version += 1

        return wake

    def _deliver(self, core: CoreProcess, wire: Wire, box: Box) -> None:
        core.deliver(wire, box, in_s=self.world.delay())

    def _back(self, wire: Wire, reply: Reply) -> Reply:
        world = self.world
        if world.slow():
            world.scheduler.wait(world.delay())
        if world.chance("lost_answer") or wire.sender in self.apart:
            world.scheduler.say(f"answer lost: {wire.method} {wire.path[:40]}")
            raise httpx.ReadError("the connection was reset")
        if self.liar is not None:
            reply = self.liar.blob(wire) or self.liar(wire, reply)
        if reply.body and world.chance("cut"):
            reply.cut = int(world.scheduler.rng.random() * len(reply.body))
        world.point("answered")
        return reply


class SimConnection(Connection):
    """The real one, but for the sockets."""

    def __init__(
        self,
        network: Network,
        node: str,
        consortium: str | None,
        keypair: KeyPair | None,
        core: Callable[[], CoreProcess],
    ) -> None:
        self._core = core
        self.base_url = URL
        self.consortium = consortium
        self.keypair = keypair
        self.clock = CoreClock(lambda: network.world.scheduler.now)
        self.traffic = Traffic()
        self.connect_s = self.read_s = PATIENCE_S
        self._network = network
        self._node = node

    def close(self) -> None:
        pass

    def _begin(self, request: Request, signed_s: float) -> Reply:  # type: ignore[override]
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = request.body or b""
        if request.pieces is not None:
            body = b"".join(request.pieces())
        headers["content-length"] = str(len(body))
        if request.signed:
            proven = self._network.world.proofs
            who = f"{self._node.rpartition('-')[0]} {self._node}"
            headers["authorization"] = self._proof(request, request.target, signed_s) if proven else who
        self.traffic.add(requests=1, sent=len(body))
        path, _, query = request.target.partition("?")
        wire = Wire(
            sender=self._node, method=request.method, path=path, query=query, headers=headers, body=body
        )
        reply = self._network.exchange(wire, request.patience_s, self._core())
        if stated := reply.headers.get("tapestry-time"):
            self.clock.set(stated)
        return reply

    def read(self, response: Reply, cap: int = MAX_BLOB_BYTES) -> Iterator[bytes]:  # type: ignore[override]
        return super().read(response, cap)  # type: ignore[arg-type]


class SimClient(CoreClient):
    """The real client over a simulated connection."""

    def __init__(self, connection: SimConnection, chunk_bytes: int) -> None:
        self.connection = connection
        self._direct = Direct(
            wanted=False,
            secure=False,
            ca=None,
            connections=1,
            connect_s=1,
            read_s=1,
            traffic=connection.traffic,
        )
        self._transfers = Transfers(connection, self._direct, chunk_bytes=chunk_bytes, parallel=2)
        self.base_url = URL
        self.clock = connection.clock
        self.traffic = connection.traffic
