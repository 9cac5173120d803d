"""What scenes have in common: a small run, its text, and a folder that a web server offers."""

from __future__ import annotations

from pathlib import Path

PLAN = """\
format = "tapestry.plan-file"
version = 1
[run]
name = "{run}"
title = "A small model"
[model.config]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 32
tie_word_embeddings = true
[rounds]
total = {rounds}
min_nodes = 2
quorum = 1
deadline_s = {deadline_s}
[inner]
steps = 16
sequence_length = 32
[evaluation]
max_tokens = 512
[witness]
quorum = 1
"""
CARD = "--license CC0-1.0 --language en --residency CH --category open --stage base"


def words(folder: Path, sentence: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, times in (("train", 600), ("valid", 200)):
        lines = [f"{number} {sentence} {number * 7919 % 1009}\n" for number in range(times)]
        (folder / f"{split}.txt").write_text("".join(lines))
