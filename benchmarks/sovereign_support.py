"""Builds as a member runs them, for the programs that measure them: a small base, cards, recipes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tapestry.cli import build_work
from tapestry.sovereign import directory
from tapestry.sovereign.home import BuildHome
from tapestry.training.holding import hold
from tapestry.training.shelf import Shelf
from tapestry.training.tokenizer import Tokenizer

HEAD = """\
format = "tapestry.build"
version = 1
name = "{name}"
owner = "village"
licence = "Apache-2.0"
base = "{base}"
cards = "{cards}"
residency = "DE"
seed = {seed}

[machine]
threads = 1
"""


def make_base(folder: Path, *, seed: int, hidden: int, layers: int, positions: int = 256) -> Path:
    """A byte-level model with random weights; whole or not there."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    if (folder / "done").exists():
        return folder
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=257,
                hidden_size=hidden,
                intermediate_size=3 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=positions,
                tie_word_embeddings=True,
                bos_token_id=256,
                eos_token_id=256,
            )
        )
    model.save_pretrained(folder)
    for name, data in Tokenizer.byte_level().files().items():
        (folder / name).write_bytes(data)
    (folder / "done").touch()
    return folder


def dataset(root: Path, name: str, stage: str, train: Sequence[Mapping[str, str]]) -> Path:
    """A folder of lines with its card; the same again has no effect."""
    folder = root / name
    if (root / "cards" / f"{name}.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("valid", train[:2])):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    Shelf(root / "cards").put(
        hold(folder).values(
            folder,
            name=name,
            description="Made up.",
            owner="village",
            languages=["en"],
            licence="CC0-1.0",
            made="2026-11-22",
            residency=["DE"],
            category="private",
            stages=[stage],
        ),
        replace=True,
    )
    return folder


def stage(kind: str, data: Path, **values: Any) -> str:
    lines = ["", "[[stage]]", f'kind = "{kind}"', f'data = "{data}"', 'method = "full"']
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def build(folder: Path, text: str) -> BuildHome:
    """Run a build to its end, from where it stands."""
    home = BuildHome(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not home.recipe.exists():
        home.recipe.write_text(text, encoding="utf-8")
    build_work.run(folder)
    return home


def digest(home: BuildHome) -> str:
    return directory.weights_digest(home.model)


def accuracy(folder: Path, tokenizer_of: Path, rows: Sequence[Mapping[str, str]]) -> float:
    """Share of pairs of which a model finds the chosen answer likelier, as its chat template asks."""
    from tapestry.sovereign.chat import Chat
    from tapestry.sovereign.models import open_model, open_tokenizer
    from tapestry.training.examples import parse

    model, chat = open_model(folder).eval(), Chat.of(open_tokenizer(tokenizer_of), "", Path())
    right = 0.0
    with torch.inference_mode():
        for row in rows:
            scores = []
            for told in chat.pair(parse(dict(row)), "held-out"):
                ids = torch.tensor([told.ids])
                logits = model(ids).logits[0, :-1].log_softmax(-1)
                each = logits.gather(1, ids[0, 1:, None])[:, 0]
                scores.append(float(each[torch.tensor(told.learnt[1:])].sum()))
            right += 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])
    return right / len(rows)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its interval of 95 % (Student, over seeds)."""
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, mean, mean
    deviation = math.sqrt(sum((each - mean) ** 2 for each in values) / (len(values) - 1))
    half = t[len(values)] * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half
