"""A federation of real processes on this machine, each node behind a link of its own, for one run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cards import HERE, give_card

from benchmarks.links import Link, Proxy
from benchmarks.recorder import Recorder
from tapestry.cli.demo import defaults, texts
from tapestry.core import operator
from tapestry.core import settings as core_settings
from tapestry.errors import Unreachable
from tapestry.node import lines, setup
from tapestry.node.home import Home
from tapestry.node.member import member_init
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Rounds, Streaming, Witness
from tapestry.storage.blobs import BlobStore
from tapestry.training.model import initial_state

RUN = "run"
WAIT_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run.

    Args:
        nodes: how many, a member each.
        rounds: merges.
        steps: of a node in a round.
        model: values of the configuration that differ from the demo's.
        link: of each node, each way; None: none in between.
        never_scored: no base is scored, so that training and waiting are all there is.
    """

    nodes: int
    rounds: int
    steps: int
    model: Mapping[str, Any] = field(default_factory=dict)
    link: Link | None = None
    codec: Codec = PLAIN
    merge: Merge = field(default_factory=Merge)
    streaming: Streaming = field(default_factory=Streaming)
    never_scored: bool = True
    witness: Witness = field(default_factory=Witness)
    reveal_s: float | None = None

    def plan(self, store: BlobStore) -> Plan:
        """With its initial state in `store`."""
        config = defaults.model_config() | dict(self.model)
        model, layout, state, parameters = initial_state(
            RUN, config, "byte", 0, defaults.SHARD_BYTES, store, fragments=self.streaming.fragments
        )
        return Plan(
            run=RUN,
            model=model.digest,
            layout=layout.digest,
            initial_state=state.digest,
            parameters=parameters,
            rounds=Rounds(
                total=self.rounds,
                min_nodes=self.nodes,
                quorum=self.nodes,
                deadline_s=WAIT_S,
                reveal_s=self.reveal_s,
            ),
            inner=Inner(
                steps=self.steps,
                sequence_length=defaults.SEQUENCE,
                batch_sequences=defaults.BATCH,
                learning_rate=defaults.LEARNING_RATES["adamw"],
                warmup_steps=defaults.WARMUP_STEPS,
            ),
            codec=self.codec,
            merge=self.merge,
            streaming=self.streaming,
            witness=self.witness,
            evaluation=Evaluation(every_rounds=1 << 20 if self.never_scored else 1, max_tokens=1 << 10),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Lines of each node's account without those of the first and last two rounds, and the plan."""

    plan: Plan
    rounds: list[list[dict[str, Any]]]

    def sum(self, name: str) -> float:
        return sum(float(line[name]) for node in self.rounds for line in node)

    @property
    def utilisation(self) -> float:
        """Part of the time in which trainers trained."""
        return self.sum("trained_s") / self.sum("whole_s")

    @property
    def tokens_s(self) -> float:
        """Of one node, the mean."""
        return self.sum("tokens") / self.sum("whole_s")

    @property
    def round_s(self) -> float:
        return self.sum("whole_s") / sum(map(len, self.rounds))

    @property
    def step_s(self) -> float:
        """While it trains."""
        return self.sum("trained_s") / self.sum("steps")

    @property
    def moved(self) -> float:
        """Bytes a node sends and receives in a round."""
        return (self.sum("uploaded_bytes") + self.sum("downloaded_bytes")) / sum(map(len, self.rounds))


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is done beside a run.

    Args:
        prepare: called with each node's home and folder of text before it starts.
        look: called with the folder of it all when the nodes have ended, before it is gone.
    """

    prepare: Callable[[Path, Path], object]
    look: Callable[[Path], object]


def run(case: Case, root: Path, watched: Watched | None = None) -> Outcome:
    """All of it in a folder that is not there yet, which is gone afterwards. Ends when every node has.

    Where it is `watched`, every byte between the nodes and the core is kept below `capture/NODE`.
    """
    try:
        with ExitStack() as stack:
            outcome = _run(case, root, stack, watched)
            if watched is not None:
                watched.look(root)
            return outcome
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(case: Case, root: Path, stack: ExitStack, watched: Watched | None) -> Outcome:
    root.mkdir(parents=True)
    core, port = root / "core", _free_port()
    operator.init(core, core_settings.make(port=port), title="Benchmark")
    seed = root / "seed"
    plan = case.plan(BlobStore.open(seed))
    operator.plan(core, plan, seed)
    operator.start(core, RUN)
    _spawn(stack, root / "core.log", "core", "serve", str(core))
    found = texts.from_standard_library(case.nodes, root / "texts")
    homes, processes = [], []
    for member in found:
        near = port
        if case.link is not None:
            near = stack.enter_context(Proxy("127.0.0.1", port, up=case.link, down=case.link)).port
        home = root / "nodes" / member.name
        member_init(root / "members" / member.name, member.name)
        setup.init(
            home, root / "members" / member.name, member.name, member.folder, threads=1, residency=HERE
        )
        if watched is not None:
            near = stack.enter_context(Recorder(near, root / "capture" / member.name)).port
            watched.prepare(home, member.folder)
        give_card(home, member.folder)
        _join(home, f"http://127.0.0.1:{near}", operator.invite(core, member.name), root, member.name)
        homes.append(home)
    for home in homes:
        log = root / f"{home.name}.log"
        processes.append((log, _spawn(stack, log, "node", "run", str(home), "--once")))
    for log, process in processes:
        if process.wait(WAIT_S) != 0:
            sys.exit(f"a node failed: {log.read_text(errors='replace')[-2000:]}")
    accounts = [list(lines.read(Home(home).times)) for home in homes]
    return Outcome(plan=plan, rounds=[account[2:-2] for account in accounts])


def _join(home: Path, url: str, token: str, root: Path, name: str) -> None:
    for _ in range(300):
        try:
            setup.join(home, url, token, member_dir=root / "members" / name)
        except Unreachable:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"the core does not answer: {(root / 'core.log').read_text(errors='replace')[-2000:]}")


def _spawn(stack: ExitStack, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tapestry.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "NO_COLOR": "1"},
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
