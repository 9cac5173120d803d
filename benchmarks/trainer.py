"""Speed of the trainer against a bare PyTorch loop of the same model, on the same text.

Two processes take turns, one working while the other waits: a node's trainer that does one round after
the other (its settings for bit identity, progress, checkpoints and checks included), and a loop as one
would write it by hand (same class of model, fused AdamW, clipping, random windows of a tensor in memory,
torch's own defaults).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.cards import HERE, give_card

from benchmarks.report import Report, Settings, spread
from tapestry.training import launcher

THREADS = 1


@dataclass(frozen=True)
class Case:
    """One model and batch."""

    name: str
    hidden: int
    layers: int
    sequence_length: int
    batch_sequences: int
    steps: int
    repeat: int

    @property
    def config(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.hidden * 8 // 3 // 8 * 8,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 4,
            "max_position_embeddings": self.sequence_length,
            "tie_word_embeddings": True,
        }


CASES = (
    Case("demo", 128, 2, 128, 8, steps=10, repeat=61),
    Case("larger", 256, 4, 256, 4, steps=3, repeat=41),
)
QUICK = (Case("tiny", 64, 2, 64, 4, steps=20, repeat=3),)


def write_text(folder: Path) -> None:
    """The standard library's own sources, about 2 MB."""
    folder.mkdir(parents=True)
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    text = [path.read_text(encoding="utf-8", errors="ignore") for path in sources]
    for split, part in (("train", text[: len(text) // 4]), ("valid", text[-3:])):
        lines = [json.dumps({"text": one}) + "\n" for one in part]
        (folder / f"{split}.jsonl").write_text("".join(lines))


@dataclass(frozen=True)
class Times:
    """Of the wall, and of the processor for this process alone, which other work hardly disturbs."""

    wall_s: float
    processor_s: float


class Clock:
    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> Times:
        return Times(time.perf_counter() - self.wall, time.process_time() - self.processor)


class TrainerSide:
    """A node's trainer doing rounds."""

    def __init__(self, root: Path, case: Case) -> None:
        from tapestry.protocol.plan import Inner, Plan, Rounds
        from tapestry.storage.blobs import BlobStore
        from tapestry.training.home import Status, TrainerHome
        from tapestry.training.machine import configure
        from tapestry.training.model import initial_state
        from tapestry.training.settings import TrainerSettings
        from tapestry.training.trainer import Trainer

        configure(THREADS)
        (root / "node.toml").write_text(
            f'[node]\nname = "n"\nmember = "m"\n[training]\ncorpus = "text"\n'
            f'residency = "{HERE}"\nthreads = {THREADS}\n'
        )
        give_card(root, root / "text", replace=True)
        store = BlobStore.open(root / "blobs")
        model, layout, state, parameters = initial_state("bench", case.config, "byte", 0, 8 << 20, store)
        inner = Inner(
            steps=case.steps,
            sequence_length=case.sequence_length,
            batch_sequences=case.batch_sequences,
            learning_rate=1e-3,
        )
        plan = Plan(
            run="bench",
            model=model.digest,
            layout=layout.digest,
            initial_state=state.digest,
            parameters=parameters,
            rounds=Rounds(total=1000),
            inner=inner,
        )
        self.plan, self.state, self.parameters, self.round = plan, state, parameters, 0
        home = TrainerHome(root)
        home.make_folders()
        home.job.parent.mkdir(parents=True, exist_ok=True)  # an agent's, elsewhere
        self.trainer = Trainer(home, TrainerSettings.load(root), Status(home))
        steps, self.times = self.trainer._train, Times(0, 0)

        def timed(*arguments: Any) -> bool:
            clock = Clock()
            done = steps(*arguments)
            self.times = clock.read()
            return done

        self.trainer._train = timed  # type: ignore[method-assign]

    def run(self) -> Times:
        """All steps of one more round."""
        from tapestry.training.spool import TrainJob

        self.round += 1
        job = TrainJob(
            run="bench",
            plan=self.plan,
            round=self.round,
            merges=0,
            state=self.state.digest,
            base=self.state.base,
            train=True,
            evaluate=False,
        )
        self.trainer.home.job.write_bytes(job.to_bytes())
        found = self.trainer._next_job()
        assert found == job
        self.trainer.do(job)
        return self.times


class BareSide:
    """A loop as one would write it by hand."""

    def __init__(self, root: Path, case: Case) -> None:
        import numpy as np
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        self.case = case
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=257, **case.config))
        text = "".join(json.loads(line)["text"] for line in (root / "text" / "train.jsonl").open())
        self.tokens = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).astype(np.int64))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True
        )
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def run(self) -> Times:
        """As many steps as a round has."""
        import torch
        import torch.nn.functional as F

        length = self.case.sequence_length
        clock = Clock()
        self.model.train()
        for _ in range(self.case.steps):
            starts = torch.randint(0, len(self.tokens) - length, (self.case.batch_sequences,))
            batch = torch.stack([self.tokens[start : start + length + 1] for start in starts.tolist()])
            logits = self.model(input_ids=batch[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            loss.item()
        return clock.read()


@contextmanager
def side(
    name: str, root: Path, case: Case, *, through: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process that takes its turns; `through`: arguments of `tapestry.host.exec`, which starts it then."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for variable, value in launcher.environment(THREADS).items():
        if name == "trainer" and value is not None:
            env[variable] = value
    request = json.dumps({"side": name, "root": str(root), "case": asdict(case)})
    started = [sys.executable, "-P", "-m", "tapestry.host.exec", *through, "--"] if through else []
    with (root / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*started, sys.executable, "-m", "benchmarks.trainer", request],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.communicate()
        if process.returncode:
            sys.stderr.write((root / f"{name}.log").read_text())


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the benchmark's process ended")
    reply: dict[str, float] = json.loads(line)
    return reply


def answer(request: dict[str, Any]) -> None:
    """Be one side: a line in, as many steps, a line out."""
    kind = TrainerSide if request["side"] == "trainer" else BareSide
    one = kind(Path(request["root"]), Case(**request["case"]))
    for _ in sys.stdin:
        print(json.dumps({**asdict(one.run()), "parameters": one.parameters}), flush=True)


def compare(case: Case) -> list[object]:
    """A row of the table: both sides in turn."""
    tokens = case.steps * case.batch_sequences * case.sequence_length
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_text(root / "text")
        with side("trainer", root, case) as trainer, side("bare", root, case) as bare:
            for number in range(case.repeat + 1):
                sides = [("trainer", trainer), ("bare", bare)]
                for name, process in sides if number % 2 else reversed(sides):
                    reply = ask(process)
                    if number:  # the first is the warm-up
                        for clock in ("wall_s", "processor_s"):
                            found.setdefault((name, clock), []).append(tokens / reply[clock])
                    parameters = int(reply["parameters"])
    row: list[object] = [case.name, f"{parameters / 1e6:.2f} M"]
    row.append(f"{case.batch_sequences} × {case.sequence_length}")
    for clock in ("wall_s", "processor_s"):
        sides = [sorted(found[name, clock]) for name in ("trainer", "bare")]
        row += [spread(rates, 0) for rates in sides]
        fast = [rates[int(0.9 * len(rates))] for rates in sides]
        row += [f"{median(sides[0]) / median(sides[1]):.2f}", f"{fast[0] / fast[1]:.2f}"]
    return row


def measure(settings: Settings) -> Report:
    report = Report(
        what="trainer",
        title="Speed of the trainer against a bare PyTorch loop",
        not_shown=(
            "more than one thread, accelerators, or models whose steps take seconds",
            "time between rounds: loading the base, evaluation, writing the delta",
        ),
    )
    rows = [compare(case) for case in (QUICK if settings.quick else CASES)]
    report.section(
        "Tokens per second, one thread",
        "The trainer's steps include progress, the look for a newer job, the check of the loss, and the "
        "settings that make training repeatable to the bit (`torch.use_deterministic_algorithms`, "
        "`MKL_CBWR=AUTO`). Both processes work in many short turns. On a machine with other work the ratio "
        "of the 9th deciles (turns that nothing disturbed) says more than that of the medians; it should be "
        "0.95 or more.",
    )
    columns = ["model", "parameters", "batch"]
    for clock in ("s", "s of processor"):
        columns += [f"trainer, tokens/{clock}", f"bare loop, tokens/{clock}"]
        columns += ["ratio of medians", "ratio of 9th deciles"]
    report.table(columns, rows)
    return report


if __name__ == "__main__":
    answer(json.loads(sys.argv[1]))
