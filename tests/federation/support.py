"""A whole federation on loopback: real core, nodes and trainers, each in its own folder with its own keys.

Core and nodes are the commands a person would type. What dies by a signal is started again with the
same command, as an operator or systemd would.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapestry.core import operator, settings
from tapestry.core.service import Core
from tapestry.core.views import round_record
from tapestry.errors import Unreachable
from tapestry.node import setup
from tapestry.node.member import member_init
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Rounds, Streaming, Witness
from tapestry.protocol.views import RunView
from tapestry.storage.blobs import BlobStore
from tapestry.training.model import initial_state
from tests import warm
from tests.cards import HERE, give_card

warm.PRELOAD.extend(["tapestry.cli.main", "tapestry.core.serve", "tapestry.training.trainer"])
warm.PRELOAD.append("transformers.models.llama.modeling_llama")

CONFIG = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
WORDS = {
    "a": "the loom the warp and the weft ",
    "b": "der Webstuhl die Kette und der Schuss ",
    "c": "le métier la chaîne et la trame ",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_text(folder: Path, words: str) -> None:
    folder.mkdir(parents=True)
    for name, times in (("train.txt", 400), ("valid.txt", 40)):
        lines = (f"{i} {words}{i * 7919 % 1009}\n" for i in range(times))
        (folder / name).write_text("".join(lines), encoding="utf-8")


History = list[tuple[int, str, tuple[tuple[str, str, int], ...]]]


class Federation:
    """Core and nodes below one folder; `keep_going` runs them to the end of the run."""

    cold = "TAPESTRY_TEST_COLD" in os.environ
    """Start them as a person would; otherwise they hold what the tests had loaded before them."""

    def __init__(
        self,
        root: Path,
        *,
        seed_blobs: Path,
        rounds: int,
        steps: int,
        nodes: int = 2,
        where: dict[str, Any] | None = None,
        ranks: dict[str, int] | None = None,
        **of_plan: Any,
    ) -> None:
        """`where` are settings of the core; `ranks` of each node's trainer, 1 where it is not named; the rest
        are fields of the plan."""
        self.root = root
        self.names = sorted(WORDS)[:nodes]
        self.plan = make_plan(seed_blobs, rounds=rounds, steps=steps, nodes=nodes, **of_plan)
        self.port = free_port()
        self.environment: dict[str, dict[str, str]] = {}
        """Extra variables by process: `core`, or a node's name."""
        self.restarts: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes] | warm.Warm] = {}
        self._done: set[str] = set()
        self.url = f"http://127.0.0.1:{self.port}"
        """Where the nodes find the core."""
        self._cores = {"core": self.core}
        operator.init(self.core, settings.make(port=self.port, **(where or {})), title="Test")
        operator.plan(self.core, self.plan, seed_blobs)
        operator.start(self.core, self.plan.run)
        for name in self.names:
            member_init(root / "members" / name, name)
            text = root / "texts" / name
            write_text(text, WORDS[name])
            setup.init(self.node(name), root / "members" / name, name, text, threads=1, residency=HERE)
            give_card(self.node(name), text)
            toml = self.node(name) / "node.toml"
            toml.write_text(
                toml.read_text().replace("processes = 1", f"processes = {(ranks or {}).get(name, 1)}")
            )

    @property
    def core(self) -> Path:
        return self.root / "core"

    def node(self, name: str) -> Path:
        return self.root / "nodes" / name

    def view(self) -> RunView:
        return operator.view(self.core, self.plan.run)

    def start(self) -> None:
        """Start the core, let the nodes join, start the nodes."""
        for core in self._cores:
            self._spawn(core)
        for name in self.names:
            token = operator.invite(self.core, name)
            self._join(name, token)
        for name in self.names:
            self._spawn(name)

    def beside(self, name: str) -> int:
        """Another core process for the same consortium, started with the rest; its port."""
        home, port = self.root / name, free_port()
        shutil.copytree(self.core / "keys", home / "keys")
        text = (self.core / "core.toml").read_text()
        (home / "core.toml").write_text(text.replace(f"port = {self.port}", f"port = {port}"))
        for folder in ("status", "logs"):
            (home / folder).mkdir()
        self._cores[name] = home
        return port

    def kill(self, name: str) -> None:
        """Only the process that was started as `name`; its children see that it is gone."""
        self._processes[name].kill()

    def _join(self, name: str, token: str) -> None:
        """As a person does: the same command again when the core was gone."""
        for _ in range(600):
            if self._processes["core"].poll() is not None:
                assert self._processes["core"].returncode < 0, self.log("core")
                self._spawn("core")
            try:
                setup.join(self.node(name), self.url, token, member_dir=self.root / "members" / name)
            except Unreachable:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"{name} could not join: {self.log('core')}")

    def _spawn(self, name: str) -> None:
        if name in self._cores:
            arguments = ["core", "serve", str(self._cores[name])]
        else:
            arguments = ["node", "run", str(self.node(name)), "--once"]
        log = self.root / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        words = [sys.executable, "-P", "-m", "tapestry.cli.main", *arguments]
        environment = {**os.environ, "NO_COLOR": "1", **self.environment.get(name, {})}
        if not self.cold:
            self._processes[name] = warm.start(words, log=log, environment=environment)
            return
        with log.open("ab") as out:
            self._processes[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
            )

    def log(self, name: str) -> str:
        return (self.root / "logs" / f"{name}.log").read_text(errors="replace")[-4000:]

    def keep_going(self, *, timeout_s: float, between: Callable[[], Any] | None = None) -> None:
        """Until every node has finished; a process that was killed is started again."""
        deadline = time.monotonic() + timeout_s
        while self._done != set(self.names):
            if time.monotonic() > deadline:
                raise AssertionError(f"not finished in {timeout_s} s: {self.view()}\n{self.tails()}")
            for name, process in list(self._processes.items()):
                code = process.poll()
                if code is None or name in self._done:
                    continue
                if code == 0 and name not in self._cores:
                    self._done.add(name)
                elif code < 0:
                    self.restarts[name] = self.restarts.get(name, 0) + 1
                    self._spawn(name)
                else:
                    raise AssertionError(f"{name} ended with {code}:\n{self.log(name)}")
            if between is not None:
                between()
            time.sleep(0.02)

    def tails(self) -> str:
        logs = [*(self.root / "logs").glob("*.log"), *self.root.glob("nodes/*/logs/*.log")]
        return "\n".join(f"== {p}\n{p.read_text(errors='replace')[-1500:]}" for p in sorted(logs))

    def stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def history(self) -> History:
        """Of each committed round: its number, the state after it, and what was merged with which weight."""
        last = self.view().head.round
        with Core.open(self.core) as core:
            records = [round_record(core.journal, core.store, self.plan.run, n + 1) for n in range(last)]
        return [(r.round, r.after, tuple((m.node, m.delta, m.weight) for m in r.merged)) for r in records]


def make_plan(seed_blobs: Path, *, rounds: int, steps: int, nodes: int, **other: Any) -> Plan:
    streaming = other.get("streaming", Streaming())
    model, layout, state, parameters = initial_state(
        "run", CONFIG, "byte", 7, 1 << 14, BlobStore.open(seed_blobs), fragments=streaming.fragments
    )
    fields: dict[str, Any] = {
        "run": "run",
        "model": model.digest,
        "layout": layout.digest,
        "initial_state": state.digest,
        "parameters": parameters,
        "rounds": Rounds(total=rounds, min_nodes=nodes, quorum=nodes, deadline_s=3600.0, reveal_s=3600.0),
        "inner": Inner(
            steps=steps, sequence_length=32, batch_sequences=2, learning_rate=3e-3, warmup_steps=2
        ),
        "merge": Merge(outer_rate=0.7, outer_momentum=0.6, influence_cap=0.9),
        "evaluation": Evaluation(max_tokens=512),
        "witness": Witness(quorum=nodes // 2 + 1 if other.get("sync") != "fetch" else 0),
    }
    return Plan(**{**fields, **other})
