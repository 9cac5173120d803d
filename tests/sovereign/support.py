"""A base, cards, data and a recipe, small ones, as the tests of builds need them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from tapestry.sovereign import launcher
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.recipe import Machine
from tapestry.sovereign.status import Status
from tapestry.training import launcher as training_launcher
from tapestry.training.holding import hold
from tapestry.training.shelf import Shelf
from tapestry.training.tokenizer import Tokenizer
from tests import warm

HERE = "DE"
WORDS = ("wóda", "zemja", "njebjo", "kniha", "hród", "lěs")


def make_base(folder: Path, *, seed: int = 1, hidden: int = 32) -> Path:
    """A byte-level model with random weights, as `tapestry run export` would write it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=257,
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                bos_token_id=256,
                eos_token_id=256,
            )
        )
    model.save_pretrained(folder)
    for name, data in Tokenizer.byte_level().files().items():
        (folder / name).write_bytes(data)
    return folder


def write_lines(folder: Path, rows: list[dict[str, Any]], *, valid: int = 2) -> Path:
    """Train and valid of a dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[valid:]), ("valid", rows[:valid])):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def texts(count: int = 12) -> list[dict[str, Any]]:
    return [{"text": f"{number} " + " ".join(WORDS[number % 6 :] + WORDS) * 3} for number in range(count)]


def answers(count: int = 10) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Praj {WORDS[n % 6]} {n}!", "completion": f"{WORDS[n % 6]} {n}."} for n in range(count)
    ]


def pairs(count: int = 10) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Što je {WORDS[n % 6]}? {n}",
            "chosen": f"To je {WORDS[n % 6]}.",
            "rejected": f"Njewěm {n}.",
        }
        for n in range(count)
    ]


def give_card(cards: Path, folder: Path, name: str, *stages: str, **described: Any) -> None:
    """A card that permits what a build does with it; `described` are fields of it."""
    fields = {
        "name": name, "description": "Of a test.", "owner": "domowina", "languages": ["hsb"],
        "licence": "CC0-1.0", "made": "2026-11-22", "residency": [HERE], "category": "private",
        "stages": list(stages),
    }  # fmt: skip
    Shelf(cards).put(hold(folder).values(folder, **fields | described), replace=True)


HEAD = """\
format = "tapestry.build"
version = 1
name = "hsb-1"
owner = "domowina"
licence = "Apache-2.0"
languages = ["hsb"]
base = "../base"
cards = "../cards"
residency = "DE"

[machine]
threads = 1
"""
CPT = """
[[stage]]
kind = "cpt"
data = "../texts"
method = "full"
steps = 4
learning_rate = 1e-3
batch = 2
sequence_length = 32
checkpoint_steps = 2
"""
SFT = """
[[stage]]
kind = "sft"
datasets = ["answers"]
steps = 4
learning_rate = 1e-3
batch = 2
sequence_length = 128
checkpoint_steps = 2
lora = { rank = 4, alpha = 8.0, dropout = 0.1 }
"""
DPO = """
[[stage]]
kind = "dpo"
data = "../pairs"
epochs = 1
learning_rate = 1e-3
batch = 2
sequence_length = 128
checkpoint_steps = 2
lora = { rank = 4, alpha = 8.0, dropout = 0.1 }
"""


def make_all(root: Path, recipe: str = HEAD + CPT + SFT + DPO) -> BuildHome:
    """All of it below one folder."""
    make_base(root / "base")
    for name, rows, stage in (
        ("texts", texts(), "private-cpt"),
        ("answers", answers(), "sft"),
        ("pairs", pairs(), "preference"),
    ):
        give_card(root / "cards", write_lines(root / name, rows), name, stage)
    return make_build(root / "build", recipe)


def make_build(folder: Path, recipe: str) -> BuildHome:
    home = BuildHome(folder)
    folder.mkdir(parents=True, exist_ok=True)
    home.recipe.write_text(recipe, encoding="utf-8")
    return home


warm.PRELOAD.extend(["tapestry.sovereign.stages", "tapestry.sovereign.trainers"])
warm.PRELOAD.extend(["transformers.models.llama.modeling_llama", "peft"])


def start(home: BuildHome, **env: str) -> warm.Warm:
    """A build in a process of its own, as the command starts it on one rank."""
    machine = Machine(threads=1)
    given = {**os.environ, **training_launcher.environment(machine.threads), **launcher.OFFLINE}
    given |= {"HF_HOME": str(home.root / "cache"), **env}
    return warm.start(
        launcher.command(home.root, 1),
        log=home.root / "build.log",
        environment={name: value for name, value in given.items() if value is not None},
        folder=str(home.root),
    )


def run(home: BuildHome, **env: str) -> tuple[int, Status]:
    """As `start`, to its end; exit code and what its status says."""
    code = start(home, **env).wait(200)
    status = Status.load(home.status)
    assert status is not None, (home.root / "build.log").read_text()
    return code, status
