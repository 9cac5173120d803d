"""The egress gate: what the trainer made passes here, or does not leave.

A process of its own without a network. It takes each finished folder of spool/train/out, checks it
against the plan and its layout without interpreting anything the trainer wrote beyond closed
messages, moves the delta into blobs/, writes the egress log, and then tells the agent.

Order, so that a kill at any point loses and repeats nothing: blobs durable → log durable → result
published. Until the result is there, the next start begins the folder anew; the blobs are found in
place, and lines that are in the log already are not written again.
"""

from __future__ import annotations

import argparse
import os
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.errors import ArtifactError, HashMismatch, NotFound, OwnerRefused, TapestryError, TooLarge
from tapestry.host import failpoints, files
from tapestry.node import child, lines, settings
from tapestry.node.approval import Approvals
from tapestry.node.home import Home, parse_round_name
from tapestry.node.settings import Publish
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.layout import Fragment, Layout, Shard
from tapestry.protocol.messages import Progress
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainResult

POLL_S: Final = 0.01
RESULT: Final = "result.json"
MANIFEST: Final = "delta.json"
STAYS_HERE: Final = "inner"
"""Folder that may lie in a finished one and never leaves: the inner optimizer's state."""
MAX_RESULT_BYTES: Final = 16 << 10
MAX_PROGRESS_BYTES: Final = 4 << 10
MAX_FOLDERS: Final = 1000
SETTLED_NS: Final = 100_000_000
LOOK_ANYWAY_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A folder that may leave, as far as the owner publishes it."""

    result: TrainResult
    delta: Artifact | None


def publishable(result: TrainResult, publish: Publish) -> TrainResult:
    """The result without what the owner does not publish."""
    update: dict[str, Any] = {}
    if publish != "all":
        update["loss"] = None
    if publish == "none":
        update["score"] = None
    return result.model_copy(update=update)


def publishable_progress(progress: Progress, publish: Publish) -> Progress:
    """The progress without what the owner does not publish."""
    update: dict[str, Any] = {}
    if publish != "all":
        update["loss"] = None
    if publish == "none":
        update["tokens_per_s"] = None
    return progress.model_copy(update=update)


class Examiner:
    """Checks finished folders. Trusts nothing in them; plan and layout come from blobs/ by hash."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._plan: Plan | None = None
        self._layout: Layout | None = None

    def examine(self, folder: Path) -> Passed:
        """Read and check everything but the hashes of the shards.

        Raises:
            IntegrityError, PeerError: what is wrong; nothing was taken.
        """
        named = parse_round_name(folder.name)
        if named is None:
            raise ArtifactError(f"{folder.name[:80]!r} is not <run>.<round>")
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise ArtifactError(f"{folder.name} is not a folder")
        result = TrainResult.from_bytes(_read(folder / RESULT, MAX_RESULT_BYTES))
        if (result.run, result.round) != named:
            raise ArtifactError(f"{folder.name} holds the result of {result.run}.{result.round}")
        plan = self._plan_of(result)
        self._check_result(result, plan)
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

    @staticmethod
    def _check_result(result: TrainResult, plan: Plan) -> None:
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

    @staticmethod
    def _manifest(folder: Path, digest: str, fragment: Fragment, plan: Plan) -> Artifact:
        data = _read(folder / MANIFEST, Artifact.MAX_BYTES)
        if (actual := canonical.sha256(data)) != digest:
            raise HashMismatch(f"{MANIFEST} has SHA-256 {actual[:12]}, the result names {digest[:12]}")
        return Artifact.of_layout(data, fragment, kind="delta", codec=plan.codec)

    @staticmethod
    def _check_names(folder: Path, delta: Artifact | None) -> None:
        allowed = {RESULT}
        if delta is not None:
            allowed |= {MANIFEST, *(blob.sha256 for blob in delta.shards)}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == STAYS_HERE and entry.is_dir(follow_symlinks=False):
                    continue
                if entry.name not in allowed:
                    raise ArtifactError(f"{folder.name} holds {entry.name[:80]!r}, which nothing declares")
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
        finally:
            os.close(fd)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return files.read_limited(path, max_bytes, follow_symlinks=False)
    except FileNotFoundError:
        raise NotFound(f"{path.parent.name} has no {path.name}") from None


