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
BEFORE: Final = "before.json"
"""Manifest of the residual that the sent fragment had before; only where a node goes on from its own
parameters. Where no merge follows, what was sent is still in those, and this is what is left over."""


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
        undone: with its fragment, what stands for its shards instead, where no merge followed.
        returned: what was sent, where it was merged nowhere and is not in the parameters.
    """

    folder: Path
    kept: Artifact
    undone: tuple[int, Artifact] | None
    returned: Sent | None

    @classmethod
    def before(
        cls, home: TrainerHome, job: TrainJob, layout: Layout, source: BlobSource, island: Island
    ) -> Residual | None:
        """The residual that belongs to a job; None where there is none. All ranks together."""
        found = _newest(home, job, layout, source) if island.lead else None
        data = b""
        if found is not None:
            data = b"\n".join([found.folder.name.encode(), *found._told()])
        data = island.share(data)
        if not data:
            return None
        name, kept, undone, *returned = data.split(b"\n")
        before = sent = None
        if undone:
            number, _, manifest = undone.partition(b" ")
            before = int(number), Artifact.from_bytes(manifest)
        if returned:
            delta, codec, fragment = returned
            sent = Sent(Artifact.from_bytes(delta), Codec.model_validate_json(codec), int(fragment))
        return cls(home.out / name.decode(), Artifact.from_bytes(kept), before, sent)

    def _told(self) -> list[bytes]:
        """For the other ranks; no part has a line break."""
        parts = [self.kept.to_bytes(), b""]
        if self.undone is not None:
            parts[1] = b"%d " % self.undone[0] + self.undone[1].to_bytes()
        if (sent := self.returned) is not None:
            parts += [sent.delta.to_bytes(), sent.codec.model_dump_json().encode(), b"%d" % sent.fragment]
        return parts

    def read(self, shard: Shard, source: BlobSource) -> Tensor:
        """All values of a shard, with what returns among them. Raises `HashMismatch`, `NotFound`."""
        blob = self.kept.shards[shard.index]
        if self.undone is not None and self.undone[0] == shard.fragment:
            blob = self.undone[1].shards[shard.place]
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
        self.keeps_before = self.keeps_rest and job.plan.streaming.goes_on
        if self.keeps_rest:
            self._before = Residual.before(home, job, layout, source, island)
            if island.lead:
                (folder / INNER / RESIDUAL).mkdir()
            island.barrier()

    def encode(
        self, shard: Shard, data: bytearray
    ) -> tuple[bytes | bytearray, bytearray | None, bytearray | None]:
        """What is sent of a dense shard; what is left over, as a dense shard too, where that is kept; and
        what was left over before, where that is kept.

        Raises:
            ArtifactError: a value is not finite.
            HashMismatch, NotFound: the residual is damaged.
        """
        if self._codec is None:
            return data, None, None
        values = shards.values(shard, data)
        before = self.carry(shard) if self.keeps_before else None
        if self._before is not None and (decay := self._settings.error_feedback) is not None:
            values.add_(self._before.read(shard, self._source).mul_(fp32(decay)))
            if not is_finite(values):
                raise ArtifactError(f"shard {shard.index}: residual and delta together are not finite")
        sent = self._codec.encode_(shard, values)
        return sent, data if self.keeps_rest else None, before

    def others(self) -> Iterator[Shard]:
        """Shards this rank carries over: of the fragments that are not sent this time."""
        if self.keeps_rest:
            rest = [shard for shard in self._layout.shards if shard.fragment != self._sent_of]
            yield from rest[self._island.rank :: self._island.ranks]

    def carry(self, shard: Shard) -> bytearray:
        """What was left over of a shard until now. Raises as `encode`."""
        data = bytearray(shard.total_bytes)
        data[: len(shard.header)] = shard.header
        if self._before is not None:
            shards.values(shard, data).copy_(self._before.read(shard, self._source))
        return data


def _newest(home: TrainerHome, job: TrainJob, layout: Layout, source: BlobSource) -> Residual | None:
    """The newest residual before a job, with the delta where that returns.

    A damaged one is passed over, and with it older ones that have become part of what was merged since; so
    are those that a round on withdrawn text has used up.
    """
    used_up = max((number for number in home.withdrawn_before(job) if number <= job.merged_round), default=0)
    for number, folder in home.before(job):
        if number < used_up:
            return None
        if not (folder / INNER / RESIDUAL / MANIFEST).exists():
            continue
        try:
            kept = _whole(folder / INNER / RESIDUAL, layout)
        except (OSError, TapestryError) as e:
            log("residual passed over", run=job.run, round=number, reason=str(e))
            if number <= job.merged_round:
                return None
            continue
        if (undone := _undone(folder, job, layout)) is not None:
            return Residual(folder, kept, undone, None)
        sent = None
        if number > job.merged_round:
            try:
                sent = Sent.find(folder, layout, source)
                log("delta returns", run=job.run, round=number)
            except (OSError, TapestryError) as e:
                log("delta cannot return", run=job.run, round=number, reason=str(e))
        return Residual(folder, kept, None, sent)
    return None


def _undone(folder: Path, job: TrainJob, layout: Layout) -> tuple[int, Artifact] | None:
    """What the sent fragment had left over before, where no merge has followed."""
    path = folder / INNER / RESIDUAL / BEFORE
    if not job.plan.streaming.goes_on or not path.exists():
        return None
    try:
        merges = TrainResult.from_bytes(files.read_limited(folder / RESULT, MAX_RESULT_BYTES)).merges
        fragment = layout.fragment_at(merges)
        if merges != job.merges:
            return None
        found = Artifact.from_bytes(files.read_limited(path, Artifact.MAX_BYTES))
        found.check_against(fragment, kind="delta")
        for blob in found.shards:
            _read(path.parent, blob)
    except (OSError, TapestryError) as e:
        log("residual passed over", run=job.run, round=job.round, reason=str(e))
        return None
    return fragment.number, found


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
