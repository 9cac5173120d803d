"""A run that starts from a model somebody trained: a Hugging Face directory with safetensors.

The directory is read tensor by tensor, rows at a time, so a model of any size needs the memory of one
shard. Only numbers and the tokenizer are taken; code and pickle files are never opened. Tokens may be added;
see `vocabulary`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tapestry.errors import ModelError
from tapestry.host import files
from tapestry.protocol.artifact import Model, State
from tapestry.protocol.layout import Layout, Piece
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
from tapestry.training.tokenizer import Tokenizer
from tapestry.training.vocabulary import Extension, Told, extend

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
"""What an index may name: a file beside it."""
CARD: Final = "README.md"
MAX_JSON_BYTES: Final = 64 << 20
MAX_CARD_BYTES: Final = 4 << 20
TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
COMPUTED: Final = re.compile(r"(^|\.)rotary_emb\.(original_)?inv_freq$")
"""Buffers that old files hold and every model computes anew."""


def adopt(
    run: str,
    folder: Path,
    shard_bytes: int,
    store: BlobSink,
    *,
    fragments: int = 1,
    licence: str | None = None,
    add_tokens: Path | None = None,
    told: Told | None = None,
) -> tuple[Model, Layout, State, int]:
    """Make the state a run starts from out of a model directory, and put all of it into `store`.

    Args:
        run: the run's name.
        folder: with `config.json`, `tokenizer.json` and weights as safetensors, fp32, bf16 or fp16.
        shard_bytes: data bytes a shard holds at most.
        store: a blob folder.
        fragments: into which the model is cut.
        licence: the model's; what the front matter of its README.md says, if None.
        add_tokens: file of tokens to add to the tokenizer and the model; see `vocabulary.extend`.
        told: learns what became of them.

    Returns:
        Model, layout, state, and the number of trained parameters.

    Raises:
        ModelError: names the file or tensor that is missing, damaged or not supported; or the line of a token
            that cannot be added.
    """
    given = _json_object(folder / CONFIG)
    licence = licence or _licence(folder / CARD)
    architecture = Architecture.of(given)
    settings = configured(architecture, {k: v for k, v in given.items() if k not in LEFT_OUT})
    rows = settings.vocab_size
    words, added = _words(folder, settings), None
    if add_tokens is not None:
        added = extend(words, add_tokens, told=told)
        words = added.tokenizer
        _grow(settings, added)
    try:
        meta = architecture.without_values(settings)
    except Exception as e:
        raise ModelError(f"{folder / CONFIG} makes no model: {first_line(e)}") from e
    config = {key: value for key, value in settings.to_dict().items() if key not in LEFT_OUT}
    config |= {"architectures": [architecture.model.__name__], "dtype": "float32"}
    layout = layout_of(meta, shard_bytes, fragments)
    tied = set(getattr(meta, "all_tied_weights_keys", None) or ())
    growth = None if added is None else _Growth(added, _tables(meta), rows)
    with _Weights.open(folder, growth) as weights:
        weights.check(layout, tied)
        return record(run, layout, weights.shards(layout), config, words, store, licence=licence)


@dataclass(frozen=True)
class _Growth:
    """Tokens a model is given more than its files have.

    Args:
        extension: the tokens.
        tables: tensors with a row for each token: the input embedding, and an output head of its own.
        rows: of each of them in the files.
    """

    extension: Extension
    tables: frozenset[str]
    rows: int


def _words(folder: Path, settings: Any) -> Tokenizer:
    end = settings.eos_token_id
    words = read_tokenizer(folder, end_id=end[0] if isinstance(end, list) and end else end)
    if settings.vocab_size < words.size:
        raise ModelError(
            f"{folder}: the tokenizer has {words.size} tokens, the model only {settings.vocab_size}",
            hint="take the tokenizer that belongs to the model",
        )
    return words


def _grow(settings: Any, added: Extension) -> None:
    """Give a configuration a row for each token. Raises `ModelError` where an added one has a duty there."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(settings, key, None)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and added.has_id(number):
                raise ModelError(
                    f"{key} {number} in {CONFIG} is no token of the tokenizer, and would become an added one",
                    hint=f"take {key} out of {CONFIG}, or give tokenizer.json that token",
                )
    settings.vocab_size = max(settings.vocab_size, added.tokenizer.size)


def _tables(meta: nn.Module) -> frozenset[str]:
    model: Any = meta
    tables = [part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())]
    return frozenset(n for n, p in model.named_parameters() if any(p is table for table in tables))


class _Weights:
    """The safetensors files of a directory."""

    def __init__(self, stack: ExitStack, folder: Path, where: dict[str, str], growth: _Growth | None) -> None:
        self._folder = folder
        self._growth = growth
        self._files: dict[str, Any] = {}
        self._where = where
        for name in sorted(set(where.values())):
            try:
                self._files[name] = stack.enter_context(safe_open(folder / name, framework="pt"))
            except (SafetensorError, OSError) as e:
                raise ModelError(f"{folder / name} is no whole safetensors file: {e}") from e
        self._stack = stack

    @classmethod
    def open(cls, folder: Path, growth: _Growth | None = None) -> Self:
        stack = ExitStack()
        try:
            return cls(stack, folder, _places(folder), growth)
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
        if self._growth is not None:
            for name in self._growth.tables:
                wanted[name] = (self._growth.rows, *wanted[name][1:])
        for name, shape in wanted.items():
            if name not in self._where:
                raise ModelError(f"{self._folder} has no tensor {name}, which its {CONFIG} asks for")
            found = tuple(self._slice(name).get_shape())
            if found != shape:
                raise ModelError(f"tensor {name} in {self._folder} is {found}; its {CONFIG} asks for {shape}")
        over = sorted(n for n in set(self._where) - set(wanted) - tied if not COMPUTED.search(n))
        if over:
            name = ascii(over[0])[1:-1]
            raise ModelError(
                f"{self._folder} has tensor {name}, which a model of its {CONFIG} does not have",
                hint="quantized or extended models cannot be adopted",
            )

    def shards(self, layout: Layout) -> Iterator[bytes]:
        """The base's shards as fp32, one at a time. Raises `ModelError` for values that are not finite."""
        for shard in layout.shards:
            data = bytearray(len(shard.header) + shard.data_bytes)
            data[: len(shard.header)] = shard.header
            rows = shards.unpack(shard, data)
            for piece in shard.pieces:
                self._read(piece, rows[piece.tensor.name])
            yield bytes(data)

    def _read(self, piece: Piece, rows: Tensor) -> None:
        name = piece.tensor.name
        part = self._slice(name)
        if not piece.tensor.shape:
            self._copy(name, part[...], rows)
        elif self._growth is None or name not in self._growth.tables:
            self._copy(name, part[piece.row_start : piece.row_stop], rows)
        else:
            there = max(piece.row_start, min(piece.row_stop, self._growth.rows))
            if there > piece.row_start:
                self._copy(name, part[piece.row_start : there], rows[: there - piece.row_start])
            self._growth.extension.fill(part, piece.row_start, rows)

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
            if not isinstance(file, str) or FILE.fullmatch(file) is None:
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
    except (ValueError, RecursionError) as e:
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
