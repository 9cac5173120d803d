"""How a model state is cut into shards.

A layout is the list of tensors (name, shape; values are always fp32) in name order and the number
of data bytes a shard holds at most. It fixes every shard to the byte: which rows of which tensors,
the safetensors header, the size. So a foreign shard is checked by comparing its header with the
one expected, and nothing of a hostile header is ever parsed. See docs/formats/artifact.md.

Shape legend: a tensor of shape (rows, ...) is cut along its first axis only; a scalar is one row.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, repeat
from math import prod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import FailFast, Field, StringConstraints, field_validator, model_validator

from tapestry.errors import ArtifactError
from tapestry.protocol.message import Message, Part

ELEMENT_BYTES = 4
MIN_SHARD_BYTES = 1 << 12
MAX_SHARD_BYTES = 32 << 20
DEFAULT_SHARD_BYTES = 8 << 20
ROWS_TOGETHER = 64
"""A tensor is cut at multiples of so many rows where they fit a shard, so that a codec's blocks of 64 rows
are those of the whole tensor."""
MAX_PIECES = 1 << 14
"""Of one shard, so that its header stays below 6 MiB."""
MAX_SHARDS = 1 << 16
"""Of a layout, so that what a few bytes of it describe can be held in memory."""
MAX_BLOB_BYTES = 64 << 20
"""No blob of any kind is larger, so that a limit can be enforced before its kind is known."""

TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$")]
FragmentNumber = Annotated[int, Field(ge=0, le=4095)]
Dimension = Annotated[int, Field(ge=1, le=1 << 40)]


class Tensor(Part):
    """One logical tensor of the model state."""

    name: TensorName
    shape: Annotated[tuple[Dimension, ...], Field(max_length=8)]

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row_elements(self) -> int:
        return prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows `row_start` to `row_stop` of one tensor, as they lie in a shard."""

    tensor: Tensor
    row_start: int
    row_stop: int
    byte_start: int
    """Offset in the shard's data, behind the header."""

    @property
    def shape(self) -> tuple[int, ...]:
        if not self.tensor.shape:
            return ()
        return (self.row_stop - self.row_start, *self.tensor.shape[1:])

    @property
    def elements(self) -> int:
        return (self.row_stop - self.row_start) * self.tensor.row_elements

    @property
    def values(self) -> slice:
        """Where the piece's values stand among those of its shard."""
        start = self.byte_start // ELEMENT_BYTES
        return slice(start, start + self.elements)

    @property
    def whole(self) -> bool:
        return self.row_start == 0 and self.row_stop == self.tensor.rows


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What one shard file holds; its bytes are `header` and then fp32 data, little-endian."""

    index: int
    pieces: tuple[Piece, ...]
    fragment: int = 0
    place: int = 0
    """Index among the shards of its fragment."""

    @property
    def elements(self) -> int:
        return sum(piece.elements for piece in self.pieces)

    @property
    def data_bytes(self) -> int:
        return self.elements * ELEMENT_BYTES

    @cached_property
    def header(self) -> bytes:
        """The safetensors header: 8-byte length, then JSON padded with spaces to 8 bytes."""
        table = {
            piece.tensor.name: {
                "dtype": "F32",
                "shape": list(piece.shape),
                "data_offsets": [
                    piece.byte_start,
                    piece.byte_start + piece.elements * ELEMENT_BYTES,
                ],
            }
            for piece in self.pieces
        }
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @property
    def total_bytes(self) -> int:
        return len(self.header) + self.data_bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """Shards that are sent and merged together."""

    number: int
    digest: str
    """Of the layout."""
    shards: tuple[Shard, ...]


class Layout(Message):
    """Tensors of a model state in name order, and where they are cut."""

    format: Literal["tapestry.layout"] = "tapestry.layout"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 16 << 20

    shard_bytes: Annotated[int, Field(ge=MIN_SHARD_BYTES, le=MAX_SHARD_BYTES)] = DEFAULT_SHARD_BYTES
    tensors: Annotated[tuple[Tensor, ...], FailFast(), Field(min_length=1, max_length=200_000)]
    fragments: Annotated[tuple[FragmentNumber, ...], FailFast(), Field(max_length=200_000)] = ()
    """Which fragment each tensor belongs to; none where the model is merged as a whole. No shard lies
    in two."""

    @field_validator("tensors")
    @classmethod
    def _in_name_order(cls, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        names = [tensor.name for tensor in tensors]
        if any(a >= b for a, b in pairwise(names)):
            raise ValueError("tensors are not in strictly ascending name order")
        return tensors

    @model_validator(mode="after")
    def _rows_fit(self) -> Layout:
        for tensor in self.tensors:
            if tensor.row_elements * ELEMENT_BYTES > self.shard_bytes:
                raise ValueError(
                    f"a row of tensor {tensor.name} has {tensor.row_elements * ELEMENT_BYTES} bytes, "
                    f"more than shard_bytes {self.shard_bytes}"
                )
        if self.elements * ELEMENT_BYTES > MAX_SHARDS * self.shard_bytes:  # before a shard is made
            raise ValueError(
                f"{self.elements} values are more than {MAX_SHARDS} shards of {self.shard_bytes} bytes hold"
            )
        return self

    @model_validator(mode="after")
    def _fragments_cover(self) -> Layout:
        if self.fragments and len(self.fragments) != len(self.tensors):
            raise ValueError(f"fragments names {len(self.fragments)} tensors, there are {len(self.tensors)}")
        if lacking := set(range(self.fragment_count)) - set(self.fragments or (0,)):
            raise ValueError(f"no tensor is in fragment {min(lacking)}, though there are later ones")
        return self

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def fragment_count(self) -> int:
        return max(self.fragments, default=0) + 1

    def fragment_at(self, merges: int) -> Fragment:
        """What the merge after so many merges changes: the fragments take turns."""
        return self._by_fragment[merges % len(self._by_fragment)]

    def fragment(self, number: int) -> Fragment:
        """Raises `ArtifactError` where there is no such fragment."""
        if number >= self.fragment_count:
            raise ArtifactError(f"there is no fragment {number}; the layout has {self.fragment_count}")
        return self._by_fragment[number]

    @cached_property
    def _by_fragment(self) -> tuple[Fragment, ...]:
        digest = self.digest
        shards: list[list[Shard]] = [[] for _ in range(self.fragment_count)]
        for shard in self.shards:
            shards[shard.fragment].append(shard)
        return tuple(Fragment(number, digest, tuple(own)) for number, own in enumerate(shards))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Greedy in tensor order: a shard takes whole rows, `ROWS_TOGETHER` at a time where as many fit,
        until `shard_bytes` or `MAX_PIECES` is reached, or a tensor of another fragment comes."""
        shards: list[Shard] = []
        pieces: list[Piece] = []
        used = 0
        places = [0] * self.fragment_count

        def end(fragment: int) -> None:
            shards.append(
                Shard(index=len(shards), pieces=tuple(pieces), fragment=fragment, place=places[fragment])
            )
            places[fragment] += 1
            pieces.clear()

        before = self.fragments[0] if self.fragments else 0
        for tensor, fragment in zip(self.tensors, self.fragments or repeat(0), strict=False):
            if fragment != before:
                end(before)
                before, used = fragment, 0
            row_bytes = tensor.row_elements * ELEMENT_BYTES
            together = ROWS_TOGETHER if ROWS_TOGETHER * row_bytes <= self.shard_bytes else 1
            row = 0
            while row < tensor.rows:
                room, left = (self.shard_bytes - used) // row_bytes, tensor.rows - row
                take = left if left <= room else room - room % together
                if take == 0 or len(pieces) == MAX_PIECES:
                    end(fragment)
                    used = 0
                    continue
                pieces.append(Piece(tensor=tensor, row_start=row, row_stop=row + take, byte_start=used))
                used += take * row_bytes
                row += take
        end(before)
        return tuple(shards)

    @property
    def whole_header(self) -> bytes:
        """The safetensors header of one file with all tensors, behind which the data of all shards follow one
        another: shards hold all rows in tensor order."""
        table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in self.tensors:
            size = tensor.elements * ELEMENT_BYTES
            table[tensor.name] = {
                "dtype": "F32",
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + size],
            }
            offset += size
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text
