"""A real core in this process, and runs on it that two honest members and an attacker share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapestry.core.api import Api
from tapestry.core.coordinator import Coordinator
from tapestry.core.logs import CoreLog
from tapestry.core.quota import Quota
from tapestry.core.serve import _Serving, listen
from tapestry.core.service import Core
from tapestry.core.watch import Watch
from tapestry.identity.envelope import Envelope
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Merge, Plan, Streaming
from tapestry.protocol.views import RunView
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob, MergeResult, OverlapJob, Overlapped, SketchAt
from tapestry.storage.blobs import BlobStore
from tests.core.support import LAYOUT, CoreUnderTest, Member, artifact, code, make_plan, shards

LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.asgi", "asyncio")
FEDAVG = Merge(outer="fedavg", outer_rate=1.0, outer_momentum=0.0)
ADA, BOB, EVE = 0.5, 0.25, 8.0
HONEST = 1.0 - (ADA + BOB) / 2
"""What every weight is after a merge of ada and bob alone."""


class HereReplay:
    """The replay worker's engine, without its process."""

    def __init__(self, store: BlobStore, sketches: Path | None = None) -> None:
        self._engine = Engine(store, threads=1, sketches=sketches)
        self._lock = threading.Lock()

    def merge(self, job: MergeJob) -> MergeResult:
        with self._lock:
            return self._engine.merge(job)

    def screen(
        self,
        delta: str,
        layout: str,
        codec: Codec = PLAIN,
        fragment: int = 0,
        largest_norm: float | None = None,
        sketch: SketchAt | None = None,
    ) -> None:
        with self._lock:
            self._engine.screen(delta, layout, codec, fragment, largest_norm, sketch)

    def overlap(self, job: OverlapJob) -> Overlapped:
        with self._lock:
            return self._engine.overlap(job)

    def close(self) -> None:
        """Nothing to end."""


class HereCore(CoreUnderTest):
    """What `core serve` runs, in a thread."""

    def start(self, **environment: str) -> HereCore:
        assert not environment
        self.core = Core.open(self.root)
        self.store = self.core.store
        self._log = CoreLog(self.core.home.log)
        self._before = {name: _settings(logging.getLogger(name)) for name in LOGGERS}
        ready: queue.Queue[str] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        sock = listen(self.core.settings)
        self.replay = HereReplay(self.store, self.core.home.sketches)
        serving = _Serving(self.core, self.replay, self._log, sock)  # type: ignore[arg-type]
        self.api: Api

        def made(core: Core, watch: Watch, quota: Quota, coordinator: Coordinator) -> Api:
            self.quota = quota
            self.api = Api(core, watch, quota, coordinator)
            return self.api

        patch = pytest.MonkeyPatch()
        patch.setattr("tapestry.core.serve.Api", made)
        self._task = self._loop.create_task(serving.run(ready.put))
        self._thread = threading.Thread(target=self._run, name="core", daemon=True)
        self._thread.start()
        self.url = ready.get(timeout=60)
        patch.undo()
        self._sock = sock
        return self

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def close(self) -> None:
        for member in self.members.values():
            member.http.close()
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(30)
        self._sock.close()
        self.core.close()
        self._log.close()
        for name, (handlers, propagate, level) in self._before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)

    def free(self, node: str) -> None:
        """Nothing is pending of this node."""
        self.quota._pending.pop(node, None)
        self.quota._reserved.pop(node, None)

    def joined(self, name: str) -> Member:
        """A member that has joined, once for the whole session."""
        return self.members.get(name) or self.member(name)


def _settings(logger: logging.Logger) -> tuple[list[logging.Handler], bool, int]:
    return list(logger.handlers), logger.propagate, logger.level


