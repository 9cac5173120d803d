"""What a merge reads, looked up and checked before any tensor byte is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from tapestry.errors import ArtifactError, HashMismatch, NotFound, TapestryError
from tapestry.protocol.artifact import Artifact, ArtifactKind, Model, State
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import MAX_BLOB_BYTES, Fragment, Layout
from tapestry.protocol.message import Message
from tapestry.replay.job import MergeJob
from tapestry.storage.blobs import BlobStore

M = TypeVar("M", bound=Message)
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Source:
    """An artifact's shard digests, packed: 32 bytes each, since a large model has very many."""

    name: str
    digests: bytes
    total_bytes: int

    def sha(self, index: int) -> str:
        return self.digests[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES].hex()


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that one merge reads."""

    layout: Layout
    state: State
    base: Source
    momentum: Source | None
    fragment: Fragment
    """That this merge changes."""
    deltas: tuple[Source, ...]
    """In the order of the job's contributions."""

    @property
    def total_bytes(self) -> int:
        return sum(s.total_bytes for s in (self.base, self.momentum, *self.deltas) if s is not None)


def read_message(store: BlobStore, sha: str, kind: type[M]) -> M:
    """The message a blob holds, verified and validated."""
    return kind.from_bytes(store.read(sha, min(kind.MAX_BYTES, MAX_BLOB_BYTES)))


def read_source(
    store: BlobStore, sha: str, layout: Layout | Fragment, kind: ArtifactKind, name: str, codec: Codec = PLAIN
) -> Source:
    """An artifact held against its layout, with every shard blob present at its right size.

    Raises:
        ArtifactError: the manifest does not fit the layout or gives a blob a wrong size.
        NotFound: the manifest or a shard is not in the folder.
        HashMismatch: a shard was damaged; it was removed.
    """
    with naming(name):
        artifact = Artifact.of_layout(store.read(sha, Artifact.MAX_BYTES), layout, kind=kind, codec=codec)
        for blob in artifact.shards:
            if (size := store.size(blob.sha256)) != blob.bytes:
                store.verify(blob)  # removes what is damaged; a whole blob may be of use to others
                if store.has(blob.sha256):
                    raise ArtifactError(f"the manifest gives blob {blob.sha256[:12]} a wrong size")
                raise HashMismatch(
                    f"blob {blob.sha256} has {size} bytes instead of {blob.bytes} and was removed",
                    hint="fetch or compute it again",
                )
        digests = b"".join(bytes.fromhex(blob.sha256) for blob in artifact.shards)
        return Source(name, digests, artifact.total_bytes)


def read_inputs(job: MergeJob, store: BlobStore) -> Inputs:
    """Look up everything a job names. Errors as of `read_source`; `ArtifactError` where parts disagree."""
    state = read_message(store, job.state, State)
    if state.run != (wanted := job.origin or job.run):
        raise ArtifactError(f"state {job.state[:12]} belongs to run {state.run}, not to {wanted}")
    if state.model != job.model:
        raise ArtifactError(f"state {job.state[:12]} is of model {state.model[:12]}, not {job.model[:12]}")
    model = read_message(store, job.model, Model)
    if model.layout != job.layout:
        raise ArtifactError(f"model {job.model[:12]} has layout {model.layout[:12]}, not {job.layout[:12]}")
    layout = read_message(store, job.layout, Layout)
    fragment = layout.fragment_at(state.merges)
    return Inputs(
        layout=layout,
        fragment=fragment,
        state=state,
        base=read_source(store, state.base, layout, "base", "base"),
        momentum=(
            read_source(store, state.outer, layout, "outer", "momentum")
            if job.merge.keeps_momentum and state.outer is not None
            else None
        ),
        deltas=tuple(
            read_source(store, merged.delta, fragment, "delta", f"delta of node {merged.node}", job.codec)
            for merged in job.contributions
        ),
    )


def artifact_blobs(store: BlobStore, digest: str) -> Iterator[str]:
    """An artifact's manifest and shards. Raises `NotFound` or `FormatError` where the manifest is none."""
    yield digest
    yield from (blob.sha256 for blob in read_message(store, digest, Artifact).shards)


def merge_blobs(job: MergeJob, store: BlobStore, before: BlobStore | None = None) -> Iterator[str]:
    """Every blob a merge reads; the state it starts from is looked up in `before`, if given.

    Raises `NotFound` where one that names others is not there.
    """
    before = before or store
    yield from (job.layout, job.model, job.state)
    state = read_message(before, job.state, State)
    for each in filter(None, (state.base, state.outer)):
        yield from artifact_blobs(before, each)
    for merged in job.contributions:
        yield from artifact_blobs(store, merged.delta)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors about one input say which."""
    try:
        yield
    except (ArtifactError, HashMismatch, NotFound) as e:
        raise _named(e, name) from e


def _named(error: TapestryError, name: str) -> TapestryError:
    return type(error)(f"{name}: {error.message}", hint=error.hint)
