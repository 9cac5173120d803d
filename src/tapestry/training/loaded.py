"""A model in the memory of an island, filled from one base after the other, in place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tapestry.errors import ArtifactError, ModelError
from tapestry.protocol.artifact import Artifact, Model
from tapestry.protocol.canonical import Sha256
from tapestry.protocol.layout import Layout, Shard
from tapestry.tensors import flat, shards
from tapestry.training.blobs import BlobSource
from tapestry.training.island import ISLAND_OF_ONE, Island
from tapestry.training.model import CONFIG, TOKENIZER, empty, model_files, trained
from tapestry.training.own_rows import OwnRows
from tapestry.training.rows import Rows
from tapestry.training.settings import Training
from tapestry.training.tokenizer import Tokenizer


@dataclass(frozen=True)
class Loaded:
    """Every rank holds its rows; all ranks call each method together."""

    digest: Sha256
    model: Model
    layout: Layout
    config: dict[str, Any]
    tokenizer: Tokenizer
    module: nn.Module
    parameters: dict[str, nn.Parameter]
    rows: Rows

    @classmethod
    def read(
        cls,
        source: BlobSource,
        digest: Sha256,
        island: Island = ISLAND_OF_ONE,
        settings: Training | None = None,
    ) -> Loaded:
        """Build the model a `Model` blob describes; its parameters are not set yet.

        Args:
            source: blobs.
            digest: of the `Model`.
            island: over which it is spread.
            settings: precision and the like; a plain fp32 model if None.

        Raises:
            ModelError: files that do not make a model, or parameters that are not the layout's.
            IntegrityError, NotFound: a blob is missing or not what it should be.
        """
        model = Model.from_bytes(source.read(digest, Model.MAX_BYTES))
        layout = Layout.from_bytes(source.read(model.layout, Layout.MAX_BYTES))
        contents = dict(model_files(source, model))
        try:
            config = json.loads(contents[CONFIG])
            end = config.get("eos_token_id")
            end = end[0] if isinstance(end, list) and end else end
            tokenizer = Tokenizer.from_json(contents[TOKENIZER], end_id=end if type(end) is int else None)
        except (KeyError, ValueError, AttributeError, RecursionError) as e:
            raise ModelError(f"model {digest[:12]} lacks a usable {CONFIG} or {TOKENIZER}") from e
        module = empty(config, island, settings)
        parameters = trained(module)
        have = [(name, tuple(p.shape)) for name, p in parameters.items()]
        if have != [(tensor.name, tensor.shape) for tensor in layout.tensors]:
            raise ModelError(f"model {digest[:12]} has other parameters than its layout names")
        rows = Rows(layout, parameters, island)
        return cls(digest, model, layout, config, tokenizer, module, parameters, rows)

    def base(self, source: BlobSource, digest: Sha256) -> Artifact:
        """The manifest of a base. Raises as `read` does."""
        base = Artifact.from_bytes(source.read(digest, Artifact.MAX_BYTES))
        base.check_against(self.layout, kind="base")
        return base

    def take(
        self,
        source: BlobSource,
        base: Artifact,
        over: Sequence[Shard] | None = None,
        *,
        keep: float = 0.0,
    ) -> None:
        """Set parameters to those of a base, shard by shard. Raises as `read` does.

        Args:
            source: blobs.
            base: its manifest.
            over: these shards; all if None.
            keep: what part of the values there were stays.
        """

        def read(shard: Shard) -> bytes:
            blob = base.shards[shard.index]
            return source.read(blob.sha256, blob.bytes)

        self.rows.fill(read, over, keep=keep)

    def load_base(self, source: BlobSource, digest: Sha256) -> Artifact:
        """`take` all of a base, and its manifest."""
        base = self.base(source, digest)
        self.take(source, base)
        return base

    def deltas(
        self,
        source: BlobSource,
        base: Artifact,
        over: Sequence[Shard] | None = None,
        *,
        own: OwnRows | None = None,
    ) -> Iterator[tuple[Shard, bytearray]]:
        """Shards of base − parameters that this rank writes, one at a time; the base is read and verified
        again.

        Args:
            source: blobs.
            base: its manifest.
            over: these shards; all if None.
            own: which rows of embeddings are told of; all if None.

        Raises:
            ArtifactError: a value is not finite.
        """
        for shard, values in self.rows.shards(over):
            blob = base.shards[shard.index]
            data = bytearray(source.read(blob.sha256, blob.bytes))
            old = shards.values(shard, data)
            flat.delta(old, values, out=old)
            if not flat.is_finite(old):
                raise ArtifactError(f"the delta of {_not_finite(shard, data)} is not finite")
            if own is not None:
                own.keep(shard, old)
            yield shard, data


def _not_finite(shard: Shard, data: bytearray) -> str:
    rows = shards.unpack(shard, data)
    return next(name for name, values in rows.items() if not flat.is_finite(values.reshape(-1)))