class Game:
    """A started run of ada, bob and eve, in which a merge needs two contributions."""

    def __init__(
        self,
        core: HereCore,
        blobs: Path,
        run: str,
        *,
        merge: Merge = FEDAVG,
        codec: Codec = PLAIN,
        eve_enrols: bool = True,
        **rules: Any,
    ) -> None:
        self.core, self.run = core, run
        plan = make_plan(blobs, run=run, **{"total": 3, "min_nodes": 2, "quorum": 2} | rules)
        self.plan: Plan = plan.model_copy(update={"merge": merge, "codec": codec})
        names = ["eve", "ada", "bob"] if eve_enrols else ["ada", "bob"]
        self.with_eve, self.round, self.state = eve_enrols, 1, plan.initial_state
        if eve_enrols:
            self.plan = self.plan.model_copy(
                update={"rounds": self.plan.rounds.model_copy(update={"min_nodes": 3})}
            )
        core.running(self.plan, blobs, *names)
        self.ada, self.bob = core.members["ada"], core.members["bob"]
        self.eve = core.joined("eve")

    def view(self) -> RunView:
        return self.ada.view(self.run)

    def wait(self, until: Callable[[RunView], bool]) -> RunView:
        return self.ada.wait(until, self.run, timeout_s=20)

    def outcome(self, node: str = "eve-1") -> tuple[str | None, str | None]:
        """What became of a contribution to the round in flight once its bytes were looked at, and why."""

        def looked(view: RunView) -> bool:
            return self._found(node)[0] in ("accepted", "refused")

        self.wait(looked)
        return self._found(node)

    def _found(self, node: str) -> tuple[str | None, str | None]:
        state = self.core.core.runs.standing(self.run).state
        for at in state.rounds:
            if at.round == self.round and node in at.submissions:
                return at.submissions[node].status, at.submissions[node].reason
        return None, None

    @property
    def sequence(self) -> int:
        """Of the newest event of this run."""
        return self.core.core.runs.standing(self.run).sequence

    def goes_on(self) -> None:
        """The round in flight is merged, of good contributions alone: eve's too, if she takes part."""
        good = {"round": self.round, "state": self.state}
        if self.with_eve:
            self.eve.hand_in(self.plan, (ADA + BOB) / 2, tokens=2000, nonce="f" * 32, **good)
        self.rest_hand_in()
        view = self.wait(lambda v: v.head.round >= self.round)
        assert self.values(view.head.state) == {HONEST}
        self.round, self.state = self.round + 1, view.head.state

    def goes_on_again(self) -> None:
        """One more round of ada, bob and eve."""
        good = {"round": self.round, "state": self.state}
        self.eve.hand_in(self.plan, (ADA + BOB) / 2, tokens=2000, nonce="f" * 32, **good)
        self.rest_hand_in()
        view = self.wait(lambda v: v.head.round >= self.round)
        self.round, self.state = self.round + 1, view.head.state

    def rest_hand_in(self) -> None:
        """Ada and bob, to the round in flight."""
        self.ada.hand_in(self.plan, ADA, round=self.round, state=self.state)
        self.bob.hand_in(self.plan, BOB, round=self.round, state=self.state)

    def ended(self) -> RunView:
        """Ada and bob hand in; then the round that eve has attacked is over."""
        self.rest_hand_in()
        return self.wait(
            lambda v: v.status == "finished" or (v.current is not None and v.current.round > self.round)
        )

    def signed(self, delta: str, /, **other: Any) -> Envelope:
        """A contribution of eve to the round in flight."""
        return self.eve.contribution(self.plan, delta, **{"round": self.round, "state": self.state} | other)

    def tried(self, delta: str = "", /, **other: Any) -> httpx.Response:
        """Eve hands in such a contribution."""
        delta = delta or self.eve.send_delta(EVE)
        return self.eve.contribute(self.signed(delta, **other), self.run)

    def weights(self, round: int = 1) -> dict[str, int]:
        """Of the contributions to a merged round, by node, in units of 2^-24."""
        answer = self.ada.ask("GET", f"/v1/runs/{self.run}/rounds/{round}")
        assert answer.status_code == 200, answer.text
        return {each["node"]: each["weight"] for each in answer.json()["merged"]}

    def values(self, state: str) -> set[float]:
        """All that stand in a state's base."""
        return values_of(self.core.store, state)


def values_of(store: BlobStore, state: str, layout: Layout = LAYOUT) -> set[float]:
    base = Artifact.from_bytes(store.read(State.from_bytes(store.read(state)).base))
    found: set[float] = set()
    for shard, blob in zip(layout.shards, base.shards, strict=True):
        data = store.read(blob.sha256)
        found |= {value for (value,) in struct.iter_unpack("<f", data[len(shard.header) :])}
    return found


def send(member: Member, data: list[bytes], manifest: Artifact | bytes | None = None) -> str:
    """Upload shards and a manifest of them (or another one); its digest."""
    from tapestry.protocol.canonical import sha256

    if manifest is None:
        manifest = artifact("delta", data)
    raw = manifest if isinstance(manifest, bytes) else manifest.to_bytes()
    for blob in (*data, raw):
        answer = member.put(blob)
        assert answer.status_code == 200, answer.text
    return sha256(raw)


def refused(answer: httpx.Response, expected: str) -> None:
    """The answer is that typed error."""
    assert answer.status_code >= 400 and code(answer) == expected, answer.text
    assert answer.status_code < 500, answer.text


__all__ = [
    "ADA",
    "BOB",
    "EVE",
    "FEDAVG",
    "HONEST",
    "LAYOUT",
    "Game",
    "HereCore",
    "HereReplay",
    "Layout",
    "Streaming",
    "artifact",
    "refused",
    "send",
    "shards",
    "values_of",
]
