"""Which base lies in a model directory: its digest, worked out from the weights alone."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic import ValidationError

from tapestry.errors import EntitlementError, InputError
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.layout import DEFAULT_SHARD_BYTES, MAX_SHARD_BYTES, MIN_SHARD_BYTES, Layout, Tensor

WEIGHTS: Final = "model.safetensors"
MAX_HEADER: Final = 64 << 20
CHUNK: Final = 1 << 20


def base_of(folder: Path, layout: str) -> str:
    """The digest that the weights of a model directory have as a base of this layout.

    Raises:
        InputError: there are no weights, or none that can be read.
        EntitlementError: they are of another layout.
    """
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file:
            tensors, header = _tensors(file)
            found = next((each for each in _layouts(tensors) if each.digest == layout), None)
            if found is None:
                raise EntitlementError(
                    f"{path} is of another model than the certificate's, or of one merged in fragments",
                    hint="look for the base in the model's card, README.md, and give that: --base HASH",
                )
            # Byte for byte: whoever loads the file takes each tensor from where its header says.
            if header != found.whole_header:
                raise InputError(f"{path} is not written as tapestry run export does", hint=_HINT)
            blobs = tuple(_blobs(file, found))
            if file.read(1):
                raise InputError(f"{path} goes on behind its last tensor", hint=_HINT)
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}", hint=_HINT) from e
    return Artifact(kind="base", layout=layout, shards=blobs).digest


_HINT: Final = "give a folder of tapestry run export, or a hash"


def _tensors(file: BinaryIO) -> tuple[tuple[Tensor, ...], bytes]:
    """Names and shapes, and the whole header that states them."""
    head = file.read(8)
    (size,) = struct.unpack("<Q", head) if len(head) == 8 else (0,)
    text = file.read(size) if 0 < size <= MAX_HEADER else b"{}"
    try:
        table: dict[str, Any] = json.loads(text)
        named = sorted((name, each["shape"]) for name, each in table.items() if name != "__metadata__")
        return tuple(Tensor(name=name, shape=tuple(shape)) for name, shape in named), head + text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InputError(f"{WEIGHTS} has no header that can be read", hint=_HINT) from e


def _layouts(tensors: tuple[Tensor, ...]) -> Iterator[Layout]:
    """As these tensors may have been cut: the usual size first, then each power of two."""
    sizes = [DEFAULT_SHARD_BYTES]
    while sizes[-1] * 2 <= MAX_SHARD_BYTES:
        sizes.append(sizes[-1] * 2)
    smaller = DEFAULT_SHARD_BYTES // 2
    while smaller >= MIN_SHARD_BYTES:
        sizes.append(smaller)
        smaller //= 2
    for size in sizes:
        try:
            yield Layout(shard_bytes=size, tensors=tensors)
        except ValidationError:  # a row is larger than such a shard, or there is nothing to cut
            continue


def _blobs(file: BinaryIO, layout: Layout) -> Iterator[Blob]:
    for shard in layout.shards:
        digest, left = hashlib.sha256(shard.header), shard.data_bytes
        while left and (data := file.read(min(CHUNK, left))):
            digest.update(data)
            left -= len(data)
        yield Blob(sha256=digest.hexdigest(), bytes=shard.total_bytes)
