"""What a finished folder of the trainer must be, before anything of it leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from tapestry.errors import ArtifactError, HashMismatch, NotFound
from tapestry.host import files
from tapestry.node import environment
from tapestry.node.home import parse_round_name
from tapestry.node.leaks import Leaks
from tapestry.node.outgoing import Passed
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.layout import Fragment, Layout, Shard
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainResult

RESULT: Final = "result.json"
MANIFEST: Final = "delta.json"
STAYS_HERE: Final = "inner"
"""Folder that may lie in a finished one and never leaves: the inner optimizer's state."""
MAX_RESULT_BYTES: Final = 16 << 10


class Examiner:
    """Checks finished folders. Trusts nothing in them; plan and layout come from blobs/ by hash.

    Args:
        store: the node's blobs.
        forms: of what a trainer says of its machine; those of one elsewhere if None.
        leaks: searches what is to leave for canaries; nobody does if None.
    """

    def __init__(
        self, store: BlobStore, *, forms: environment.Forms | None = None, leaks: Leaks | None = None
    ) -> None:
        self._store = store
        self._forms = forms or environment.Forms.elsewhere()
        self._leaks = leaks
        self._plan: Plan | None = None
        self._layout: Layout | None = None

    def examine(self, folder: Path) -> Passed:
        """Read and check everything but the hashes of the shards.

        Raises:
            IntegrityError, PeerError: what is wrong; nothing was taken.
        """
        self._search("the name of a finished folder", os.fsencode(folder.name))
        named = parse_round_name(folder.name)
        if named is None:
            raise ArtifactError(f"{folder.name[:80]!r} is not <run>.<round>")
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise ArtifactError(f"{folder.name} is not a folder")
        data = read(folder / RESULT, MAX_RESULT_BYTES)
        self._search(RESULT, data)
        result = TrainResult.from_bytes(data)
        if (result.run, result.round) != named:
            raise ArtifactError(f"{folder.name} holds the result of {result.run}.{result.round}")
        plan = self._plan_of(result)
        self._check_result(result, plan)
        if self._leaks is not None:
            self._leaks.of_model(self._store, plan.model)
        delta = None
        if result.delta is not None:
            delta = self._manifest(folder, result.delta, self._fragment(result, plan), plan)
        self._check_names(folder, delta)
        if delta is not None:
            for shard, blob in zip(self._fragment(result, plan).shards, delta.shards, strict=True):
                self._check_shard(folder / blob.sha256, shard, blob.bytes, plan.codec.head(shard))
        return Passed(result=result, delta=delta)

    def take(self, folder: Path, passed: Passed) -> None:
        """Put the delta's blobs into blobs/, verified and durable. Raises `HashMismatch`."""
        if passed.delta is None:
            return
        for blob in passed.delta.shards:
            path = folder / blob.sha256
            if path.exists():
                self._store.adopt(path, blob.sha256, durable=False)
            elif not self._store.verify(blob):
                raise NotFound(f"shard {blob.sha256[:12]} of {folder.name} is missing")
        manifest = self._store.put(passed.delta.to_bytes(), durable=False)
        self._store.sync([manifest, *(blob.sha256 for blob in passed.delta.shards)])

    def _plan_of(self, result: TrainResult) -> Plan:
        if self._plan is None or self._plan.digest != result.plan:
            self._plan = Plan.from_bytes(self._store.read(result.plan, Plan.MAX_BYTES))
        return self._plan

    def _layout_of(self, plan: Plan) -> Layout:
        if self._layout is None or self._layout.digest != plan.layout:
            self._layout = Layout.from_bytes(self._store.read(plan.layout, Layout.MAX_BYTES))
        return self._layout

    def _search(self, what: str, data: bytes) -> None:
        """Raise `Leak` where a canary is in it."""
        if self._leaks is not None:
            self._leaks.check(what, data)

    def _check_result(self, result: TrainResult, plan: Plan) -> None:
        self._forms.check(result.environment)
        if result.run != plan.run:
            raise ArtifactError(f"result of run {result.run} names the plan of run {plan.run}")
        if result.fragment != (due := result.merges % plan.streaming.fragments):
            raise ArtifactError(f"result is of fragment {result.fragment}, due is fragment {due}")
        steps = plan.inner.steps_at(result.merges)
        tokens = plan.inner.tokens_in(result.steps)
        if result.steps > steps or result.tokens > tokens:
            raise ArtifactError(
                f"result claims {result.tokens} tokens in {result.steps} steps; the plan allows {steps} "
                f"steps, and {tokens} tokens in so many"
            )
        if result.delta is None and (result.tokens or result.steps):
            raise ArtifactError("result claims training but has no delta")
        if result.delta is not None and not (result.tokens and result.steps):
            raise ArtifactError("result has a delta but claims no training")

    def _fragment(self, result: TrainResult, plan: Plan) -> Fragment:
        return self._layout_of(plan).fragment_at(result.merges)

    def _manifest(self, folder: Path, digest: str, fragment: Fragment, plan: Plan) -> Artifact:
        data = read(folder / MANIFEST, Artifact.MAX_BYTES)
        self._search(MANIFEST, data)
        if (actual := canonical.sha256(data)) != digest:
            raise HashMismatch(f"{MANIFEST} has SHA-256 {actual[:12]}, the result names {digest[:12]}")
        return Artifact.of_layout(data, fragment, kind="delta", codec=plan.codec)

    def _check_names(self, folder: Path, delta: Artifact | None) -> None:
        allowed = {RESULT}
        if delta is not None:
            allowed |= {MANIFEST, *(blob.sha256 for blob in delta.shards)}
        with os.scandir(folder) as entries:
            for entry in entries:
                self._search("the name of a file", os.fsencode(entry.name))
                if entry.name == STAYS_HERE and entry.is_dir(follow_symlinks=False):
                    continue
                if entry.name not in allowed:
                    raise ArtifactError(f"{folder.name} holds something that nothing declares")
                if not entry.is_file(follow_symlinks=False):
                    raise ArtifactError(f"{entry.name} in {folder.name} is not a regular file")

    def _check_shard(self, path: Path, shard: Shard, due: int, head: bytes) -> None:
        """Size as the manifest says, and the first bytes as layout and codec do; a shard already taken was
        checked when it was."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if self._store.has(path.name):
                fd = os.open(self._store.path(path.name), os.O_RDONLY | os.O_CLOEXEC)
            else:
                raise NotFound(f"shard {path.name[:12]} of {path.parent.name} is missing") from None
        try:
            size = os.fstat(fd).st_size
            if size != due:
                raise ArtifactError(f"shard {shard.index} has {size} bytes, its manifest says {due}")
            if os.pread(fd, len(head), 0) != head:
                raise ArtifactError(f"shard {shard.index} does not begin as its layout and codec say")
            if self._leaks is not None:
                self._leaks.check_file(f"shard {shard.index}", fd)
        finally:
            os.close(fd)


def read(path: Path, max_bytes: int) -> bytes:
    try:
        return files.read_limited(path, max_bytes, follow_symlinks=False)
    except FileNotFoundError:
        raise NotFound(f"{path.parent.name} has no {path.name}") from None
