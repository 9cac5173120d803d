"""A node's home with a small model and a little text, as the tests of training need it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.canonical import sha256
from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Retention, Rounds
from tapestry.storage.blobs import BlobStore
from tapestry.tensors import shards
from tapestry.training import launcher
from tapestry.training.model import initial_state
from tapestry.training.spool import TrainJob, TrainResult
from tests.cards import HERE, give_card

CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
RUN = "test-run"


def write_corpus(folder: Path, *, documents: int = 40) -> Path:
    """Train and valid text in two scripts, the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", 1), ("valid", 2)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(documents if split == "train" else 6):
                digest = hashlib.sha256(f"{seed}.{number}".encode()).hexdigest()
                text = f"Document {number}: das Maß ist voll, чашка {digest} and so on. " * 3
                file.write(json.dumps({"text": text}) + "\n")
    return folder


def inner_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an inner state that one rank wrote, read by nothing of ours."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return dict(sorted(found.items()))


@dataclass
class Node:
    """A home, its run and what a test wants to do with them."""

    root: Path
    store: BlobStore
    model: Model
    layout: Layout
    state: State
    plan: Plan

    @classmethod
    def make(
        cls, root: Path, *, steps: int = 6, checkpoint_s: float = 1e6, fragments: int = 1, **inner: Any
    ) -> Node:
        root.mkdir(parents=True, exist_ok=True)
        give_card(root, write_corpus(root / "corpus"))
        (root / "node.toml").write_text(
            '[node]\nmember = "acme"\nname = "acme-1"\n\n[training]\n'
            f'corpus = "corpus"\nresidency = "{HERE}"\nthreads = 1\ncheckpoint_s = {float(checkpoint_s)}\n'
        )
        store = BlobStore.open(root / "blobs")
        model, layout, state, parameters = initial_state(
            RUN, CONFIG, "byte", 7, 1 << 14, store, fragments=fragments
        )
        plan = cls.make_plan(model, layout, state, parameters, steps=steps, **inner)
        store.put(plan.to_bytes())
        store.put(state.to_bytes())
        return cls(root, store, model, layout, state, plan)

    @staticmethod
    def make_plan(
        model: Model, layout: Layout, state: State, parameters: int, *, steps: int = 6, **inner: Any
    ) -> Plan:
        return Plan(
            run=RUN,
            model=model.digest,
            layout=layout.digest,
            initial_state=state.digest,
            parameters=parameters,
            rounds=Rounds(total=3),
            inner=Inner(
                **{
                    "steps": steps,
                    "sequence_length": 32,
                    "batch_sequences": 2,
                    "learning_rate": 1e-2,
                    "warmup_steps": 2,
                    "seed": 5,
                    **inner,
                }
            ),
            merge=Merge(outer="fedavg", outer_rate=1.0, outer_momentum=0.0),
            evaluation=Evaluation(max_tokens=512),
            retention=Retention(inner_rounds=2),
        )

    @property
    def out(self) -> Path:
        return self.root / "spool" / "train" / "out"

    @property
    def job_path(self) -> Path:
        return self.root / "spool" / "job" / "job.json"

    def job(self, round: int = 1, state: State | None = None, **changed: Any) -> TrainJob:
        state = state or self.state
        values: dict[str, Any] = {
            "run": RUN,
            "plan": self.plan,
            "round": round,
            "merges": state.merges,
            "state": state.digest,
            "base": state.base,
            "train": round <= self.plan.rounds.total,
            "evaluate": True,
        }
        return TrainJob(**{**values, **changed})

    def give(self, job: TrainJob) -> None:
        self.job_path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.job_path.with_suffix(".new")
        temporary.write_bytes(job.to_bytes())
        temporary.replace(self.job_path)

    def folder(self, round: int) -> Path:
        return self.out / f"{RUN}.{round}"

    def result(self, round: int) -> TrainResult:
        return TrainResult.from_bytes((self.folder(round) / "result.json").read_bytes())

    def merged(self, round: int, state: State) -> State:
        """The next state if this node is alone: base − delta."""
        delta = Artifact.from_bytes((self.folder(round) / "delta.json").read_bytes())
        base = Artifact.from_bytes(self.store.read(state.base))
        blobs = list(base.shards)
        fragment = self.layout.fragment_at(state.merges)
        for shard, change in zip(fragment.shards, delta.shards, strict=True):
            old = base.shards[shard.index]
            data = bytearray(self.store.read(old.sha256))
            rows = shards.unpack(shard, data)
            for name, moved in shards.unpack(
                shard, (self.folder(round) / change.sha256).read_bytes()
            ).items():
                rows[name].sub_(moved)
            blobs[shard.index] = old.model_copy(update={"sha256": self.store.put(bytes(data))})
        new = Artifact(kind="base", layout=self.layout.digest, shards=tuple(blobs))
        self.store.put(new.to_bytes())
        return state.model_copy(update={"merges": state.merges + 1, "base": new.digest})

    def fingerprints(self, round: int) -> dict[str, str]:
        """What must be the same bytes each time: everything but times and scores in result.json. Of the
        inner state the tensors, since a safetensors file may have its metadata in any order."""
        folder = self.folder(round)
        found = {p.name: sha256(p.read_bytes()) for p in sorted(folder.iterdir()) if p.is_file()}
        del found["result.json"]
        tensors = inner_tensors(folder / "inner")
        return found | {name: sha256(value.numpy().tobytes()) for name, value in tensors.items()}

    def status(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self.root / "status" / "trainer.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return value


def start(node: Node, *, torchrun: bool = False, **env: str) -> subprocess.Popen[bytes]:
    """The trainer as a process of its own, in a session of its own."""
    command = launcher.command(node.root)
    if torchrun:
        command[1:] = launcher.torchrun(node.root, 1, meet=launcher.ONE_HOST, max_restarts=0)
    variables = {**os.environ, **launcher.environment(1), **env}
    with (node.root / "trainer.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env={name: value for name, value in variables.items() if value is not None},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_until(predicate: Callable[[], Any], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Zygote:
    """Trainers that start in a tenth of a second, one at a time; see `zygote`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.zygote"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0

    def start(self, node: Node, **env: str) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"home": str(node.root), "env": env}) + "\n")
        self.process.stdin.flush()
        self.pid = int(self.process.stdout.readline())

    def end(self, number: int | None = signal.SIGKILL) -> int:
        """Send a signal (None: only wait) and return the exit status."""
        assert self.process.stdout
        if number is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
