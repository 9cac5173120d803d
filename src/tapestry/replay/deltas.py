"""Contributions as the plan's codec writes them: read, and looked at.

Shape legend: values are 1-D, fp32, all of one piece of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence

from tapestry.codec.contract import Dense
from tapestry.codec.shards import Section, ShardCodec
from tapestry.errors import ArtifactError
from tapestry.merge import reduce
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import Shard
from tapestry.replay.buffers import Desk
from tapestry.replay.inputs import Source, naming
from tapestry.replay.sketches import Drawing
from tapestry.storage.blobs import BlobStore
from tapestry.tensors.flat import is_finite


class Deltas:
    """Reads the deltas of one run.

    Args:
        store: where they lie.
        codec: how they are written.
    """

    def __init__(self, store: BlobStore, codec: Codec) -> None:
        self._store = store
        self._settings = codec
        self._codec = None if codec.plain else ShardCodec(codec)

    def read(self, desk: Desk, shard: Shard, source: Source) -> Sequence[Section]:
        """What a shard holds, piece by piece; good until the desk reads another."""
        with naming(source.name):
            sha = source.sha(shard.place)
            if self._codec is not None:
                return self._codec.decode(shard, self._store.read(sha, self._settings.most_bytes(shard)))
            values = desk.delta.read(self._store, sha, shard)
        return [
            Section(piece.values, Dense(values[piece.values]), piece.tensor.name) for piece in shard.pieces
        ]

    def screen(
        self,
        desk: Desk,
        shard: Shard,
        source: Source,
        *,
        measured: bool = False,
        drawing: Drawing | None = None,
    ) -> float:
        """The sum of the squares of a shard's values, where it is to be `measured`. Raises `ArtifactError`
        unless the shard is as its codec writes it, with finite values; those become part of `drawing`."""
        squares = 0.0
        sections = self.read(desk, shard, source)
        for section in sections:
            with naming(source.name):
                if not is_finite(section.decoded.values):
                    raise ArtifactError(f"shard {shard.index} holds NaN or infinite values")
                if measured:
                    squares += reduce.dot(section.decoded.values, section.decoded.values)
        if drawing is not None:
            drawing.add(shard, sections)
        return squares

    def peak(self, desk: Desk, shard: Shard, source: Source) -> float:
        """The largest magnitude, for a message."""
        found = [section.decoded.values for section in self.read(desk, shard, source)]
        return max((float(values.abs().max()) for values in found if values.numel()), default=0.0)
