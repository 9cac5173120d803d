"""A GGUF file held against the model directory it was made from: the same logits, and the same ids of a text.

The file is read with the library for GGUF and run in transformers: by transformers' own reader of GGUF where
that knows the architecture, which has its own idea of how rows are paired and norms are stored; else by the
way back of what was done here. What the file says of the model (sizes, epsilon, positions) is what runs.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import gguf
import torch
from torch import Tensor, nn

from tapestry.errors import ModelError
from tapestry.sovereign.gguf import shape
from tapestry.sovereign.gguf.write import settings_of
from tapestry.training.architectures import Architecture

LIMIT: Final = 1e-4
"""Largest difference of a logit, in fp32."""
ROWS, WIDTH, SEED = 2, 48, 20_240
READ_BY_TRANSFORMERS: Final = frozenset({"llama", "qwen2", "qwen3", "gemma2", "gemma3"})
TEXTS: Final = (
    "It's 1984: they're 12345 miles from home, aren't they?",
    "Die Straße führt über Grüße nach Zürich…",
    "Một ngày đẹp trời, tiếng Việt có dấu.",
    "日本語の文章と中文，一起。",
    "اللغة العربية و हिन्दी भाषा",
    "def f(x):\n    return x  + 1\n\n\n# end",
    "emoji 🙂🚀 and tabs\tand  spaces",
)
_FIELDS: Final = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True)
class Compared:
    """What a comparison has found.

    Args:
        difference: the largest of any logit.
        positions: at which logits were compared.
        texts: of which ids were compared, as transformers reads the file's tokenizer.
        reader: of the weights.
    """

    difference: float
    positions: int
    texts: int
    reader: str


def compare(folder: Path, file: Path) -> Compared:
    """Hold a GGUF file against its model directory.

    Raises:
        ModelError: a logit differs by more than `LIMIT`, or a text gets other ids.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        settings = settings_of(folder)
        reader = gguf.GGUFReader(file)
        told = _told(reader, settings)
        inputs = _inputs(settings)
        wanted = _logits(_original(folder, settings), inputs)
        own = arch_of(reader) not in READ_BY_TRANSFORMERS
        found = _logits(_own(reader, told) if own else _foreign(file, told), inputs)
        difference = float((wanted - found).abs().max())
        if not difference <= LIMIT:
            raise ModelError(
                f"the GGUF file is not the model: a logit differs by {difference:.3g}, more than {LIMIT:g}",
                hint="nothing was written; please report the architecture and its config.json",
            )
        return Compared(difference, inputs.numel(), _same_ids(folder, file), "own" if own else "transformers")
    finally:
        logging.set_verbosity(verbosity)


def arch_of(reader: gguf.GGUFReader) -> str:
    return str(_value(reader, "general.architecture"))


def _inputs(settings: Any) -> Tensor:
    drawing = torch.Generator().manual_seed(SEED)
    width = min(WIDTH, settings.max_position_embeddings)
    return torch.randint(0, settings.vocab_size, (ROWS, width), generator=drawing)


def _logits(model: Any, inputs: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(input_ids=inputs, use_cache=False).logits
    return logits


def _original(folder: Path, settings: Any) -> nn.Module:
    kind = Architecture.of(settings.to_dict()).model
    model: nn.Module = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model


def _foreign(file: Path, told: Any) -> nn.Module:
    """By transformers' own reader."""
    if told.model_type == "mistral":  # which is a llama there, and without its sliding window here
        values = {**told.to_dict(), "model_type": "llama"}
        told = Architecture.of(values).config(**values)
    with redirect_stderr(StringIO()):  # its progress bar asks nobody
        model: nn.Module = Architecture.of(told.to_dict()).model.from_pretrained(
            file.parent, gguf_file=file.name, config=told, dtype=torch.float32, local_files_only=True
        )
    return model


def _own(reader: gguf.GGUFReader, told: Any) -> nn.Module:
    """By the way back of `write`."""
    architecture = Architecture.of(told.to_dict())
    model: Any = architecture.make(told)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("inv_freq")}
    stored = shape.stored(told, sorted(state))
    back = {each.name: each for each in reader.tensors}
    if set(back) != set(stored):
        raise ModelError(f"the GGUF file has other tensors: {sorted(set(back) ^ set(stored))[:3]}")
    with torch.no_grad():
        for to_name, name in stored.items():
            values = torch.from_numpy(back[to_name].data.copy()).reshape(state[name].shape)
            state[name].copy_(shape.change_back(told, to_name)(values))
    made: nn.Module = model
    return made


def _told(reader: gguf.GGUFReader, settings: Any) -> Any:
    """The configuration with what the file says in the place of what the directory says."""
    arch = arch_of(reader)
    values = settings.to_dict()
    for key, field in _FIELDS.items():
        if f"{arch}.{key}" in reader.fields:
            values[field] = _value(reader, f"{arch}.{key}")
    rope = dict(values["rope_parameters"])
    theta = _value(reader, f"{arch}.rope.freq_base")
    if "full_attention" in rope:
        rope["full_attention"] = {**rope["full_attention"], "rope_theta": theta}
    else:
        rope["rope_theta"] = theta
    values["rope_parameters"] = rope
    return Architecture.of(values).config(**values)


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def _same_ids(folder: Path, file: Path) -> int:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    wanted = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    for text in TEXTS:
        if wanted.encode(text, add_special_tokens=False) != found.encode(text, add_special_tokens=False):
            raise ModelError(
                f"the GGUF file's tokenizer gives other ids to {text!r}",
                hint="take --format hf, which opens in transformers and vLLM",
            )
    return len(TEXTS)
