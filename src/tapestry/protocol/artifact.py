"""Artifacts: manifests of content-addressed shards, and the model they belong to."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import FailFast, Field, StringConstraints

from tapestry.errors import ArtifactError
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import MAX_BLOB_BYTES, Fragment, Layout
from tapestry.protocol.message import Message, Part

ArtifactKind = Literal["base", "outer", "delta"]
"""`base`: parameters. `outer`: the outer optimizer's momentum. `delta`: base − local."""

_HEAD_BYTES: Final = 256
_BLOB_BYTES: Final = 104
"""More than canonical JSON takes for a manifest without shards, and for each of these."""


class Blob(Part):
    """One content-addressed run of bytes."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)]


class Artifact(Message):
    """A tensor state: one blob per shard of its layout, or of one fragment of it, in order."""

    format: Literal["tapestry.artifact"] = "tapestry.artifact"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 32 << 20

    kind: ArtifactKind
    layout: Sha256
    shards: Annotated[tuple[Blob, ...], FailFast(), Field(min_length=1, max_length=200_000)]

    @property
    def total_bytes(self) -> int:
        return sum(blob.bytes for blob in self.shards)

    @classmethod
    def of_layout(
        cls, data: bytes, layout: Layout | Fragment, *, kind: ArtifactKind, codec: Codec = PLAIN
    ) -> Self:
        """A manifest from foreign bytes, held against what it should be of; one that is longer than such a
        manifest can be is not parsed. Raises as `from_bytes` and `check_against`."""
        most = _HEAD_BYTES + _BLOB_BYTES * len(layout.shards)
        if len(data) > most:
            raise ArtifactError(
                f"a manifest of {kind} has {len(data)} bytes; of this layout it has {most} at most"
            )
        artifact = cls.from_bytes(data)
        artifact.check_against(layout, kind=kind, codec=codec)
        return artifact

    def check_against(self, layout: Layout | Fragment, *, kind: ArtifactKind, codec: Codec = PLAIN) -> None:
        """Raise `ArtifactError` unless kind, layout, number and size of the shards are as expected.

        Args:
            layout: of the model; for a delta, the fragment it should be of.
            kind: what it should be.
            codec: how a delta is written.
        """
        if self.kind != kind:
            raise ArtifactError(f"expected an artifact of kind {kind}, got {self.kind}")
        if self.layout != layout.digest:
            raise ArtifactError(f"{kind} has layout {self.layout[:12]}, the run has {layout.digest[:12]}")
        if len(self.shards) != len(layout.shards):
            raise ArtifactError(f"{kind} has {len(self.shards)} shards, its layout {len(layout.shards)}")
        if kind == "delta" and not codec.plain:
            self._check_encoded(layout, codec)
            return
        for shard, blob in zip(layout.shards, self.shards, strict=True):
            if blob.bytes != shard.total_bytes:
                raise ArtifactError(
                    f"shard {shard.index} of {kind} has {blob.bytes} bytes, "
                    f"its layout says {shard.total_bytes}"
                )

    def _check_encoded(self, layout: Layout | Fragment, codec: Codec) -> None:
        for shard, blob in zip(layout.shards, self.shards, strict=True):
            if blob.bytes > (most := codec.most_bytes(shard)):
                raise ArtifactError(
                    f"shard {shard.index} of the delta has {blob.bytes} bytes, "
                    f"the plan's codec writes {most} at most"
                )


class ModelFile(Part):
    """A file of the model directory that is no tensor: configuration, tokenizer."""

    path: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    blob: Blob


class Model(Message):
    """What a run trains: layout of its tensors, and the files beside them (no code among them)."""

    format: Literal["tapestry.model"] = "tapestry.model"
    version: Literal[1] = 1

    task: Literal["causal-lm"] = "causal-lm"
    layout: Sha256
    files: Annotated[tuple[ModelFile, ...], Field(max_length=64)]
    licence: Annotated[str, StringConstraints(max_length=128)] = "Apache-2.0"


class State(Message):
    """A shared base and the outer-optimizer state that belongs to it, hashed together."""

    format: Literal["tapestry.state"] = "tapestry.state"
    version: Literal[1] = 1

    run: Name
    model: Sha256
    merges: Annotated[int, Field(ge=0, le=1 << 40)]
    """How many merges led here; the initial state has 0."""
    base: Sha256
    outer: Sha256 | None
    """None where the outer optimizer keeps no momentum, and in the initial state."""
