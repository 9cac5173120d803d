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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tapestry.errors import (
    ArtifactError,
    FormatError,
    HashMismatch,
    Leak,
    NotFound,
    OwnerRefused,
    RightsRefused,
    TapestryError,
    TooLarge,
)
from tapestry.host import failpoints, files
from tapestry.node import child, environment, lines, settings
from tapestry.node.approval import Approvals
from tapestry.node.examiner import MAX_RESULT_BYTES, RESULT, Examiner, read
from tapestry.node.held import WITHDRAWN
from tapestry.node.home import Home, parse_round_name
from tapestry.node.leaks import Leaks
from tapestry.node.outgoing import (
    Passed,
    key_of,
    log_lines,
    present_lines,
    publishable,
    publishable_progress,
)
from tapestry.node.settings import Publish
from tapestry.protocol import canonical
from tapestry.protocol.messages import Progress
from tapestry.storage.blobs import BlobStore
from tapestry.training.home import TrainerHome
from tapestry.training.spool import TrainResult
from tapestry.training.withdrawals import Withdrawals

POLL_S: Final = 0.01
MAX_PROGRESS_BYTES: Final = 4 << 10
MAX_FOLDERS: Final = 1000
SETTLED_NS: Final = 100_000_000
LOOK_ANYWAY_S: Final = 1.0


def _reason(error: TapestryError) -> str:
    """What is said of a refusal, which the agent may read: nothing in the trainer's own words. What names a
    field of a message that does not parse names it as the trainer did."""
    return "a message of the trainer is malformed" if isinstance(error, FormatError) else error.message


def _job_of(folder: Path) -> dict[str, str]:
    """Plan and state a refused result names, so that the agent knows which job it is of; empty where it
    cannot be read."""
    try:
        result = TrainResult.from_bytes(read(folder / RESULT, MAX_RESULT_BYTES))
    except (OSError, TapestryError):
        return {}
    return {"plan": result.plan, "state": result.state}


class Gate:
    """Watches a home's spool. `step` does all there is to do and may be called as often as one likes.

    Args:
        home: the node's.
        publish: how much of what is measured leaves.
        status: where to say what goes on.
        approve: the owner is asked for each update.
        local: the trainer runs on this machine, so that the gate knows what it may say of it.
        cuda: it has an accelerator to name.
    """

    def __init__(
        self,
        home: Home,
        publish: Publish,
        status: child.Status | None = None,
        *,
        approve: bool = False,
        local: bool = True,
        cuda: bool = False,
    ) -> None:
        self.home = home
        self._leaks = Leaks(home)
        self._withdrawals = Withdrawals(home.root)
        self._trainers = TrainerHome(home.root)
        self._approvals = Approvals(home) if approve else None
        self._waiting: set[str] = set()
        """Folders that may leave when the owner says so."""
        self.publish: Publish = publish
        self.store = BlobStore.open(home.blobs)
        self._status = status
        forms = (environment.Forms.here if local else environment.Forms.elsewhere)(cuda=cuda)
        self._examiner = Examiner(self.store, forms=forms, leaks=self._leaks)
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
        self._leaks.refresh()
        try:
            passed = self._examiner.examine(folder)
            self._let_pass(folder, passed)
        except (HashMismatch, ArtifactError, NotFound, OwnerRefused, RightsRefused, TooLarge) as error:
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
        made_of = {result.data_manifest, *self._trainers.holds_of(result.run, result.round)}
        if any(map(self._withdrawals.covers_manifest, made_of)):
            raise RightsRefused(WITHDRAWN)
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
        new = [{"time": now, **line} for line in wanted if key_of(line) not in present]
        lines.append(self.home.egress_log, new, durable=True)

    def _refuse(self, folder: Path, error: TapestryError) -> None:
        self._refused += 1
        name = self._speakable(folder.name)
        value = {"name": name, "code": error.code, "reason": _reason(error), "time": round(time.time(), 3)}
        value |= _job_of(folder)
        if name is not None:
            files.write_atomic(self.home.refused / f"{name}.json", canonical.encode(value))
        child.log("refused", name=name, code=error.code, reason=error.message)
        self._tell(last_refused=value)

    def say(self) -> None:
        """Where it stands, in its status."""
        self._tell()

    def _speakable(self, name: str) -> str | None:
        """The name, unless a canary is in it."""
        try:
            self._leaks.check("a name", os.fsencode(name))
        except Leak:
            return None
        return name

    def _tell(self, **fields: Any) -> None:
        if self._status is not None:
            self._status.update(
                phase="watching",
                passed=self._passed,
                refused=self._refused,
                canaries=self._leaks.planted,
                unsearched=self._leaks.unsearched,
                **fields,
            )

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
            data = read(self.home.trainer_progress, MAX_PROGRESS_BYTES)
            self._leaks.check("progress.json", data)
            progress = publishable_progress(Progress.from_bytes(data), self.publish)
        except TapestryError as error:
            self._tell(progress_refused=_reason(error))
            return
        files.write_atomic(self.home.progress, progress.to_bytes(), durable=False)


def watch(home: Home, status: child.Status) -> None:
    """Pass and refuse until the process is told to stop."""
    given = settings.load(home)
    local, cuda = given.training.launcher == "local", given.training.device == "cuda"
    node = given.node
    gate = Gate(home, node.publish, status, approve=node.approve, local=local, cuda=cuda)
    files.clean_temporaries(home.egress)
    gate.say()
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
