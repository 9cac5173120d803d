"""Models by Hugging Face configuration: made, taken from artifacts, and taken apart into artifacts.

Only architectures of a closed list are built, from classes that transformers itself holds; code that
comes with a model is never run. The state of a model is its unique trained parameters in name order: tied
tensors count once, buffers are computed anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from tapestry.errors import ModelError, TapestryError
from tapestry.protocol.artifact import Artifact, Blob, Model, ModelFile, State
from tapestry.protocol.layout import MAX_BLOB_BYTES, Layout, Tensor
from tapestry.tensors import shards
from tapestry.training.architectures import Architecture
from tapestry.training.blobs import BlobSink, BlobSource
from tapestry.training.island import ISLAND_OF_ONE, Island
from tapestry.training.settings import Training
from tapestry.training.sharding import spread
from tapestry.training.tokenizer import Tokenizer

CONFIG: Final = "config.json"
GENERATION: Final = "generation_config.json"
TOKENIZER: Final = "tokenizer.json"
DEFAULT_LICENCE: Final = "Apache-2.0"
"""Of a model that a run makes from scratch."""
_OWN_KEYS: Final = frozenset({"model_type", "architectures", "dtype", "torch_dtype"})
MAX_BLOCKS: Final = 512
"""Of a model; each is made of Python objects, in a millisecond, before its shapes can be compared with
anything. The deepest of the models we know has 126."""
_BLOCK: Final = re.compile(r"\.layers\.(\d+)\.")
LEFT_OUT: Final = frozenset({"transformers_version", "_name_or_path", "torch_dtype", "auto_map"})
"""Keys of a `config.json` that a run does not keep."""


def complete_config(given: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """A whole `config.json` from the values somebody chose.

    What is left out has the architecture's default; vocabulary and end of text are the tokenizer's.

    Raises:
        ModelError: an unknown key or architecture, a bad value, a vocabulary smaller than the tokenizer's.
    """
    architecture = Architecture.of(given)
    known = set(architecture.config().to_dict()) | _OWN_KEYS
    unknown = sorted(set(given) - known)
    if unknown:
        raise ModelError(
            f"model configuration has no key {unknown[0]!r}",
            hint="keys are those of config.json",
        )
    values = {
        "vocab_size": tokenizer.size,
        "bos_token_id": tokenizer.end_id,
        "eos_token_id": tokenizer.end_id,
        **{key: value for key, value in given.items() if key not in _OWN_KEYS},
    }
    config = configured(architecture, values)
    if config.vocab_size < tokenizer.size:
        raise ModelError(
            f"vocab_size {config.vocab_size} is smaller than the tokenizer's {tokenizer.size}",
            hint="leave vocab_size out; it is taken from the tokenizer",
        )
    found = {key: value for key, value in config.to_dict().items() if key not in LEFT_OUT}
    found |= {"architectures": [architecture.model.__name__], "dtype": "float32"}
    return found


def configured(architecture: Architecture, values: dict[str, Any]) -> Any:
    """The architecture's own configuration. Raises `ModelError` for values that it refuses."""
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if isinstance(value := values.get(key), int) and value < 1:
            raise ModelError(f"model configuration: {key} must be at least 1, not {value}")
    if isinstance(blocks := values.get("num_hidden_layers"), int) and blocks > MAX_BLOCKS:
        raise ModelError(f"model configuration: num_hidden_layers is {blocks}; at most {MAX_BLOCKS} may be")
    try:
        return architecture.config(**values)
    except Exception as e:
        raise ModelError(f"model configuration is not valid: {first_line(e)}") from e


