"""Error feedback: what a round's encoding did not send is part of the next round's delta.

A residual is kept beside the inner state of the round it is left over from, shard by shard in fp32, so it
becomes durable with the delta by the same rename. `docs/formats/delta.md` gives the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from tapestry.codec.shards import ShardCodec, add_
from tapestry.errors import ArtifactError, HashMismatch, NotFound, TapestryError
from tapestry.host import files
from tapestry.merge.scalars import fp32
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.canonical import sha256
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import Layout, Shard
from tapestry.protocol.plan import Plan
from tapestry.tensors import shards
from tapestry.tensors.flat import ReadBuffer, is_finite
from tapestry.training.blobs import BlobSource
from tapestry.training.home import DELTA, INNER, MAX_RESULT_BYTES, RESULT, TrainerHome, log
from tapestry.training.island import Island
from tapestry.training.spool import TrainJob, TrainResult

RESIDUAL: Final = "residual"
"""Folder of it, in that of the inner state."""
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class Sent:
    """A delta that was sent and merged nowhere, as the plan of its round had it written."""

    delta: Artifact
    codec: Codec
    fragment: int

    def shard(self, shard: Shard, folder: Path, source: BlobSource) -> ReadBuffer:
        """Its bytes: still in the folder of its round, or where the gate put them."""
        blob = self.delta.shards[shard.place]
        try:
            return _read(folder, blob)
        except NotFound:
            return source.read(blob.sha256, blob.bytes)

    @classmethod
    def find(cls, folder: Path, layout: Layout, source: BlobSource) -> Sent:
        """What a finished round sent, if every byte of it is still there; else raises."""
        result = TrainResult.from_bytes(files.read_limited(folder / RESULT, MAX_RESULT_BYTES))
        codec = Plan.from_bytes(source.read(result.plan, Plan.MAX_BYTES)).codec
        fragment = layout.fragment_at(result.merges)
        delta = Artifact.from_bytes(files.read_limited(folder / DELTA, Artifact.MAX_BYTES))
        delta.check_against(fragment, kind="delta", codec=codec)
        found = cls(delta, codec, fragment.number)
        for shard in fragment.shards:
            found.shard(shard, folder, source)
        return found


@dataclass(frozen=True)
class Residual:
    """What the newest finished round of a run before the job's left over.

    Args:
        folder: of that round.
        kept: manifest of what was not sent.
        returned: what was sent, where it was merged nowhere.
    """

    folder: Path
    kept: Artifact
    returned: Sent | None

    @classmethod
    def before(
        cls, home: TrainerHome, job: TrainJob, layout: Layout, source: BlobSource, island: Island
    ) -> Residual | None:
        """The residual that belongs to a job; None where there is none. All ranks together."""
        found = _newest(home, job, layout, source) if island.lead else None
        data = b""
        if found is not None:
            parts = [found.folder.name.encode(), found.kept.to_bytes()]
            if (sent := found.returned) is not None:
                fragment = b"%d" % sent.fragment
                parts += [sent.delta.to_bytes(), sent.codec.model_dump_json().encode(), fragment]
            data = b"\n".join(parts)
        data = island.share(data)
        if not data:
            return None
        name, kept, *returned = data.split(b"\n")
        sent = None
        if returned:
            delta, codec, fragment = returned
            sent = Sent(Artifact.from_bytes(delta), Codec.model_validate_json(codec), int(fragment))
        return cls(home.out / name.decode(), Artifact.from_bytes(kept), sent)

    def read(self, shard: Shard, source: BlobSource) -> Tensor:
        """All values of a shard, with what returns among them. Raises `HashMismatch`, `NotFound`."""
        blob = self.kept.shards[shard.index]
        kept = shards.values(shard, _read(self.folder / INNER / RESIDUAL, blob))
        if self.returned is not None and self.returned.fragment == shard.fragment:
            data = self.returned.shard(shard, self.folder, source)
            add_(ShardCodec(self.returned.codec).decode(shard, data), kept)
        return kept


class Encoder:
    """Turns a round's dense delta into what is sent and what is left over. All ranks make one together.

    Args:
        home: where the round before left its residual.
        source: blobs.
        job: of the round.
        layout: of the model.
        folder: of the round, unfinished.
        island: the ranks.
    """

    def __init__(
        self,
        home: TrainerHome,
        source: BlobSource,
        job: TrainJob,
        layout: Layout,
        folder: Path,
        island: Island,
    ) -> None:
        self._settings = codec = job.plan.codec
        self._codec = None if codec.plain else ShardCodec(codec)
        self._source = source
        self._before: Residual | None = None
        self._layout, self._island = layout, island
        self._sent_of = layout.fragment_at(job.merges).number
        self.keeps_rest = codec.error_feedback is not None
        if self.keeps_rest:
            self._before = Residual.before(home, job, layout, source, island)
            if island.lead:
                (folder / INNER / RESIDUAL).mkdir()
            island.barrier()

    def encode(self, shard: Shard, data: bytearray) -> tuple[bytes | bytearray, bytearray | None]:
        """What is sent of a dense shard, and what is left over (as a dense shard too) where that is kept.

        Raises:
            ArtifactError: a value is not finite.
            HashMismatch, NotFound: the residual is damaged.
        """
        if self._codec is None:
            return data, None
        values = shards.values(shard, data)
        if self._before is not None and (decay := self._settings.error_feedback) is not None:
            values.add_(self._before.read(shard, self._source).mul_(fp32(decay)))
            if not is_finite(values):
                raise ArtifactError(f"shard {shard.index}: residual and delta together are not finite")
        sent = self._codec.encode_(shard, values)
        return sent, data if self.keeps_rest else None

    def others(self) -> Iterator[Shard]:
        """Shards this rank carries over: of the fragments that are not sent this time."""
        if self.keeps_rest:
            rest = [shard for shard in self._layout.shards if shard.fragment != self._sent_of]
            yield from rest[self._island.rank :: self._island.ranks]

    def carry(self, shard: Shard) -> bytearray:
        """What is left over of a shard that is not sent this time. Raises as `encode`."""
        data = bytearray(shard.total_bytes)
        data[: len(shard.header)] = shard.header
        if self._before is not None:
            shards.values(shard, data).copy_(self._before.read(shard, self._source))
        return data


def _newest(home: TrainerHome, job: TrainJob, layout: Layout, source: BlobSource) -> Residual | None:
    """The newest residual before a job, with the delta where that returns.

    A damaged one is passed over, and with it older ones that have become part of what was merged since.
    """
    for number in home.rounds(job.run):
        folder = home.result(job.run, number)
        if number >= job.round or not (folder / INNER / RESIDUAL / MANIFEST).exists():
            continue
        if job.plan.streaming.goes_on and _merges_of(folder) == job.merges:
            continue  # nothing was merged since: what it sent is still in the node's own parameters
        try:
            kept = _whole(folder / INNER / RESIDUAL, layout)
        except (OSError, TapestryError) as e:
            log("residual passed over", run=job.run, round=number, reason=str(e))
            if number <= job.merged_round:
                return None
            continue
        sent = None
        if number > job.merged_round:
            try:
                sent = Sent.find(folder, layout, source)
                log("delta returns", run=job.run, round=number)
            except (OSError, TapestryError) as e:
                log("delta cannot return", run=job.run, round=number, reason=str(e))
        return Residual(folder, kept, sent)
    return None


def _merges_of(folder: Path) -> int | None:
    try:
        return TrainResult.from_bytes(files.read_limited(folder / RESULT, MAX_RESULT_BYTES)).merges
    except (OSError, TapestryError):
        return None


def _whole(folder: Path, layout: Layout) -> Artifact:
    """The manifest of a residual, every file of which is as it was written."""
    found = Artifact.from_bytes(files.read_limited(folder / MANIFEST, Artifact.MAX_BYTES))
    found.check_against(layout, kind="delta")
    for blob in found.shards:
        _read(folder, blob)
    return found


def _read(folder: Path, blob: Blob) -> bytearray:
    path = folder / blob.sha256
    try:
        data = bytearray(files.read_limited(path, blob.bytes))
    except FileNotFoundError as e:
        raise NotFound(f"{path} is not there") from e
    if sha256(memoryview(data)) != blob.sha256:
        raise HashMismatch(f"{path} is not what was written")
    return data
