"""A federation with several runs, and with several nodes of one member."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tapestry.core import operator, settings
from tapestry.core.service import Core
from tapestry.core.views import round_record
from tapestry.errors import Unreachable
from tapestry.ledger.entries import Entry
from tapestry.node import setup
from tapestry.node.member import member_init
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Rounds
from tapestry.protocol.views import RoundRecord, RunView
from tapestry.rounds.events import RoundCommitted, parse_event
from tapestry.storage.blobs import BlobStore
from tapestry.training.model import initial_state
from tests.cards import HERE, give_card
from tests.federation.kills import processes_of
from tests.federation.support import CONFIG, WORDS, Federation, free_port, write_text

E = TypeVar("E")


class ManyFederation(Federation):
    """Core, nodes and runs below one folder.

    Args:
        root: the folder.
        plans: of all runs; each node takes part in all of them.
        seed_blobs: where the plans' models lie.
        members: of each node, whose it is.
        threads: of each node's trainer, 1 where it is not named.
        started: runs that are started; all if None.
    """

    def __init__(
        self,
        root: Path,
        *,
        plans: Sequence[Plan],
        seed_blobs: Path,
        members: Mapping[str, str],
        threads: Mapping[str, int] | None = None,
        started: Sequence[str] | None = None,
    ) -> None:
        self.root = root
        self.names = list(members)
        self.members = dict(members)
        self.plans = {plan.run: plan for plan in plans}
        self.plan = plans[0]
        self.port = free_port()
        self.environment = {}
        self.restarts = {}
        self._processes = {}
        self._done = set()
        self._cores = {"core": self.core}
        self.url = f"http://127.0.0.1:{self.port}"
        operator.init(self.core, settings.make(port=self.port), title="Test")
        for plan in plans:
            operator.plan(self.core, plan, seed_blobs)
            if started is None or plan.run in started:
                operator.start(self.core, plan.run)
        for member in dict.fromkeys(members.values()):
            member_init(self.member(member), member)
        for (name, member), words in zip(members.items(), WORDS.values(), strict=False):
            text = root / "texts" / name
            write_text(text, words)
            own = (threads or {}).get(name, 1)
            setup.init(self.node(name), self.member(member), name, text, threads=own, residency=HERE)
            give_card(self.node(name), text)

    def member(self, name: str) -> Path:
        return self.root / "members" / name

    def start(self) -> None:
        """A member's first node brings it in; the others need no invitation of their own."""
        self._spawn("core")
        tokens = {member: operator.invite(self.core, member) for member in set(self.members.values())}
        for name, member in self.members.items():
            self._join(name, tokens[member])
        for name in self.names:
            self._spawn(name)

    def _join(self, name: str, token: str) -> None:
        for _ in range(600):
            assert self._processes["core"].poll() is None, self.log("core")
            try:
                setup.join(self.node(name), self.url, token, member_dir=self.member(self.members[name]))
            except Unreachable:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"{name} could not join: {self.log('core')}")

    def process(self, name: str) -> subprocess.Popen[bytes]:
        return self._processes[name]

    def leave_out(self, name: str) -> None:
        """`keep_going` does not wait for this node any more."""
        self._done.add(name)

    def view_of(self, run: str) -> RunView:
        return operator.view(self.core, run)

    def records(self, run: str) -> list[RoundRecord]:
        """Of every committed round."""
        last = self.view_of(run).head.round
        with Core.open(self.core) as core:
            return [round_record(core.journal, core.store, run, number + 1) for number in range(last)]

    def bases(self, run: str) -> list[str]:
        """Digest of the base after each round."""
        return [event.base for event in self.events(run, RoundCommitted)]

    def events(self, run: str, kind: type[E]) -> list[E]:
        """Of a run's log, those of one kind, oldest first."""
        with Core.open(self.core) as core:
            entries, _ = core.journal.entries(0, limit=100_000, max_bytes=1 << 28)
        read = [Entry.from_bytes(entry) for entry in entries]
        found = [parse_event(entry.type, entry.body) for entry in read if entry.scope == run]
        return [event for event in found if isinstance(event, kind)]

    def status(self, name: str, role: str) -> dict[str, Any]:
        """What a process of a node says of itself."""
        try:
            value = json.loads((self.node(name) / "status" / f"{role}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def kill_role(self, name: str, role: str) -> bool:
        """kill -9 of one process of a node; False where there is none."""
        found = processes_of(self.node(name))[role]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command as a person types it, once it has ended."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "tapestry.cli.main", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
            timeout=60,
            check=False,
        )


def make_plan(seed_blobs: Path, run: str, *, nodes: int, rounds: int, steps: int, **other: Any) -> Plan:
    """A small run. `other`: `hidden_size`, and what of the tables `rounds` and `merge` differs."""
    config = CONFIG | {"hidden_size": other.pop("hidden_size", 16)}
    merge = {"outer_rate": 0.7, "outer_momentum": 0.6} | other.pop("merge", {})
    store = BlobStore.open(seed_blobs)
    model, layout, state, parameters = initial_state(run, config, "byte", 7, 1 << 14, store)
    return Plan(
        run=run,
        model=model.digest,
        layout=layout.digest,
        initial_state=state.digest,
        parameters=parameters,
        rounds=Rounds(
            **({"total": rounds, "min_nodes": nodes, "quorum": nodes, "deadline_s": 3600.0} | other)
        ),
        inner=Inner(steps=steps, sequence_length=32, batch_sequences=2, learning_rate=3e-3, warmup_steps=2),
        merge=Merge(**merge),
        evaluation=Evaluation(max_tokens=512),
    )
