"""Memory that shards are read into and computed in; allocated once, reused for every shard.

Shape legend: `values` is 1-D, fp32, the data of the shard now in the buffer.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from torch import Tensor

from tapestry.errors import ArtifactError
from tapestry.merge import kernel
from tapestry.protocol.layout import ELEMENT_BYTES, Shard
from tapestry.storage.blobs import BlobStore
from tapestry.tensors import flat
from tapestry.tensors.shards import check_header

_ALIGNMENT = 64


class ShardBuffer:
    """Room for one shard. Its data always begins at the same aligned byte, its header right before."""

    def __init__(self, header_bytes: int, data_bytes: int) -> None:
        self._data_start = -(-header_bytes // _ALIGNMENT) * _ALIGNMENT
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory would not count as anonymous
        self._memory = memoryview(mmap.mmap(-1, self._data_start + data_bytes, flags=private))
        self._all = flat.view(self._memory, elements=data_bytes // ELEMENT_BYTES, offset=self._data_start)

    def blob(self, shard: Shard) -> memoryview:
        """The shard's bytes, header and data."""
        return self._memory[self._data_start - len(shard.header) : self._data_start + shard.data_bytes]

    def values(self, shard: Shard) -> Tensor:
        return self._all[: shard.elements]

    def read(self, store: BlobStore, sha: str, shard: Shard) -> Tensor:
        """Fill from a blob, verified by hash and header, and return its values."""
        blob = self.blob(shard)
        if store.read_into(sha, blob) != len(blob):
            raise ArtifactError(f"blob {sha} is smaller than shard {shard.index} of its layout")
        check_header(shard, blob)
        return self.values(shard)

    def zero(self, shard: Shard) -> Tensor:
        """Make it the shard with every value +0."""
        self.blob(shard)[: len(shard.header)] = shard.header
        return self.values(shard).zero_()


class Desk:
    """What one thread needs to merge a shard: four shards' worth of memory and a block."""

    def __init__(self, header_bytes: int, data_bytes: int) -> None:
        self.size = (header_bytes, data_bytes)
        self.delta = ShardBuffer(header_bytes, data_bytes)
        self.total = ShardBuffer(0, data_bytes)
        self.base = ShardBuffer(header_bytes, data_bytes)
        self.momentum = ShardBuffer(header_bytes, data_bytes)
        self.work = kernel.scratch()


def room_for(every: Sequence[Shard]) -> tuple[int, int]:
    """Header and data bytes that hold any of these shards."""
    return (
        max(len(shard.header) for shard in every),
        max(shard.data_bytes for shard in every),
    )