def _job_of(folder: Path) -> dict[str, str]:
    """Plan and state a refused result names, so that the agent knows which job it is of; empty where it
    cannot be read."""
    try:
        result = TrainResult.from_bytes(_read(folder / RESULT, MAX_RESULT_BYTES))
    except (OSError, TapestryError):
        return {}
    return {"plan": result.plan, "state": result.state}


def log_lines(passed: Passed) -> list[dict[str, Any]]:
    """What the egress log says of a result, one line an artifact, without the time."""
    result, name = passed.result, f"{passed.result.run}.{passed.result.round}"
    data = result.to_bytes()
    found = [_line("result", name, len(data), canonical.sha256(data))]
    if passed.delta is not None:
        manifest = passed.delta.to_bytes()
        found.append(_line("delta-manifest", f"{name}/delta", len(manifest), canonical.sha256(manifest)))
        found += [
            _line("delta-shard", f"{name}/delta/{index}", blob.bytes, blob.sha256)
            for index, blob in enumerate(passed.delta.shards)
        ]
    if result.score is not None:
        score = canonical.encode(result.score.model_dump(mode="json"))
        found.append(_line("score", f"{name}/score", len(score), canonical.sha256(score)))
    return found


def _line(kind: str, name: str, size: int, sha: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "bytes": size, "sha256": sha}


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return (line.get("kind"), line.get("name"), line.get("sha256"))


