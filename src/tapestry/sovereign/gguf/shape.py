"""What GGUF says of a model: keys by architecture, names of tensors, and how their values are stored.

llama.cpp knows each architecture by program, not by data: what its program takes for granted (activation,
scale of attention, which layers see all) must be so in the model, or the file would mean another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gguf
from torch import Tensor

from tapestry.errors import ModelError

Fact = int | float | bool | str | list[str]


@dataclass(frozen=True)
class Family:
    """How llama.cpp runs a model type.

    Args:
        arch: its name there.
        rotated: rows of queries and keys are stored in pairs, as llama.cpp rotates them.
        norm_plus_one: norms are stored with the 1 that the model adds to them.
        activation: of the feed-forward network; nothing else is run.
        head: whether an output head is stored even where it is the embedding.
        biases: which projections may have one.
    """

    arch: gguf.MODEL_ARCH
    rotated: bool = False
    norm_plus_one: bool = False
    activation: str = "silu"
    head: bool = False
    biases: bool = False


_GELU: Final = "gelu_pytorch_tanh"
FAMILIES: Final = {
    "llama": Family(gguf.MODEL_ARCH.LLAMA, rotated=True, biases=True),
    "mistral": Family(gguf.MODEL_ARCH.LLAMA, rotated=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2, biases=True),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3),
    "olmo2": Family(gguf.MODEL_ARCH.OLMO2, head=True),
    "gemma": Family(gguf.MODEL_ARCH.GEMMA, norm_plus_one=True, activation=_GELU),
    "gemma2": Family(gguf.MODEL_ARCH.GEMMA2, norm_plus_one=True, activation=_GELU),
    "gemma3_text": Family(gguf.MODEL_ARCH.GEMMA3, norm_plus_one=True, activation=_GELU),
}
_EVERY_SIXTH: Final = 6
_LOCAL_THETA: Final = 10_000.0


def family(model_type: str) -> Family:
    """Raises `ModelError` for one that is not written as GGUF."""
    if model_type not in FAMILIES:
        raise ModelError(
            f"model_type {model_type!r} is not written as GGUF by this release",
            hint="it writes "
            + ", ".join(FAMILIES)
            + "; take --format hf, which opens in transformers and vLLM",
        )
    return FAMILIES[model_type]


def facts(settings: Any) -> dict[str, Fact]:
    """Keys of a model, less the tokenizer's. `settings` is a configuration of transformers.

    Raises:
        ModelError: llama.cpp would run it otherwise than transformers does.
    """
    kind = family(settings.model_type)
    name = gguf.MODEL_ARCH_NAMES[kind.arch]
    _check(settings, kind)
    heads, width = settings.num_attention_heads, head_width(settings)
    found: dict[str, Fact] = {
        "context_length": settings.max_position_embeddings,
        "embedding_length": settings.hidden_size,
        "block_count": settings.num_hidden_layers,
        "feed_forward_length": settings.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(settings, "num_key_value_heads", None) or heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(settings.rms_norm_eps),
        "rope.dimension_count": width,
        "rope.freq_base": _theta(settings),
        "vocab_size": settings.vocab_size,
    }
    if settings.model_type in ("gemma2", "gemma3_text"):
        found["attention.sliding_window"] = settings.sliding_window
    if settings.model_type == "gemma2":
        found["attn_logit_softcapping"] = float(settings.attn_logit_softcapping)
        found["final_logit_softcapping"] = float(settings.final_logit_softcapping)
    return {f"{name}.{key}": value for key, value in found.items()}


def head_width(settings: Any) -> int:
    return int(getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads)


def stored(settings: Any, names: list[str]) -> dict[str, str]:
    """GGUF's name of each tensor, by its name here; a head that is the embedding has the embedding's.

    Raises:
        ModelError: a tensor for which GGUF has no place.
    """
    kind = family(settings.model_type)
    table = gguf.get_tensor_name_map(kind.arch, settings.num_hidden_layers)
    found: dict[str, str] = {}
    for name in names:
        if settings.tie_word_embeddings and name == "lm_head.weight":
            continue
        to = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if to is None or (name.endswith(".bias") and not kind.biases):
            raise ModelError(f"GGUF has no place for tensor {name} of a {settings.model_type} model")
        found[to] = name
    if settings.tie_word_embeddings and kind.head:
        found["output.weight"] = found["token_embd.weight"]
    return found


def change(settings: Any, name: str) -> Callable[[Tensor], Tensor]:
    """What becomes of the values of a tensor, by its GGUF name."""
    kind = family(settings.model_type)
    if kind.norm_plus_one and name.endswith("norm.weight"):
        return lambda values: values + 1
    for part, count in (("attn_q", settings.num_attention_heads), ("attn_k", settings.num_key_value_heads)):
        if kind.rotated and f".{part}." in name:
            return _paired(count)
    return lambda values: values


def change_back(settings: Any, name: str) -> Callable[[Tensor], Tensor]:
    """The way back of `change`."""
    kind = family(settings.model_type)
    if kind.norm_plus_one and name.endswith("norm.weight"):
        return lambda values: values - 1
    for part, count in (("attn_q", settings.num_attention_heads), ("attn_k", settings.num_key_value_heads)):
        if kind.rotated and f".{part}." in name:
            return _halved(count)
    return lambda values: values


def _paired(heads: int) -> Callable[[Tensor], Tensor]:
    """transformers rotates row i with row i + D/2 of a head; llama.cpp row 2i with row 2i + 1."""
    return lambda v: v.reshape(heads, 2, -1, *v.shape[1:]).transpose(1, 2).reshape(v.shape)


def _halved(heads: int) -> Callable[[Tensor], Tensor]:
    return lambda v: v.reshape(heads, -1, 2, *v.shape[1:]).transpose(1, 2).reshape(v.shape)


def _theta(settings: Any) -> float:
    rope = settings.rope_parameters
    return float(rope.get("full_attention", rope)["rope_theta"])


def _check(settings: Any, kind: Family) -> None:
    for why, wrong in _wrong(settings, kind):
        if wrong:
            raise ModelError(
                f"llama.cpp runs no {settings.model_type} model {why}",
                hint="take --format hf, which opens in transformers and vLLM",
            )


def _wrong(settings: Any, kind: Family) -> list[tuple[str, bool]]:
    """What llama.cpp takes for granted, and whether the model is otherwise."""
    model, layers = settings.model_type, settings.num_hidden_layers
    rope = settings.rope_parameters
    ropes = [rope[key] for key in ("full_attention", "sliding_attention") if key in rope] or [rope]
    activation = getattr(settings, "hidden_activation", None) or settings.hidden_act
    kinds = list(getattr(settings, "layer_types", None) or ["full_attention"] * layers)
    every = {"gemma2": 2, "gemma3_text": _EVERY_SIXTH}.get(model)
    usual = [
        "full_attention" if every is None or (i + 1) % every == 0 else "sliding_attention"
        for i in range(layers)
    ]
    window = getattr(settings, "sliding_window", None)
    partial = any(each.get("partial_rotary_factor", 1) not in (1, None) for each in ropes)
    return [
        (f"with activation {activation}", activation != kind.activation),
        (
            "with scaled or partial rotary positions",
            partial or any(r["rope_type"] != "default" for r in ropes),
        ),
        ("with these layers of sliding attention", kinds != usual),
        (
            "with sliding attention",
            model == "mistral" and (window or 1 << 60) < settings.max_position_embeddings,
        ),
        (
            "with such a scale of attention",
            model in ("gemma2", "gemma3_text") and settings.query_pre_attn_scalar != head_width(settings),
        ),
        (
            "with such rotary positions in its layers of sliding attention",
            model == "gemma3_text" and rope["sliding_attention"]["rope_theta"] != _LOCAL_THETA,
        ),
        (
            "with soft-capped logits" if model == "gemma3_text" else "without soft-capped logits",
            {
                "gemma2": not (
                    settings.to_dict().get("attn_logit_softcapping") and settings.final_logit_softcapping
                ),
                "gemma3_text": bool(
                    settings.to_dict().get("attn_logit_softcapping")
                    or settings.to_dict().get("final_logit_softcapping")
                ),
            }.get(model, False),
        ),
        ("with an output head of its own", model.startswith("gemma") and not settings.tie_word_embeddings),
        ("with a bias in attention", model != "llama" and bool(getattr(settings, "attention_bias", False))),
        ("that attends in both directions", bool(getattr(settings, "use_bidirectional_attention", False))),
    ]
