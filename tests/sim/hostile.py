"""Members that do not keep to the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tapestry.errors import TapestryError
from tapestry.identity.envelope import sign
from tapestry.protocol.artifact import Blob
from tapestry.protocol.canonical import sha256
from tapestry.protocol.messages import Contribution, Enrolment
from tapestry.protocol.views import OpenRound
from tapestry.storage.blobs import BlobStore
from tests.sim import toy
from tests.sim.net import SimClient, SimConnection
from tests.sim.scheduler import Process
from tests.sim.setting import key_of, node_of

if TYPE_CHECKING:
    from tests.sim.world import World

NAN: Final = float("nan")


class Mallory:
    """A member with a key of its own, which sends whatever may do harm."""

    def __init__(self, world: World, member: str) -> None:
        self.member, self.node = member, node_of(member)
        self._world = world
        self._folder = world.root / self.node / "blobs"

    def run(self, process: Process) -> None:
        """The body of its process."""
        world = self._world
        network, rng = world.network, world.rng
        consortium = world.consortium
        key = key_of(f"{self.node} node")
        client = SimClient(SimConnection(network, self.node, consortium, key, lambda: world.core), 4096)
        store = BlobStore.open(self._folder)
        while world.observer.finished is None:
            try:
                view = client.run(toy.RUN)
                if self.node not in view.enrolled:
                    client.enrol(toy.RUN, self._enrolment())
                elif view.current is not None:
                    attack = ATTACKS[int(rng.random() * len(ATTACKS))]
                    self._send(client, store, view.current, attack)
                    world.scheduler.say(f"mallory got through with {attack.__name__}")
            except TapestryError as error:
                world.scheduler.say(f"mallory was told {error.code}: {error.message[:80]}")
            world.scheduler.wait(0.2 + rng.random() * 2)

    def _enrolment(self) -> bytes:
        message = Enrolment(
            consortium=self._world.consortium,
            run=toy.RUN,
            plan=self._world.plan.digest,
            member=self.member,
            node=self.node,
        )
        return sign(message, key_of(f"{self.node} node")).to_bytes()

    def _send(self, client: SimClient, store: BlobStore, at: OpenRound, attack: Attack) -> None:
        values = toy.trained(self.node, at.round, at.state)
        fields: dict[str, Any] = {
            "consortium": self._world.consortium,
            "run": toy.RUN,
            "plan": self._world.plan.digest,
            "round": at.round,
            "fragment": 0,
            "member": self.member,
            "node": self.node,
            "state": at.state,
            "tokens": toy.STEPS * toy.TOKENS_A_STEP,
            "steps": toy.STEPS,
            "data_manifest": sha256(b""),
            "environment": {},
            "nonce": self._world.rng.randbytes(16).hex(),
        }
        blobs = attack(self._world, fields, values)
        fields.setdefault("delta", sha256(blobs[-1]))
        for data in blobs:
            store.put(data, durable=False)
        client.upload_blobs([Blob(sha256=sha256(data), bytes=len(data)) for data in blobs], store)
        envelope = sign(Contribution(**fields), key_of(f"{self.node} node"))
        client.contribute(toy.RUN, envelope.to_bytes())


Attack = Callable[["World", dict[str, Any], toy.Numbers], tuple[bytes, ...]]


def honest(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    """Nothing wrong with it, whatever it holds: it may come again with another nonce."""
    return toy.make("delta", values).blobs


def not_a_number(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    return toy.make("delta", (NAN, *values[1:])).blobs


def greedy(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    fields["tokens"] *= 1000
    return toy.make("delta", values).blobs


def another_base(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    fields["state"] = sha256(b"another base")
    return toy.make("delta", values).blobs


def another_round(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    fields["round"] = max(1, fields["round"] + (1 if world.rng.random() < 0.5 else -1))
    return toy.make("delta", values).blobs


def in_anothers_name(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    node = next(iter(world.nodes.values()))
    fields["member"], fields["node"] = node.member, node.name
    return toy.make("delta", values).blobs


def a_base_for_a_delta(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    return toy.make("base", values).blobs


def without_its_bytes(world: World, fields: dict[str, Any], values: toy.Numbers) -> tuple[bytes, ...]:
    return toy.make("delta", (world.rng.random(), *values[1:])).blobs[-1:]


ATTACKS: Final[tuple[Attack, ...]] = (
    honest,
    not_a_number,
    greedy,
    another_base,
    another_round,
    in_anothers_name,
    a_base_for_a_delta,
    without_its_bytes,
)
