from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tapestry.errors import HashMismatch, InputError, NotFound
from tapestry.training.export import Lineage, export, sample
from tapestry.training.loaded import Loaded

from .support import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.make(tmp_path / "home")


@pytest.fixture
def lineage(node: Node) -> Lineage:
    return Lineage(plan=node.plan.digest, rounds=3, members=("acme", "zeta"), tokens=123_456)


def test_an_export_opens_in_plain_transformers(node: Node, lineage: Lineage, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = export(node.state, node.store, tmp_path / "out" / "base", lineage)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = Loaded.read(node.store, node.model.digest)
    loaded.load_base(node.store, node.state.base)
    ids = tokenizer("Grüße", return_tensors="pt").input_ids
    assert torch.equal(model(ids).logits, loaded.module(ids).logits)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["base"]
    text = sample(folder, "The ", 12)
    assert text.startswith("The ") and text == sample(folder, "The ", 12)
    assert sample(folder, "The ", 3, temperature=0).startswith("The ")


def test_the_card_states_the_lineage(node: Node, lineage: Lineage, tmp_path: Path) -> None:
    card = (export(node.state, node.store, tmp_path / "base", lineage) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for part in ("license: apache-2.0", "acme, zeta", "123,456", node.state.digest, node.state.base):
        assert part in card


def test_nothing_is_overwritten_and_nothing_is_left_half_done(
    node: Node, lineage: Lineage, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    export(node.state, node.store, folder, lineage)
    with pytest.raises(InputError, match="not empty"):
        export(node.state, node.store, folder, lineage)
    with pytest.raises(NotFound):
        export(node.state.model_copy(update={"base": "0" * 64}), node.store, tmp_path / "other", lineage)
    shard = next(
        path for path in (node.root / "blobs").rglob("*") if path.is_file() and path.stat().st_size > 9999
    )
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(HashMismatch):
        export(node.state, node.store, tmp_path / "other", lineage)
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".*"))
