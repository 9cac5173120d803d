"""Whether the base in a bundle is the one that the ledger names, hash by hash down to its shards."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

from tapestry.bundle.folder import CHUNK_BYTES, Folder, as_bundle_error, opened
from tapestry.bundle.manifest import Taken
from tapestry.bundle.record import Record, RunRecord
from tapestry.errors import BundleError
from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.layout import MAX_BLOB_BYTES, Layout
from tapestry.protocol.message import Message
from tapestry.protocol.plan import Plan

M = TypeVar("M", bound=Message)
WEIGHTS = "model.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class Base:
    """What was found of one run."""

    taken: Taken
    shards: int
    newest: int
    """Merges that the ledger knows of."""
    attested: int
    """Members who have repeated the merge that led here, and signed for it."""
    momentum: str
    """`held`, `not kept` or `none`: the outer optimizer has one, and it is here, or not; or it has none."""


def blob_path(sha: str) -> str:
    return f"blobs/{sha[:2]}/{sha}"


def message(folder: Folder, sha: str, kind: type[M]) -> M:
    """What a blob holds, whose hash was compared with its name. Raises `BundleError`."""
    path = blob_path(sha)
    data = folder.read(path, min(kind.MAX_BYTES, MAX_BLOB_BYTES))
    with as_bundle_error(path):
        return kind.from_bytes(data)


def check_blobs(folder: Folder) -> int:
    """Every blob has the hash that it is called by, as the list says it; returns how many."""
    paths = folder.below("blobs")
    for path in paths:
        sha = folder.files[path].sha256
        if path != blob_path(sha):
            raise BundleError(f"{path} holds what should be called {blob_path(sha)}")
    return len(paths)


def check_base(folder: Folder, record: Record, taken: Taken) -> Base:
    """The base of a run. Raises `BundleError` naming the file."""
    run, name = record.runs.get(taken.run), taken.run
    head = run.heads.get(taken.state) if run is not None else None
    if run is None or head is None or (head.merges, head.round) != (taken.merges, taken.round):
        raise BundleError(
            f"the ledger has no state {taken.state[:12]} after {taken.merges} merges of run {name}"
        )
    if taken.plan not in run.plans or taken.plan != run.plan_of(taken.state):
        raise BundleError(f"plan {taken.plan[:12]} is not the one in force for that base of run {name}")
    plan = message(folder, taken.plan, Plan)
    state = message(folder, taken.state, State)
    if (state.run, state.merges, state.model) != (plan.begins(taken.state), taken.merges, plan.model):
        raise BundleError(f"{blob_path(taken.state)} is no state of run {name} after {taken.merges} merges")
    if head.base not in (None, state.base):
        raise BundleError(f"the ledger names another base for state {taken.state[:12]} of run {name}")
    model = message(folder, plan.model, Model)
    layout = message(folder, plan.layout, Layout)
    if model.layout != plan.layout:
        raise BundleError(f"{blob_path(plan.model)} is a model of another layout than plan {taken.plan[:12]}")
    base = message(folder, state.base, Artifact)
    with as_bundle_error(blob_path(state.base)):
        base.check_against(layout, kind="base")
    _check_weights(folder, f"models/{name}/{WEIGHTS}", layout, base)
    _check_files(folder, f"models/{name}", model)
    return Base(
        taken,
        len(base.shards),
        max(each.merges for each in run.heads.values()),
        len(run.attested.get(taken.state, ())),
        "none" if state.outer is None else _whole(folder, state.outer, layout),
    )


def check_update(folder: Folder, delta: str, plan: Plan, fragment: int) -> bool:
    """Whether an own update is kept; raises `BundleError` where it is kept in part."""
    if blob_path(delta) not in folder.files:
        return False
    layout = message(folder, plan.layout, Layout).fragment(fragment)
    found = message(folder, delta, Artifact)
    with as_bundle_error(blob_path(delta)):
        found.check_against(layout, kind="delta", codec=plan.codec)
    _shards(folder, found)
    return True


def _whole(folder: Folder, outer: str, layout: Layout) -> str:
    if blob_path(outer) not in folder.files:
        return "not kept"
    found = message(folder, outer, Artifact)
    with as_bundle_error(blob_path(outer)):
        found.check_against(layout, kind="outer")
    _shards(folder, found)
    return "held"


def _shards(folder: Folder, artifact: Artifact) -> None:
    for blob in artifact.shards:
        listed = folder.files.get(blob_path(blob.sha256))
        if listed is None or listed.bytes != blob.bytes:
            raise BundleError(f"{blob_path(blob.sha256)} is missing, or not of the size in its manifest")


def _check_weights(folder: Folder, path: str, layout: Layout, base: Artifact) -> None:
    """The file cut as the layout says, each piece behind its shard's header, has the hash of the shard."""
    if path not in folder.files:
        raise BundleError(f"{path} is missing")
    header = layout.whole_header
    expected = len(header) + sum(shard.data_bytes for shard in layout.shards)
    if folder.files[path].bytes != expected:
        raise BundleError(f"{path} has {folder.files[path].bytes} bytes; this base has {expected}")
    with opened(folder.root, path) as file:
        if file.read(len(header)) != header:
            raise BundleError(f"{path} does not begin as the layout says")
        for shard, blob in zip(layout.shards, base.shards, strict=True):
            digest, left = hashlib.sha256(shard.header), shard.data_bytes
            while left and (data := file.read(min(CHUNK_BYTES, left))):
                digest.update(data)
                left -= len(data)
            if digest.hexdigest() != blob.sha256:
                raise BundleError(f"{path}: shard {shard.index} is not that of the base the ledger names")


def _check_files(folder: Folder, place: str, model: Model) -> None:
    expected = {f"{place}/{file.path}": file.blob.sha256 for file in model.files}
    for path, sha in expected.items():
        if path not in folder.files:
            raise BundleError(f"{path} is missing")
        if folder.files[path].sha256 != sha:
            raise BundleError(f"{path} is not the file that the model names")
    for path in folder.below(place):
        if path not in expected and path not in (f"{place}/{WEIGHTS}", f"{place}/{CARD}"):
            raise BundleError(f"{path} is no file of this model")


def known(record: Record, run: str) -> RunRecord:
    """A run of the ledger. Raises `BundleError`."""
    found = record.runs.get(run)
    if found is None:
        raise BundleError(f"the ledger has no run {run}")
    return found
