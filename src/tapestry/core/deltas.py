"""Is everything there that a contribution, or a plan, names? Looked at without reading one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from tapestry.errors import HashMismatch, IntegrityError, NotFound, PlanError
from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, Model, State
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import MAX_BLOB_BYTES, Fragment, Layout
from tapestry.protocol.message import Message
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore

M = TypeVar("M", bound=Message)
PARALLEL: Final = 4


@dataclass(frozen=True)
class Lacking:
    """Blobs that must be sent first."""

    shas: tuple[str, ...]


def read_message(store: BlobStore, sha: str, kind: type[M]) -> M:
    """The message that blob `sha` holds. Errors as of `BlobStore.read` and `Message.from_bytes`."""
    return kind.from_bytes(store.read(sha, min(kind.MAX_BYTES, MAX_BLOB_BYTES)))


def find_artifact(
    store: BlobStore, sha: str, layout: Layout | Fragment, kind: ArtifactKind, codec: Codec = PLAIN
) -> tuple[Blob, ...] | Lacking:
    """The shards of an artifact that is whole here.

    The manifest is held against the layout before any shard is looked at; shards are verified by hash.

    Raises:
        ArtifactError, FormatError: the manifest is not one of this layout and kind.
    """
    try:
        data = store.read(sha, Artifact.MAX_BYTES)
    except (NotFound, HashMismatch):
        return Lacking((sha,))
    artifact = Artifact.of_layout(data, layout, kind=kind, codec=codec)
    with ThreadPoolExecutor(PARALLEL, "verify") as pool:
        good = list(pool.map(store.verify, artifact.shards))
    lacking = [blob.sha256 for blob, there in zip(artifact.shards, good, strict=True) if not there]
    return Lacking(tuple(dict.fromkeys(lacking))) if lacking else artifact.shards


def check_plan_blobs(store: BlobStore, plan: Plan) -> list[str]:
    """Everything a run starts from is here and fits together.

    Returns:
        the blobs, to be made durable.

    Raises:
        PlanError: names what lacks or disagrees.
    """
    try:
        model = read_message(store, plan.model, Model)
        layout = read_message(store, plan.layout, Layout)
        state = read_message(store, plan.initial_state, State)
        _agree(plan, model, layout, state)
        shards = [*_whole(store, state.base, layout, "base")]
        if state.outer is not None:
            shards += _whole(store, state.outer, layout, "outer")
        for file in model.files:
            if not store.verify(file.blob):
                raise NotFound(f"file {file.path} of the model (blob {file.blob.sha256}) is not here")
    except (IntegrityError, NotFound) as e:
        raise PlanError(
            f"plan of run {plan.run}: {e.message}", hint="give the folder of blobs made with the plan"
        ) from e
    manifests = [state.base] + ([state.outer] if state.outer is not None else [])
    files = [file.blob.sha256 for file in model.files]
    return [plan.model, plan.layout, plan.initial_state, *manifests, *files, *(b.sha256 for b in shards)]


def _whole(store: BlobStore, sha: str, layout: Layout, kind: ArtifactKind) -> Sequence[Blob]:
    found = find_artifact(store, sha, layout, kind)
    if isinstance(found, Lacking):
        raise NotFound(f"{len(found.shas)} blobs of the {kind} lack, first {found.shas[0]}")
    return found


def _agree(plan: Plan, model: Model, layout: Layout, state: State) -> None:
    said = (
        ("model.task", model.task, plan.task),
        ("model.layout", model.layout, plan.layout),
        ("layout.fragments", layout.fragment_count, plan.streaming.fragments),
        ("parameters", layout.elements, plan.parameters),
        ("state.run", state.run, plan.begins(plan.initial_state)),
        ("state.model", state.model, plan.model),
        ("state.merges", state.merges, plan.merges_before),
    )
    for name, actual, wanted in said:
        if actual != wanted:
            raise PlanError(f"plan of run {plan.run}: {name} is {actual}, the plan needs {wanted}")
