"""A run starts from a model that transformers itself saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tapestry.errors import ModelError
from tapestry.storage.blobs import BlobStore
from tapestry.training.adopt import adopt
from tapestry.training.architectures import MODEL_TYPES, Architecture
from tapestry.training.loaded import Loaded
from tapestry.training.tokenizer import Tokenizer

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}
IDS = torch.arange(40).reshape(2, 20)


def saved(folder: Path, model_type: str = "llama", *, size: str = "5GB", **more: Any) -> Path:
    """A random model as its own library saves it, with the byte tokenizer and a card."""
    architecture = Architecture.of({"model_type": model_type})
    torch.manual_seed(1)
    dtype = more.pop("dtype", torch.float32)
    model: Any = architecture.make(architecture.config(**{**SMALL, **more})).to(dtype)
    model.save_pretrained(folder, max_shard_size=size)
    for name, data in Tokenizer.byte_level().files().items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit  # indeed\n---\n# A model\n")
    return folder


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_it_computes_what_the_original_does(tmp_path: Path, model_type: str, tied: bool) -> None:
    folder = saved(tmp_path / "model", model_type, tie_word_embeddings=tied)
    store = BlobStore.open(tmp_path / "blobs")
    model, layout, state, parameters = adopt("run", folder, 1 << 12, store)
    assert (model.licence, parameters) == ("mit", layout.elements)
    assert len(layout.shards) > 5
    loaded = Loaded.read(store, state.model)
    loaded.load_base(store, state.base)
    original: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    original.eval()
    loaded.module.eval()
    with torch.no_grad():
        assert torch.equal(loaded.module(input_ids=IDS).logits, original(input_ids=IDS).logits)
    assert sum(p.numel() for p in original.parameters()) == parameters
    loss = loaded.module(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert all(p.grad is not None for p in loaded.parameters.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_several_files_of_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = saved(tmp_path / "model", size="20KB", dtype=dtype)
    assert len(list(folder.glob("*.safetensors"))) > 2
    store = BlobStore.open(tmp_path / "blobs")
    _, _, state, _ = adopt("run", folder, 1 << 12, store, licence="Apache-2.0")
    loaded = Loaded.read(store, state.model)
    assert loaded.model.licence == "Apache-2.0"
    loaded.load_base(store, state.base)
    original: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    for name, parameter in original.named_parameters():
        assert torch.equal(loaded.parameters[name], parameter)


def change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def not_finite(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x7f")


def outside(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def half_a_pair(file: str, tensor: str = "lm_head.weight") -> Callable[[Path], None]:
    """An index with half a surrogate pair in a name, which no terminal or log takes."""

    def harm(folder: Path) -> None:
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            names = [*weights.keys(), tensor]
        index = {"weight_map": dict.fromkeys(names, file)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return harm


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (half_a_pair("\ud800.safetensors"), "not taken"),
        (half_a_pair("model.safetensors", "\ud800"), r"has tensor \\ud800"),
        (pickled, "pickle file"),
        (truncate, "no whole safetensors"),
        (not_finite, "not finite"),
        (outside, "not taken"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "README.md").unlink(), "licence"),
        (change_config(model_type="gpt2"), "gpt2"),
        (change_config(num_hidden_layers=3), "has no tensor model.layers.2"),
        (change_config(num_hidden_layers=1), "has tensor model.layers.1"),
        (change_config(intermediate_size=40), "asks for"),
        (change_config(vocab_size=100), "256|257 tokens"),
    ],
)
def test_what_is_refused(tmp_path: Path, harm: Callable[[Path], None], says: str) -> None:
    folder = saved(tmp_path / "model")
    store = BlobStore.open(tmp_path / "blobs")
    adopt("run", folder, 1 << 12, store)  # positive control
    harm(folder)
    with pytest.raises(ModelError, match=says) as refused:
        adopt("run", folder, 1 << 12, store)
    assert refused.value.message.encode()


def test_code_that_comes_with_a_model_is_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    change_config(auto_map={"AutoModelForCausalLM": "evil.Evil"})(folder)
    (folder / "evil.py").write_text("raise SystemExit('was run')")
    store = BlobStore.open(tmp_path / "blobs")
    model, _, _, _ = adopt("run", folder, 1 << 12, store)
    config = next(file for file in model.files if file.path == "config.json")
    assert "auto_map" not in json.loads(store.read(config.blob.sha256))
