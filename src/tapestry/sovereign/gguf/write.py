"""A model directory as one GGUF file in fp32, written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from gguf import GGUFValueType as Kind

from tapestry.errors import ModelError
from tapestry.host import files
from tapestry.sovereign.directory import Tensors
from tapestry.sovereign.gguf import shape
from tapestry.sovereign.gguf.words import Words, words
from tapestry.training.architectures import Architecture
from tapestry.training.model import CONFIG, LEFT_OUT, configured, read_tokenizer

MAX_JSON: Final = 64 << 20
SKIPPED: Final = "rotary_emb.inv_freq"
"""Old files hold it; every reader computes it."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the file says of the model's origin."""

    name: str
    owner: str | None = None
    licence: str | None = None
    languages: Sequence[str] = ()


def settings_of(folder: Path) -> Any:
    """The configuration of a model directory. Raises `ModelError`."""
    try:
        value = json.loads(files.read_limited(folder / CONFIG, MAX_JSON))
        given = {key: each for key, each in value.items() if key not in LEFT_OUT}
    except (OSError, ValueError, AttributeError, RecursionError) as e:
        raise ModelError(f"{folder / CONFIG} cannot be read: {e}", hint="give a model's directory") from e
    settings = configured(Architecture.of(given), given)
    return settings


def write(folder: Path, to: Path, said: Said) -> None:
    """Write a model directory to `to`, which no reader knows yet.

    Raises:
        ModelError: GGUF or llama.cpp cannot say what the model is.
        DiskFull: no space.
    """
    settings = settings_of(folder)
    keys = shape.facts(settings)
    tokens = words(
        read_tokenizer(folder, end_id=_first(settings.eos_token_id)),
        settings.vocab_size,
        _first(settings.bos_token_id),
    )
    out = _Writer(to, gguf.MODEL_ARCH_NAMES[shape.family(settings.model_type).arch])
    with Tensors(folder) as tensors, files.full_disk(to):
        try:
            _say(out, said, keys, tokens, settings, _template(folder))
            names = [name for name in tensors.names if not name.endswith(SKIPPED)]
            stored = shape.stored(settings, names)
            for to_name, name in stored.items():
                count = int(np.prod(tensors.shape(name)))
                out.add_tensor_info(to_name, tensors.shape(name), np.dtype(np.float32), count * 4)
            out.write_header_to_file()
            out.write_kv_data_to_file()
            out.write_ti_data_to_file()
            for to_name, name in stored.items():
                changed = shape.change(settings, to_name)(tensors.read(name).to(torch.float32))
                out.write_tensor_data(changed.contiguous().numpy())
        finally:
            out.close()


class _Writer(gguf.GGUFWriter):
    def _pack_val(self, val: Any, vtype: Kind, add_vtype: bool, sub_type: Kind | None = None) -> bytes:
        if vtype is Kind.ARRAY and len(val) == 0 and sub_type is not None:
            # llama.cpp asks for merges even where a tokenizer has none; the library writes no empty list.
            return (
                (self._pack("I", vtype) if add_vtype else b"")
                + self._pack("I", sub_type)
                + self._pack("Q", 0)
            )
        return super()._pack_val(val, vtype, add_vtype, sub_type)


def _say(
    out: _Writer, said: Said, keys: dict[str, shape.Fact], tokens: Words, settings: Any, template: str | None
) -> None:
    out.add_type("model")
    out.add_name(said.name)
    if said.owner:
        out.add_organization(said.owner)
    if said.licence:
        out.add_license(said.licence)
    if said.languages:
        out.add_languages(list(said.languages))
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in keys.items():
        kind = Kind.FLOAT32 if isinstance(value, float) else Kind.UINT32
        out.add_key_value(key, value, kind)
    out.add_tokenizer_model(tokens.model)
    out.add_tokenizer_pre(tokens.pre)
    out.add_token_list(tokens.tokens)
    out.add_token_types(tokens.kinds)
    if tokens.model == "llama":
        out.add_token_scores(tokens.scores)
        out.add_add_space_prefix(tokens.blank_first)
    else:
        out.add_key_value(gguf.Keys.Tokenizer.MERGES, tokens.merges, Kind.ARRAY, sub_type=Kind.STRING)
    for add, number in (
        (out.add_bos_token_id, settings.bos_token_id),
        (out.add_eos_token_id, settings.eos_token_id),
        (out.add_pad_token_id, settings.pad_token_id),
    ):
        if (found := _first(number)) is not None:
            add(found)
    out.add_add_bos_token(tokens.begin)
    out.add_add_eos_token(False)
    if template is not None:
        out.add_chat_template(template)


def _template(folder: Path) -> str | None:
    """The chat template of a model directory, in either of the places where transformers keeps it."""
    if (alone := folder / "chat_template.jinja").is_file():
        return files.read_limited(alone, MAX_JSON).decode("utf-8", "replace")
    try:
        found = json.loads(files.read_limited(folder / "tokenizer_config.json", MAX_JSON)).get(
            "chat_template"
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _first(value: Any) -> int | None:
    """Of several tokens that end a text, GGUF knows one."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if type(value) is int else None
