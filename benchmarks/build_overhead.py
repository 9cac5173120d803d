"""What a build costs over calling trl directly: the same base, data, settings and checkpoints, from the start
of a process to a model on the disk.

`python -m benchmarks.build_overhead ROOT` is the direct program: trl's trainers as their documentation has
them, which read, render and tokenize the same files by themselves.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import preference_task as task
from benchmarks.machine import say, scratch
from benchmarks.report import Report, Settings, spread
from benchmarks.sovereign_support import HEAD, build, dataset, make_base, stage
from tapestry.training.launcher import environment

WANTED: Final = 0.05
STEPS: Final = 200
"""Of each stage."""
NOT_SHOWN: Final = (
    "Models that fill the processor: with larger ones less of the time is ours, and more of it the "
    "arithmetic of both.",
    "A cold disk.",
)
SHAPE: Final[dict[str, Any]] = {
    "batch": 8,
    "sequence_length": 128,
    "learning_rate": 5e-4,
    "checkpoint_steps": 100,
}


def measure(settings: Settings) -> Report:
    report = Report(what="build-overhead", title="A build against trl alone", not_shown=NOT_SHOWN)
    steps, repeat = (6, 1) if settings.quick else (STEPS, settings.repeat or 5)
    ours: list[Took] = []
    theirs: list[Took] = []
    with scratch() as root:
        base = make_base(
            root / "base", seed=3, hidden=64 if settings.quick else 192, layers=2 if settings.quick else 4
        )
        answers = dataset(root, "answers", "sft", task.answers(1600, 0))
        chosen = dataset(root, "pairs", "preference", [pair.row() for pair in task.pairs("train", 1600, 0)])
        text = HEAD.format(name="overhead", base=base, cards=root / "cards", seed=0)
        text += stage("sft", answers, steps=steps, **SHAPE) + stage("dpo", chosen, steps=steps, **SHAPE)
        for number in range(repeat):
            order = (_ours, _theirs) if number % 2 == 0 else (_theirs, _ours)
            for each in order:
                (ours if each is _ours else theirs).append(_taking(each, root, text, steps))
            say(
                f"build_overhead: {number + 1} of {repeat}: {ours[-1].seconds:.1f} s (processor "
                f"{ours[-1].processor:.1f}), directly {theirs[-1].seconds:.1f} s ({theirs[-1].processor:.1f})"
            )
    waits = [100 * (a.seconds / b.seconds - 1) for a, b in zip(ours, theirs, strict=True)]
    works = [100 * (a.processor / b.processor - 1) for a, b in zip(ours, theirs, strict=True)]
    over = median(waits)
    report.section(
        "Time from start to model",
        f"SFT and DPO of {steps} steps each, one thread, all weights; median (smallest to largest) of "
        f"{repeat}, taken in turn, and of the overheads of each turn: what slows the machine for a while "
        "slows both. Both end with a model; a build has also held its data against their cards, written its "
        "lineage and hashed its results, and gives the same bits each time, which trl is not asked for. "
        "Seconds of the processor are of all processes, and depend less on what else runs.",
    )
    report.table(
        ("", "seconds", "seconds of the processor"),
        [
            (name, spread([each.seconds for each in some], 1), spread([each.processor for each in some], 1))
            for name, some in (("build", ours), ("trl directly", theirs))
        ]
        + [("overhead, %", spread(waits, 1), spread(works, 1))],
    )
    report.paragraph(
        f"Overhead: {over:.1f} %; wanted: at most {100 * WANTED:.0f} %. "
        f"Wanted and met: {'yes' if over <= 100 * WANTED else 'no'}."
    )
    return report


@dataclass(frozen=True)
class Took:
    """Of one run, its processes' time of the processor included."""

    seconds: float
    processor: float


def _taking(run: Callable[[Path, str, int], None], root: Path, text: str, steps: int) -> Took:
    for name in ("build", "direct"):
        shutil.rmtree(root / name, ignore_errors=True)
    began, before = time.perf_counter(), _processor()
    run(root, text, steps)
    return Took(time.perf_counter() - began, _processor() - before)


def _processor() -> float:
    """Of this process, and of those that it has waited for."""
    every = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in every)


def _ours(root: Path, text: str, steps: int) -> None:
    build(root / "build", text)


def _theirs(root: Path, text: str, steps: int) -> None:
    # this file is found in the folder that it runs in
    own = {"HF_DATASETS_CACHE": str(root / "direct" / "cache"), "PYTHONSAFEPATH": None}
    given = {**os.environ, **environment(1), **own}
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.build_overhead", str(root), str(steps)],
        env={name: value for name, value in given.items() if value is not None},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if ran.returncode:
        sys.stderr.write(ran.stderr)
        raise SystemExit("the run without Tapestry failed, with what is written above")


def directly(root: Path, steps: int) -> None:
    """What somebody writes who has trl and these files."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from tapestry.sovereign.chat import OWN

    torch.set_num_threads(1)  # nobody asks it for the same bits each time, as a build gives them
    tokenizer = AutoTokenizer.from_pretrained(root / "base")
    tokenizer.chat_template = OWN
    common: dict[str, Any] = {
        "max_steps": steps, "per_device_train_batch_size": SHAPE["batch"],
        "learning_rate": SHAPE["learning_rate"], "lr_scheduler_type": "cosine",
        "max_length": SHAPE["sequence_length"], "save_steps": SHAPE["checkpoint_steps"],
        "save_total_limit": 2, "logging_steps": 1, "bf16": False, "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none", "disable_tqdm": True, "optim": "adamw_torch",
    }  # fmt: skip

    def talk(row: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {"prompt": [{"role": "user", "content": row["prompt"]}]}
        for name in ("completion", "chosen", "rejected"):
            if name in row:
                found[name] = [{"role": "assistant", "content": row[name]}]
        return found

    def rows(name: str) -> Any:
        return load_dataset("json", data_files=str(root / name / "train.jsonl"), split="train").map(talk)

    out = root / "direct"
    model: Any = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
    tuned = SFTTrainer(
        model=model, args=SFTConfig(output_dir=str(out / "sft"), **common), train_dataset=rows("answers"),
        processing_class=tokenizer,
    )  # fmt: skip
    tuned.train()
    tuned.save_model(str(out / "sft" / "result"))
    model = AutoModelForCausalLM.from_pretrained(out / "sft" / "result", dtype=torch.float32)
    preferring = DPOTrainer(
        model=model, args=DPOConfig(output_dir=str(out / "dpo"), **common), train_dataset=rows("pairs"),
        processing_class=tokenizer,
    )  # fmt: skip
    preferring.train()
    preferring.save_model(str(out / "model"))


if __name__ == "__main__":
    directly(Path(sys.argv[1]), int(sys.argv[2]))
