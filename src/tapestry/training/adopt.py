"""A run that starts from a model somebody trained: a Hugging Face directory with safetensors.

The directory is read tensor by tensor, rows at a time, so a model of any size needs the memory of one
shard. Only numbers and the tokenizer are taken; code and pickle files are never opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tapestry.errors import ModelError
from tapestry.host import files
from tapestry.protocol.artifact import Model, State
from tapestry.protocol.layout import Layout
from tapestry.tensors import flat, shards
from tapestry.training.architectures import Architecture
from tapestry.training.blobs import BlobSink
from tapestry.training.model import (
    CONFIG,
    LEFT_OUT,
    configured,
    first_line,
    layout_of,
    read_tokenizer,
    record,
)

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
CARD: Final = "README.md"
MAX_JSON_BYTES: Final = 64 << 20
MAX_CARD_BYTES: Final = 4 << 20
TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
COMPUTED: Final = re.compile(r"(^|\.)rotary_emb\.(original_)?inv_freq$")
"""Buffers that old files hold and every model computes anew."""


def adopt(
    run: str, folder: Path, shard_bytes: int, store: BlobSink, *, licence: str | None = None
) -> tuple[Model, Layout, State, int]:
    """Make the state a run starts from out of a model directory, and put all of it into `store`.

    Args:
        run: the run's name.
        folder: with `config.json`, `tokenizer.json` and weights as safetensors, fp32, bf16 or fp16.
        shard_bytes: data bytes a shard holds at most.
        store: a blob folder.
        licence: the model's; what the front matter of its README.md says, if None.

    Returns:
        Model, layout, state, and the number of trained parameters.

    Raises:
        ModelError: names the file or tensor that is missing, damaged or not supported.
    """
    given = _json_object(folder / CONFIG)
    licence = licence or _licence(folder / CARD)
    architecture = Architecture.of(given)
    settings = configured(architecture, {k: v for k, v in given.items() if k not in LEFT_OUT})
    try:
        meta = architecture.without_values(settings)
    except Exception as e:
        raise ModelError(f"{folder / CONFIG} makes no model: {first_line(e)}") from e
    end = settings.eos_token_id
    words = read_tokenizer(folder, end_id=end[0] if isinstance(end, list) and end else end)
    if settings.vocab_size < words.size:
        raise ModelError(
            f"{folder}: the tokenizer has {words.size} tokens, the model only {settings.vocab_size}",
            hint="take the tokenizer that belongs to the model",
        )
    config = {key: value for key, value in settings.to_dict().items() if key not in LEFT_OUT}
    config |= {"architectures": [architecture.model.__name__], "dtype": "float32"}
    layout = layout_of(meta, shard_bytes)
    tied = set(getattr(meta, "all_tied_weights_keys", None) or ())
    with _Weights.open(folder) as weights:
        weights.check(layout, tied)
        return record(run, layout, weights.shards(layout), config, words, store, licence=licence)


class _Weights:
    """The safetensors files of a directory."""

    def __init__(self, stack: ExitStack, folder: Path, where: dict[str, str]) -> None:
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._where = where
        for name in sorted(set(where.values())):
            try:
                self._files[name] = stack.enter_context(safe_open(folder / name, framework="pt"))
            except (SafetensorError, OSError) as e:
                raise ModelError(f"{folder / name} is no whole safetensors file: {e}") from e
        self._stack = stack

    @classmethod
    def open(cls, folder: Path) -> Self:
        stack = ExitStack()
        try:
            return cls(stack, folder, _places(folder))
        except BaseException:
            stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def check(self, layout: Layout, tied: set[str]) -> None:
        """Every tensor of the layout is there with its shape, and no other that would be lost."""
        wanted = {tensor.name: tensor.shape for tensor in layout.tensors}
        for name, shape in wanted.items():
            if name not in self._where:
                raise ModelError(f"{self._folder} has no tensor {name}, which its {CONFIG} asks for")
            found = tuple(self._slice(name).get_shape())
            if found != shape:
                raise ModelError(f"tensor {name} in {self._folder} is {found}; its {CONFIG} asks for {shape}")
        over = sorted(n for n in set(self._where) - set(wanted) - tied if not COMPUTED.search(n))
        if over:
            raise ModelError(
                f"{self._folder} has tensor {over[0]}, which a model of its {CONFIG} does not have",
                hint="quantized or extended models cannot be adopted",
            )

    def shards(self, layout: Layout) -> Iterator[bytes]:
        """The base's shards as fp32, one at a time. Raises `ModelError` for values that are not finite."""
        for shard in layout.shards:
            data = bytearray(len(shard.header) + shard.data_bytes)
            data[: len(shard.header)] = shard.header
            rows = shards.unpack(shard, data)
            for piece in shard.pieces:
                name = piece.tensor.name
                part = self._slice(name)
                values = part[piece.row_start : piece.row_stop] if piece.tensor.shape else part[...]
                self._copy(name, values, rows[name])
            yield bytes(data)

    def _copy(self, name: str, values: Tensor, to: Tensor) -> None:
        if values.dtype not in TYPES:
            raise ModelError(
                f"tensor {name} in {self._folder} is {values.dtype}; it must be fp32, bf16 or fp16"
            )
        to.copy_(values)
        if not flat.is_finite(to.reshape(-1)):
            raise ModelError(f"tensor {name} in {self._folder} holds values that are not finite")

    def _slice(self, name: str) -> Any:
        try:
            return self._files[self._where[name]].get_slice(name)
        except SafetensorError as e:
            raise ModelError(f"{self._folder / self._where[name]} has no tensor {name}: {e}") from e


def _places(folder: Path) -> dict[str, str]:
    """Tensors by name, with the file that holds each."""
    if (folder / INDEX).is_file():
        where = _json_object(folder / INDEX).get("weight_map")
        if not isinstance(where, dict) or not where:
            raise ModelError(f"{folder / INDEX} names no weights")
        for file in where.values():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise ModelError(f"{folder / INDEX} names a file {str(file)[:80]!r}, which is not taken")
        return where
    if (folder / WEIGHTS).is_file():
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                return dict.fromkeys(file.keys(), WEIGHTS)
        except (SafetensorError, OSError) as e:
            raise ModelError(f"{folder / WEIGHTS} is no whole safetensors file: {e}") from e
    pickled = next((p.name for p in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))), None)
    if pickled is not None:
        raise ModelError(
            f"{folder} has its weights in {pickled}, a pickle file, which could run code when opened",
            hint="save the model again as safetensors: model.save_pretrained(folder)",
        )
    raise ModelError(f"{folder} has no {WEIGHTS}", hint="give the directory of a model with safetensors")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(files.read_limited(path, MAX_JSON_BYTES))
    except OSError as e:
        raise ModelError(f"{path} cannot be read: {e.strerror}", hint="give a model's directory") from e
    except ValueError as e:
        raise ModelError(f"{path} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def _licence(card: Path) -> str:
    """What the front matter of a model card says."""
    try:
        text = files.read_limited(card, MAX_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        text = ""
    head = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*[\"']?([^\s\"'#]+)", head[1], re.MULTILINE) if head else None
    if found is None:
        raise ModelError(
            f"the licence of {card.parent} is not known: its {CARD} does not say it",
            hint='state it in the plan file: licence = "..." under [model]',
        )
    return found[1][:128]