def first_line(error: Exception) -> str:
    """Of a foreign error, for a message of ours."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def empty(
    config: dict[str, Any], island: Island = ISLAND_OF_ONE, training: Training | None = None
) -> nn.Module:
    """The model of a configuration, fp32, spread over an island, with parameters that are not set yet.

    Raises:
        ModelError: see `complete_config`.
    """
    architecture = Architecture.of(config)
    settings = configured(architecture, {key: v for key, v in config.items() if key not in _OWN_KEYS})
    try:
        with island.translated():
            return architecture.empty(
                settings, island.device, lambda module: spread(module, island, training)
            )
    except TapestryError:
        raise
    except Exception as e:
        raise ModelError(f"no model can be built from the configuration: {first_line(e)}") from e


def fresh(config: dict[str, Any], seed: int) -> nn.Module:
    """The model of a configuration with random parameters, the architecture's own way."""
    architecture = Architecture.of(config)
    settings = configured(architecture, {key: v for key, v in config.items() if key not in _OWN_KEYS})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return architecture.make(settings)
        except Exception as e:
            raise ModelError(f"no model can be built from the configuration: {first_line(e)}") from e


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Unique trained parameters by name, in the canonical order."""
    return dict(sorted((name, p) for name, p in model.named_parameters() if p.requires_grad))


def layout_of(model: nn.Module, shard_bytes: int, fragments: int = 1) -> Layout:
    """Raises `ModelError` where a row is larger than a shard, or blocks are too few for the fragments."""
    try:
        tensors = tuple(Tensor(name=name, shape=tuple(p.shape)) for name, p in trained(model).items())
        return Layout(shard_bytes=shard_bytes, tensors=tensors, fragments=strided(tensors, fragments))
    except ValueError as e:
        raise ModelError(f"no layout has shards of {shard_bytes} bytes: {first_line(e)}") from e


def strided(tensors: Sequence[Tensor], fragments: int) -> tuple[int, ...]:
    """Which fragment each tensor belongs to; () for one fragment. Raises `ValueError`.

    Blocks take turns (strided, arXiv 2501.18512), and each tensor outside them, largest first, goes where
    there is least.
    """
    if fragments == 1:
        return ()
    blocks = {t.name: int(found[1]) for t in tensors if (found := _BLOCK.search(t.name))}
    owners = {name: block % fragments for name, block in blocks.items()}
    sizes = [sum(t.elements for t in tensors if owners.get(t.name) == each) for each in range(fragments)]
    for tensor in sorted((t for t in tensors if t.name not in owners), key=lambda t: (-t.elements, t.name)):
        owners[tensor.name] = sizes.index(min(sizes))
        sizes[owners[tensor.name]] += tensor.elements
    if not all(sizes):
        raise ValueError(f"the model has too few blocks for {fragments} fragments")
    return tuple(owners[tensor.name] for tensor in tensors)


def read_tokenizer(where: str | Path, *, end_id: int | None = None) -> Tokenizer:
    """`byte`, or the tokenizer of a Hugging Face folder or `tokenizer.json`. Raises `ModelError`."""
    if where == "byte":
        return Tokenizer.byte_level()
    path = Path(where)
    if path.is_dir():
        path = path / TOKENIZER
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ModelError(
            f"no tokenizer at {path}: {e.strerror}", hint="give a folder with tokenizer.json"
        ) from e
    return Tokenizer.from_json(data, end_id=end_id)


def initial_state(
    run: str,
    hf_config: dict[str, Any],
    tokenizer: str | Path,
    seed: int,
    shard_bytes: int,
    store: BlobSink,
    *,
    fragments: int = 1,
) -> tuple[Model, Layout, State, int]:
    """Make the state a run starts from, and put all of it into `store`: shards, manifests, model files.

    Args:
        run: the run's name.
        hf_config: values of the Hugging Face configuration; what is left out has its default.
        tokenizer: `byte`, or a folder or file with a `tokenizer.json` to adopt.
        seed: of the random parameters. They are an artifact from then on and never drawn again.
        shard_bytes: data bytes a shard holds at most.
        store: a blob folder.
        fragments: into which the model is cut.

    Returns:
        Model, layout, state, and the number of trained parameters.

    Raises:
        ModelError: the configuration or the tokenizer.
    """
    words = read_tokenizer(tokenizer, end_id=hf_config.get("eos_token_id"))
    config = complete_config(hf_config, words)
    module = fresh(config, seed)
    layout = layout_of(module, shard_bytes, fragments)
    parameters = trained(module)
    packed = (bytes(shards.pack(shard, parameters)) for shard in layout.shards)
    return record(run, layout, packed, config, words, store, licence=DEFAULT_LICENCE)


def record(
    run: str,
    layout: Layout,
    base_shards: Iterable[bytes],
    config: dict[str, Any],
    words: Tokenizer,
    store: BlobSink,
    *,
    licence: str,
) -> tuple[Model, Layout, State, int]:
    """Put an initial state into `store`: its shards, one at a time, manifests and model files."""
    blobs = [Blob(sha256=store.put(data), bytes=len(data)) for data in base_shards]
    base = Artifact(kind="base", layout=layout.digest, shards=tuple(blobs))
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    contents = {CONFIG: _json(config), GENERATION: _json(generation), **words.files()}
    files = []
    for name, data in sorted(contents.items()):
        files.append(ModelFile(path=name, blob=Blob(sha256=store.put(data), bytes=len(data))))
    model = Model(layout=layout.digest, files=tuple(files), licence=licence)
    state = State(run=run, model=model.digest, merges=0, base=base.digest, outer=None)
    for message in (layout, base, model, state):
        store.put(message.to_bytes())
    return model, layout, state, layout.elements


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def model_files(source: BlobSource, model: Model) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files beside a model's tensors."""
    for file in model.files:
        yield file.path, source.read(file.blob.sha256, min(file.blob.bytes, MAX_BLOB_BYTES))