class Gate:
    """Watches a home's spool. `step` does all there is to do and may be called as often as one likes."""

    def __init__(
        self, home: Home, publish: Publish, status: child.Status | None = None, *, approve: bool = False
    ) -> None:
        self.home = home
        self._approvals = Approvals(home) if approve else None
        self._waiting: set[str] = set()
        """Folders that may leave when the owner says so."""
        self.publish: Publish = publish
        self.store = BlobStore.open(home.blobs)
        self._status = status
        self._examiner = Examiner(self.store)
        self._seen: dict[str, tuple[int, ...]] = {}
        self._progress: tuple[int, ...] | None = None
        self._outputs_path = str(home.outputs)
        self._progress_path = str(home.trainer_progress)
        self._looked = (0, 0.0)
        self._passed = 0
        self._refused = 0
        self._unfinished = {folder.name for folder, _ in self._folders()}
        """Folders an earlier process may have written log lines for."""

    def step(self) -> int:
        """Examine every folder that is new or changed; returns how many."""
        self._copy_progress()
        decided = {name for name in self._waiting if self._approvals and self._approvals.stirred(name)}
        if not self._something_moved() and not decided:
            return 0
        folders = self._folders()
        changed = [
            folder
            for folder, identity in folders
            if self._seen.get(folder.name) != identity or folder.name in decided
        ]
        for folder in changed:
            self._handle(folder)
        self._seen = {folder.name: identity for folder, identity in folders}
        return len(changed)

    def _something_moved(self) -> bool:
        """Whether the folder of outputs may hold something new. Its time is coarse, so it is only
        relied on once it lies a moment back, and the folder is looked at now and then anyway."""
        changed = os.stat(self._outputs_path).st_mtime_ns  # noqa: PTH116 - asked a hundred times a second
        moment = time.monotonic()
        if changed == self._looked[0] and moment < self._looked[1]:
            return False
        settled = time.time_ns() - changed > SETTLED_NS
        self._looked = (changed if settled else 0, moment + LOOK_ANYWAY_S)
        return True

    def _folders(self) -> list[tuple[Path, tuple[int, ...]]]:
        """Finished folders, oldest first, each with what changes when another takes its place."""
        found: list[tuple[Path, tuple[int, ...]]] = []
        with os.scandir(self._outputs_path) as entries:
            for entry in entries:
                if parse_round_name(entry.name) is None:
                    continue
                info = entry.stat(follow_symlinks=False)
                found.append((Path(entry.path), (info.st_ino, info.st_ctime_ns)))
        found.sort(key=lambda item: item[1][1])
        return found[-MAX_FOLDERS:]

    def _handle(self, folder: Path) -> None:
        try:
            passed = self._examiner.examine(folder)
            self._let_pass(folder, passed)
        except (HashMismatch, ArtifactError, NotFound, OwnerRefused, TooLarge) as error:
            self._refuse(folder, error)
        except TapestryError as error:
            if error.exit_code not in (3, 5):  # integrity, or a blob that is not here
                raise
            self._refuse(folder, error)

    def _let_pass(self, folder: Path, passed: Passed) -> None:
        result = passed.result
        published = Passed(result=publishable(result, self.publish), delta=passed.delta)
        data = published.result.to_bytes()
        target = self.home.passed(result.run, result.round)
        if target.exists() and files.read_limited(target, MAX_RESULT_BYTES) == data:
            return
        if not self._approved(folder.name, published):
            return
        self._examiner.take(folder, passed)
        failpoints.reach("gate.blobs.linked")
        self._log(log_lines(published), again=target.exists() or folder.name in self._unfinished)
        self._unfinished.discard(folder.name)
        failpoints.reach("gate.log.written")
        files.write_atomic(target, data)
        self.home.refusal(result.run, result.round).unlink(missing_ok=True)
        failpoints.reach("gate.result.published")
        self._passed += 1
        child.log("passed", run=result.run, round=result.round)
        self._tell(last=folder.name)

    def _approved(self, name: str, published: Passed) -> bool:
        """Whether this may leave now: always where the owner is not asked. Raises `OwnerRefused`."""
        if self._approvals is None:
            return True
        said = self._approvals.decided(name, log_lines(published))
        if said is not None and not said.passes:
            self._waiting.discard(name)
            raise OwnerRefused(f"the owner does not let it leave: {said.reason or 'no reason given'}")
        (self._waiting.discard if said is not None else self._waiting.add)(name)
        self._tell(pending=len(self._waiting) or None)
        return said is not None

    def _log(self, wanted: Sequence[dict[str, Any]], *, again: bool) -> None:
        present = present_lines(self.home.egress_log, wanted) if again else set()
        now = round(time.time(), 3)
        new = [{"time": now, **line} for line in wanted if _key(line) not in present]
        lines.append(self.home.egress_log, new, durable=True)

    def _refuse(self, folder: Path, error: TapestryError) -> None:
        self._refused += 1
        name = folder.name
        value = {"name": name, "code": error.code, "reason": error.message, "time": round(time.time(), 3)}
        value |= _job_of(folder)
        files.write_atomic(self.home.refused / f"{name}.json", canonical.encode(value))
        child.log("refused", name=name, code=error.code, reason=error.message)
        self._tell(last_refused=value)

    def _tell(self, **fields: Any) -> None:
        if self._status is not None:
            self._status.update(phase="watching", passed=self._passed, refused=self._refused, **fields)

    def _copy_progress(self) -> None:
        try:
            info = os.lstat(self._progress_path)
        except FileNotFoundError:
            return
        identity = (info.st_ino, info.st_mtime_ns, info.st_size)
        if identity == self._progress:
            return
        self._progress = identity
        try:
            data = _read(self.home.trainer_progress, MAX_PROGRESS_BYTES)
            progress = publishable_progress(Progress.from_bytes(data), self.publish)
        except TapestryError as error:
            self._tell(progress_refused=error.message)
            return
        files.write_atomic(self.home.progress, progress.to_bytes(), durable=False)


def present_lines(path: Path, wanted: Iterable[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Which of `wanted` the egress log holds already."""
    keys = {_key(line) for line in wanted}
    return {key for line in lines.read(path) if (key := _key(line)) in keys}


def watch(home: Home, status: child.Status) -> None:
    """Pass and refuse until the process is told to stop."""
    given = settings.load(home).node
    gate = Gate(home, given.publish, status, approve=given.approve)
    files.clean_temporaries(home.egress)
    status.update(phase="watching", passed=0, refused=0)
    while True:
        child.go_on()
        gate.step()
        time.sleep(POLL_S)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tapestry.node.gate", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    home = Home(parser.parse_args(argv).home)
    child.run(home, "gate", lambda status: watch(home, status))


if __name__ == "__main__":
    main()
