"""The closed list of model types. Their classes are those of transformers itself; code that comes with a
model is never run."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from tapestry.errors import ModelError

_LIST: Final = {
    "llama": ("llama", "LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("mistral", "MistralConfig", "MistralForCausalLM"),
    "qwen2": ("qwen2", "Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3Config", "Qwen3ForCausalLM"),
    "olmo": ("olmo", "OlmoConfig", "OlmoForCausalLM"),
    "olmo2": ("olmo2", "Olmo2Config", "Olmo2ForCausalLM"),
    "olmo3": ("olmo3", "Olmo3Config", "Olmo3ForCausalLM"),
    "gemma": ("gemma", "GemmaConfig", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2Config", "Gemma2ForCausalLM"),
    "gemma3_text": ("gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM"),
}
MODEL_TYPES: Final = tuple(sorted(_LIST))


@dataclass(frozen=True)
class Architecture:
    """A model type's configuration and its causal language model."""

    config: type[Any]
    model: type[Any]

    @classmethod
    def of(cls, config: dict[str, Any]) -> Architecture:
        """That of a `config.json`; llama where it names none. Raises `ModelError` for one not in the list."""
        name = config.get("model_type", "llama")
        if not isinstance(name, str) or name not in _LIST:
            raise ModelError(
                f"model_type {str(name)[:64]!r} is not one this release trains",
                hint="it trains: " + ", ".join(MODEL_TYPES),
            )
        module, config_name, model_name = _LIST[name]
        base = f"transformers.models.{module}"
        configuration = importlib.import_module(f"{base}.configuration_{module}")
        modeling = importlib.import_module(f"{base}.modeling_{module}")
        return cls(getattr(configuration, config_name), getattr(modeling, model_name))

    def make(self, settings: Any) -> nn.Module:
        """The model, fp32 on the current device, with random parameters."""
        model: nn.Module = self.model._from_config(settings, dtype=torch.float32)
        return model

    def without_values(self, settings: Any) -> nn.Module:
        """The model on the meta device: names and shapes, no memory."""
        with torch.device("meta"):
            return self.make(settings)

    def empty(self, settings: Any, device: torch.device, prepare: Callable[[nn.Module], None]) -> nn.Module:
        """The model, fp32 on `device`, with parameters that are not set yet and buffers that are.

        `prepare` sees it before it has memory.
        """
        model: Any = self.without_values(settings)
        prepare(model)
        model.to_empty(device=device)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of random numbers in sharded weights, which come later anyway
            for module in model.modules():
                if module._buffers:
                    model._init_weights(module)
        model.tie_weights()
        made: nn.Module = model
        return made
