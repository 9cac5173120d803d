"""A node's keys in the hands of somebody who sends what no trainer made: a real client, and no gate."""

from __future__ import annotations

import math
import secrets
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tapestry.cli.rehearsal.defaults import RUN, WAIT_S
from tapestry.cli.rehearsal.fault import NotSeen
from tapestry.errors import TapestryError
from tapestry.identity.envelope import sign
from tapestry.node import keys, settings, setup
from tapestry.node.home import Home
from tapestry.node.sync import Library, blobs_of
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.messages import Contribution, Enrolment
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import OpenRound, RunView
from tapestry.storage.blobs import BlobStore

T = TypeVar("T")
Values = list["array[float]"]
"""Of each shard, fp32."""
LOUD: Final = 10.0
POLL_S: Final = 0.05
MAX_BYTES: Final = 1 << 26


class Hostile:
    """One node that has joined; open while the context is."""

    def __init__(self, home: Path) -> None:
        self._home = Home(home)
        self._node = settings.load(self._home).node
        self._consortium = setup.load_consortium(self._home).consortium
        self._pair = keys.load_pair(self._home)
        self._store = BlobStore.open(self._home.blobs)
        self._client = setup.connect(self._home, self._pair)
        self._library = Library(self._client, self._store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @property
    def plan(self) -> Plan:
        return self._library.message(self._client.run(RUN).plan, Plan)

    def enrol(self) -> None:
        message = Enrolment(
            consortium=self._consortium,
            run=RUN,
            plan=self.plan.digest,
            member=self._node.member,
            node=self._node.name,
        )
        self._client.enrol(RUN, sign(message, self._pair).to_bytes())

    def round(self) -> OpenRound:
        """The next round that expects this node, and in which it has said nothing yet."""

        def fits(view: RunView) -> OpenRound | None:
            at = view.current
            own = next((n for n in at.nodes if n.node == self._node.name), None) if at is not None else None
            free = own is not None and own.expected and own.status is None
            return at if at is not None and at.phase == "training" and free else None

        return self._wait("a round that expects it", fits)

    def claim(self, at: OpenRound, times: int) -> TapestryError | None:
        """Say that it trained on so many times the tokens a round has; what the core answers."""
        delta = self._kept(self._shaped(lambda _: 0.0))
        inner = self.plan.inner
        tokens = inner.tokens_in(inner.steps) * times
        try:
            self._client.contribute(RUN, self._signed(at, delta, tokens=tokens))
        except TapestryError as error:
            return error
        return None

    def send(self, at: OpenRound, values: Values) -> str:
        """Commit and reveal an update as the rules want it; the digest of its envelope."""
        delta = self._kept(values)
        envelope = self._signed(at, delta)
        self._client.contribute(RUN, envelope)
        self._wait(
            "the round to be sealed",
            lambda view: (
                view.current is None
                or view.current.round != at.round
                or view.current.phase != "training"
                or None
            ),
        )
        self._client.upload_blobs(blobs_of(self._store, delta), self._store)
        self._client.contribute(RUN, envelope)
        return canonical.sha256(envelope)

    def loud(self) -> Values:
        """All values far too large."""
        return self._shaped(lambda _: LOUD)

    def broken(self) -> Values:
        """Not a number in the middle of numbers, which would spread over the whole base."""
        return self._shaped(lambda place: math.nan if place == 7 else 0.001)

    def copied(self, number: int, node: str) -> Values:
        """What a node handed in to an earlier round, half as long and the other way round."""
        record = self._client.round(RUN, number)
        delta = next(each.delta for each in record.merged if each.node == node)
        fragment = self._library.layout(self.plan.layout).fragment(record.fragment)
        self._library.artifacts([delta], fragment, "delta")
        found: Values = []
        for shard, blob in zip(fragment.shards, self._library.message(delta, Artifact).shards, strict=True):
            values = array("f", self._store.read(blob.sha256, MAX_BYTES)[len(shard.header) :])
            found.append(array("f", (-0.5 * value for value in values)))
        return found

    @staticmethod
    def norm(values: Values) -> float:
        return math.sqrt(sum(value * value for shard in values for value in shard))

    # -- parts ----------------------------------------------------------------------------------

    def _shaped(self, value: Callable[[int], float]) -> Values:
        shards = self._library.layout(self.plan.layout).shards
        return [array("f", (value(place) for place in range(shard.elements))) for shard in shards]

    def _kept(self, values: Values) -> str:
        """Written as any update is; the digest of its manifest."""
        layout, blobs = self._library.layout(self.plan.layout), []
        for shard, each in zip(layout.shards, values, strict=True):
            data = shard.header + each.tobytes()
            blobs.append(Blob(sha256=self._store.put(data, durable=False), bytes=len(data)))
        manifest = Artifact(kind="delta", layout=layout.digest, shards=tuple(blobs))
        return self._store.put(manifest.to_bytes(), durable=False)

    def _signed(self, at: OpenRound, delta: str, **other: Any) -> bytes:
        plan = self.plan
        fields: dict[str, Any] = {
            "consortium": self._consortium,
            "run": RUN,
            "plan": plan.digest,
            "round": at.round,
            "fragment": at.fragment,
            "member": self._node.member,
            "node": self._node.name,
            "state": at.state,
            "delta": delta,
            "tokens": plan.inner.tokens_in(plan.inner.steps),
            "steps": plan.inner.steps,
            "data_manifest": canonical.sha256(b"of nothing"),
            "environment": {},
            "nonce": secrets.token_hex(16),
        }
        return sign(Contribution(**(fields | other)), self._pair).to_bytes()

    def _wait(self, what: str, look: Callable[[RunView], T | None]) -> T:
        deadline = time.monotonic() + WAIT_S
        while (found := look(self._client.run(RUN))) is None:
            if time.monotonic() > deadline:
                raise NotSeen(f"{what} did not come within {WAIT_S:.0f} s")
            time.sleep(POLL_S)
        return found
