"""Tokens a second of one node's trainer by how its island is made: ranks, precision, memory, compilation.

Each case is a torchrun of its own with the same batch, so that the figures say what sharing it costs or
gains. Where torch finds a GPU, the cases run on GPUs with one rank each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import say, scratch
from benchmarks.report import Report, Settings, spread
from benchmarks.trainer import write_text
from tapestry.training import launcher

CORES = len(os.sched_getaffinity(0))
SHAPES: dict[str, dict[str, int]] = {
    "quick": {"hidden": 64, "layers": 2, "sequence": 64, "batch": 4},
    "cpu": {"hidden": 512, "layers": 8, "sequence": 256, "batch": 8},
    "cuda": {"hidden": 2048, "layers": 18, "sequence": 2048, "batch": 8},
}


def cases(device: str, gpus: int) -> dict[str, dict[str, Any]]:
    """Settings of `[training]` by name; the first is what the others are held against."""
    one = {"threads": CORES} if device == "cpu" else {"threads": 4}
    shared = (
        {"threads": max(1, CORES // 2), "processes": 2} if device == "cpu" else {"threads": 4, "processes": 2}
    )
    found: dict[str, dict[str, Any]] = {
        "one rank, fp32": one,
        "one rank, fp32, compiled": {**one, "compile": True},
        "one rank, bf16 (FSDP2)": {**one, "precision": "bf16"},
        "one rank, activations recomputed": {**one, "recompute_activations": True},
        "one rank, one sequence at once": {**one, "sequences_at_once": 1},
    }
    if device == "cuda":
        found["one rank, bf16 (FSDP2), compiled"] = {**one, "precision": "bf16", "compile": True}
    if device == "cpu" or gpus > 1:
        found["two ranks, fp32 (FSDP2)"] = shared
        found["two ranks, bf16 (FSDP2)"] = {**shared, "precision": "bf16"}
    return found


def measure(settings: Settings) -> Report:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SHAPES["quick" if settings.quick else device]
    steps = 3 if settings.quick else 12
    report = Report(
        what="island",
        title="One node's trainer on islands of several kinds",
        not_shown=[
            "Two ranks on one machine share its cores and memory; between machines the network counts.",
            "The model is small enough for one rank; what sharding is for are those that are not.",
        ],
    )
    rows, first = [], 0.0
    with scratch() as root:
        write_text(root / "text")
        for name, training in cases(device, torch.cuda.device_count()).items():
            found = _run(root, {**training, "device": device}, shape, steps)
            rates = [found["tokens"] / second for second in found["seconds"]]
            first = first or median(rates)
            peak = f"{found['memory'] / 1e6:.0f}"
            rows.append(
                [name, spread(rates, 0), f"{median(rates) / first:.2f}", peak, f"{found['loss']:.4f}"]
            )
            say(f"{name}: {rows[-1][1]} tokens/s")
            parameters = found["parameters"]
    report.section(
        "Tokens a second",
        f"{parameters / 1e6:.1f} million parameters, batches of {shape['batch']} sequences of "
        f"{shape['sequence']} tokens, on {device}; the first steps are left out. Memory is the largest "
        "RssAnon of a rank, or what a GPU had allocated. The loss is that of the last step.",
    )
    report.table(["case", "tokens/s", "to the first", "MB a rank", "loss"], rows)
    return report


def _run(root: Path, training: dict[str, Any], shape: dict[str, int], steps: int) -> dict[str, Any]:
    request = root / "request.json"
    request.write_text(json.dumps({"training": training, "shape": shape, "steps": steps}))
    command = launcher.command(root, int(training.get("processes", 1)))
    command = [*command[: command.index("tapestry.training")], "benchmarks.island", str(root)]
    variables = {**os.environ, **launcher.environment(training["threads"])}
    variables |= {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONSAFEPATH": None}
    log = root / "island.log"
    with log.open("wb") as out:
        env = {name: value for name, value in variables.items() if value is not None}
        done = subprocess.run(command, stdout=out, stderr=out, env=env, check=False)
    if done.returncode:
        sys.exit(f"{training}: {log.read_text()[-3000:]}")
    found: dict[str, Any] = json.loads((root / "found.json").read_text())
    return found


def rank(root: Path) -> None:
    """One rank of a case."""
    import torch

    from tapestry.host.processes import anonymous_bytes
    from tapestry.protocol.plan import Inner, Plan, Rounds
    from tapestry.storage.blobs import BlobStore
    from tapestry.training.corpus import open_corpus
    from tapestry.training.home import TrainerHome
    from tapestry.training.inner import InnerLoop, Round
    from tapestry.training.island import Island
    from tapestry.training.loaded import Loaded
    from tapestry.training.machine import configure
    from tapestry.training.model import initial_state
    from tapestry.training.optim import InnerOptimizer
    from tapestry.training.settings import TrainerSettings
    from tapestry.training.spool import TrainJob
    from tapestry.training.task import make_task

    request = json.loads((root / "request.json").read_text())
    shape, steps = request["shape"], request["steps"]
    table = {"node": {"name": "n", "member": "m"}, "training": {"corpus": "text", **request["training"]}}
    settings = TrainerSettings.from_table(table, "benchmark")
    configure(settings.threads)
    island = Island.join(settings)
    config = {
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["hidden"] * 8 // 3 // 8 * 8,
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["hidden"] // 64,
        "max_position_embeddings": shape["sequence"],
        "tie_word_embeddings": True,
    }
    store = BlobStore.open(root / f"blobs-{island.rank}")
    model, layout, state, parameters = initial_state("bench", config, "byte", 0, 8 << 20, store)
    plan = Plan(
        run="bench",
        model=model.digest,
        layout=layout.digest,
        initial_state=state.digest,
        parameters=parameters,
        rounds=Rounds(total=1000),
        inner=Inner(steps=steps, sequence_length=shape["sequence"], batch_sequences=shape["batch"]),
    )
    loaded = Loaded.read(store, model.digest, island, settings)
    base = loaded.load_base(store, state.base)
    loaded.module.train()
    corpus = open_corpus(root / "text", loaded.tokenizer, root / f"cache-{island.rank}")
    job = TrainJob(
        run="bench",
        plan=plan,
        round=1,
        merges=0,
        state=state.digest,
        base=state.base,
        train=True,
        evaluate=False,
    )
    task = make_task(plan, corpus, "n")
    current = Round(job, InnerOptimizer(loaded.parameters, plan.inner), task, base, position=0)
    loop, seconds = InnerLoop(TrainerHome(root), settings, island), []
    for _ in range(3 + steps):
        started = time.perf_counter()
        loop.step(current, loaded)
        seconds.append(time.perf_counter() - started)
    on_gpu = island.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else anonymous_bytes(os.getpid())
    found = {
        "tokens": task.batch_tokens,
        "seconds": seconds[3:],
        "memory": max(int(each) for each in island.gather(str(memory).encode())),
        "loss": current.losses[-1],
        "parameters": parameters,
    }
    if island.lead:
        (root / "found.json").write_text(json.dumps(found))
    island.barrier()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    rank(Path(sys.argv[1]))
