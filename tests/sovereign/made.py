"""Tiny bases and derivatives, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tapestry.sovereign import models
from tapestry.sovereign.directory import files_beside, weights_digest
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage, Stage
from tapestry.training.architectures import Architecture
from tapestry.training.tokenizer import Tokenizer

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}


def base(
    folder: Path, model_type: str = "llama", *, seed: int = 1, words: Tokenizer | None = None, **config: Any
) -> Path:
    """A model with random weights and no norm at its first value, so that a norm stored wrongly shows."""
    words = words or Tokenizer.byte_level()
    values = {**SMALL, "vocab_size": words.size, "model_type": model_type, **config}
    architecture = Architecture.of(values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = architecture.make(architecture.config(**values))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    save(module, folder, words)
    return folder


def save(module: Any, folder: Path, words: Tokenizer) -> None:
    with models.quiet():
        module.save_pretrained(folder)
    for name, data in words.files().items():
        (folder / name).write_bytes(data)


def changed(folder: Path, to: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A model with other weights."""
    module = models.open_model(folder)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(change(name, parameter))
    save(module, to, Tokenizer.from_json((folder / "tokenizer.json").read_bytes()))
    return to


def noise(seed: int, scale: float = 0.02) -> Callable[[str, torch.Tensor], torch.Tensor]:
    drawing = torch.Generator().manual_seed(seed)
    return lambda _, values: values + scale * torch.randn(values.shape, generator=drawing)


STAGE = Stage(
    kind="cpt", method="full", datasets=(), withheld=0, settings="1" * 64, seed=0, steps=3, tokens=300,
    loss_first=2.0, loss_last=1.5, began="2026-01-01T00:00:00.000Z", ended="2026-01-01T00:01:00.000Z",
    result="2" * 64,
)  # fmt: skip


def finished(root: Path, old: Path, *, owner: str = "ada", name: str = "letters", **more: Any) -> BuildHome:
    """Give a folder with a model/ (and perhaps an adapter/) the lineage of a finished build on `old`."""
    home = BuildHome(root)
    fields: dict[str, Any] = {
        "name": name, "owner": owner, "level": "national", "licence": "Apache-2.0", "languages": ("de",),
        "base": models.base_of(old), "parent": None, "recipe": "3" * 64, "constitution": None,
        "stages": (STAGE,),
        "weights": weights_digest(home.model), "adapter": home.adapter.is_dir(), "release": "0",
        "files": files_beside(home.model),
        "adapter_files": files_beside(home.adapter) if home.adapter.is_dir() else None,
    }  # fmt: skip
    Lineage(**(fields | more)).save(home.lineage)
    return home


def with_adapter(old: Path, root: Path, *, seed: int = 3, targets: Any = "all-linear") -> BuildHome:
    """A build whose derivative is a LoRA adapter with some effect, and the merged model."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), models.quiet():
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
        module: Any = get_peft_model(models.open_model(old), config)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.1 * torch.randn_like(parameter))
        models.write_adapter(module, root / "adapter")
        save(
            module.merge_and_unload(),
            root / "model",
            Tokenizer.from_json((old / "tokenizer.json").read_bytes()),
        )
    return finished(root, old)


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    module = models.open_model(folder)
    if adapter is not None:
        module = models.with_adapter(module, adapter, trainable=False)
    ids = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        found: torch.Tensor = module.eval()(input_ids=ids).logits
    return found
