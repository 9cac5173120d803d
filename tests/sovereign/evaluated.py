"""Small models and files to evaluate with, made on the spot."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F

from tapestry.training.model import complete_config, fresh
from tapestry.training.tokenizer import Tokenizer

SHAPE: Final = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def model(folder: Path, *, seed: int = 0, lines: Sequence[str] = (), steps: int = 0, **shape: Any) -> Path:
    """A model directory; trained on lines, each a document, for so many steps."""
    words = Tokenizer.byte_level()
    module: Any = fresh(complete_config({**SHAPE, **shape}, words), seed)
    if steps:
        train(module, words, lines, steps)
    module.save_pretrained(folder)
    for name, data in words.files().items():
        (folder / name).write_bytes(data)
    return folder


def train(module: Any, words: Tokenizer, lines: Sequence[str], steps: int) -> None:
    """By rote."""
    rows = [[words.end_id, *words.encode(line)[0].tolist(), words.end_id] for line in lines]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    module.train()
    for _ in range(steps):
        logits = module(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()


def corpus(
    folder: Path, *, documents: int = 30, seed: int = 0, words: Sequence[str] = ("rain", "sun", "snow")
) -> Path:
    """Train and held-out text."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid"):
        texts = [" ".join(draw.choices(words, k=80)) for _ in range(documents)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def jsonl(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
