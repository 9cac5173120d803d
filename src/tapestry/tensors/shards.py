"""Shard bytes ↔ tensors by name.

A shard is checked by comparing its header with the one its layout fixes; a foreign header is never
parsed. The protocols below are what `protocol.layout` provides (this floor lies beneath it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tapestry.errors import ArtifactError
from tapestry.tensors.flat import Buffer, ReadBuffer, view


class LogicalTensor(Protocol):
    """A whole tensor of the model state."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class PieceLike(Protocol):
    """Rows `row_start` to `row_stop` of a tensor, at `byte_start` of a shard's data."""

    @property
    def tensor(self) -> LogicalTensor: ...
    @property
    def row_start(self) -> int: ...
    @property
    def row_stop(self) -> int: ...
    @property
    def byte_start(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def elements(self) -> int: ...
    @property
    def values(self) -> slice: ...


class ShardLike(Protocol):
    """One shard of a layout."""

    @property
    def index(self) -> int: ...
    @property
    def header(self) -> bytes: ...
    @property
    def data_bytes(self) -> int: ...
    @property
    def pieces(self) -> Sequence[PieceLike]: ...


def check_header(shard: ShardLike, blob: ReadBuffer) -> None:
    """Raise `ArtifactError` unless size and header are exactly those of the layout."""
    expected = shard.header
    if len(blob) != len(expected) + shard.data_bytes:
        raise ArtifactError(
            f"shard {shard.index} has {len(blob)} bytes, its layout says {len(expected) + shard.data_bytes}"
        )
    if memoryview(blob)[: len(expected)] != expected:
        raise ArtifactError(f"shard {shard.index} does not begin with the header its layout fixes")


def pack(shard: ShardLike, tensors: Mapping[str, Tensor]) -> bytearray:
    """The bytes of a shard, header and data, from whole fp32 tensors by name (any device or stride).

    Raises `ArtifactError` where a tensor is missing, of another shape or not fp32.
    """
    blob = bytearray(len(shard.header) + shard.data_bytes)
    blob[: len(shard.header)] = shard.header
    for piece, rows in zip(shard.pieces, _views(shard, blob), strict=True):
        rows.copy_(_rows(piece, tensors))
    return blob


def unpack(shard: ShardLike, blob: ReadBuffer) -> dict[str, Tensor]:
    """The rows a shard holds, by tensor name, after checking size and header.

    They share the memory of a writable `blob`; a read-only one is copied once.
    """
    views = _views(shard, _checked(shard, blob))
    return {piece.tensor.name: rows for piece, rows in zip(shard.pieces, views, strict=True)}


def values(shard: ShardLike, blob: ReadBuffer) -> Tensor:
    """All values of a shard, flat, in the order of its pieces; else as `unpack`."""
    elements = sum(piece.elements for piece in shard.pieces)
    return view(_checked(shard, blob), elements=elements, offset=len(shard.header))


def _checked(shard: ShardLike, blob: ReadBuffer) -> Buffer:
    """A shard's bytes in memory that may be written, with size and header as its layout fixes them."""
    check_header(shard, blob)
    buffer = bytearray(blob) if memoryview(blob).readonly else blob
    assert not isinstance(buffer, bytes)  # noqa: S101 - bytes are read-only
    return buffer


def _views(shard: ShardLike, blob: Buffer) -> list[Tensor]:
    start = len(shard.header)
    return [
        view(blob, elements=piece.elements, offset=start + piece.byte_start).view(piece.shape)
        for piece in shard.pieces
    ]


def _rows(piece: PieceLike, tensors: Mapping[str, Tensor]) -> Tensor:
    name, shape = piece.tensor.name, piece.tensor.shape
    tensor = tensors.get(name)
    if tensor is None:
        raise ArtifactError(f"the layout names tensor {name}, which is not there")
    if tensor.dtype != torch.float32 or tuple(tensor.shape) != tuple(shape):
        raise ArtifactError(
            f"tensor {name} is {tensor.dtype} {tuple(tensor.shape)}; its layout says float32 {tuple(shape)}"
        )
    return tensor.detach()[piece.row_start : piece.row_stop] if shape else tensor.detach()
