"""Does what the state of each run asks for: screen contributions, merge rounds, keep deadlines.

What is to be done is derived from the state, never remembered, so after a crash it is simply done
again. A bad contribution is refused and disturbs no other; when the core itself cannot go on (disk
full, database busy, worker dead), it says so in the run's view and tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from tapestry.core.consortium import lost_nodes
from tapestry.core.copies import Copies, Screen
from tapestry.core.deltas import Lacking, find_artifact, read_message
from tapestry.core.quota import Quota
from tapestry.core.retention import Retention
from tapestry.core.runs import Runs
from tapestry.core.watch import Watch
from tapestry.errors import (
    ArtifactError,
    DiskFull,
    Diverged,
    HashMismatch,
    IntegrityError,
    NotFound,
    TapestryError,
)
from tapestry.host import failpoints
from tapestry.host.processes import Backoff
from tapestry.ledger.entries import CONSORTIUM
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.plan import ANY_NORM
from tapestry.replay.job import MergeJob, MergeResult
from tapestry.rounds import machine
from tapestry.rounds.state import Round, RunState, Submission

T = TypeVar("T")
POLL_S: Final = 0.1
"""How often new runs are looked for."""
LONGEST_WAIT_S: Final = 30.0
THREADS: Final = 8

Tell = Callable[[str, Mapping[str, Any]], None]
"""Takes the name of something that happened, and what is worth knowing about it; never data."""


class Replay(Screen, Protocol):
    """What a coordinator needs of `replay.client.Replayer`."""

    def merge(self, job: MergeJob, /) -> MergeResult: ...


class Coordinator:
    """One task per run.

    Args:
        runs: the core's runs.
        replay: does the arithmetic, elsewhere.
        watch: wakes a run's task.
        copies: finds contributions that are copies.
        quota: told what has become part of an accepted contribution.
        tell: told what happens.
        trouble_changed: called when `trouble` has changed.
    """

    def __init__(
        self,
        runs: Runs,
        replay: Replay,
        watch: Watch,
        *,
        copies: Copies,
        quota: Quota,
        tell: Tell,
        trouble_changed: Callable[[Mapping[str, str]], None],
    ) -> None:
        self.trouble: dict[str, str] = {}
        """Why the core cannot do its part, in words: per run, and under `CONSORTIUM` for all of them."""
        self._runs = runs
        self._replay = replay
        self._watch = watch
        self._retention = Retention(runs)
        self._copies = copies
        self._quota = quota
        self._tell = tell
        self._trouble_changed = trouble_changed
        self._threads: ThreadPoolExecutor | None = None

    async def run(self) -> None:
        """Until cancelled: see that each run has its task."""
        tasks: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(THREADS, "coordinator")
        try:
            while True:
                for scope in self._watch.scopes - tasks.keys() - {CONSORTIUM}:
                    tasks[scope] = asyncio.create_task(self._tend(scope), name=f"run {scope}")
                for task in tasks.values():
                    if task.done():
                        task.result()  # a fault of ours: end loudly
                await asyncio.sleep(POLL_S)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            self._threads.shutdown(wait=False, cancel_futures=True)
            if self.trouble:
                self.trouble.clear()
                self._trouble_changed(self.trouble)

    async def _tend(self, run: str) -> None:
        """One run, for ever."""
        backoff = Backoff()
        while True:
            try:
                seen, wait_s = await self._thread(self._once, run)
            except TapestryError as error:
                wait_s = backoff.after(0)
                self._trouble(run, _words(error))
                self._tell(
                    "trouble", {"run": run, "code": error.code, "retry_s": wait_s, "error": error.message}
                )
                await asyncio.sleep(wait_s)
                continue
            backoff = Backoff()
            self._trouble(run, None)
            await self._watch.newer(seen, wait_s)

    def taking_in(self, error: DiskFull | None) -> None:
        """A node's bytes could (None) or could not be taken in: without them, no run goes on."""
        self._trouble(CONSORTIUM, None if error is None else _words(error))

    def _trouble(self, run: str, text: str | None) -> None:
        before = self.trouble.get(run)
        if text is None:
            self.trouble.pop(run, None)
        else:
            self.trouble[run] = text
        if before != text:
            self._trouble_changed(self.trouble)

    async def _thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    # -- in a thread --------------------------------------------------------------------------

    def _once(self, run: str) -> tuple[dict[str, int], float]:
        """Do what is due first.

        Returns:
            sequences that were seen, and how long nothing else is due unless one of them grows.
        """
        keys = self._runs.journal.sequences().get(CONSORTIUM, 0)
        standing = self._runs.standing(run)
        seen = {run: standing.sequence, CONSORTIUM: keys}
        state = standing.state
        if state.status == "finished":
            self._copies.forget(state)
            return seen, LONGEST_WAIT_S
        for node in lost_nodes(self._runs.consortium.ring(), sorted(state.enrolled)):
            self._runs.apply(run, machine.Withdraw(node=node, reason="key-revoked"))
            return seen, 0.0
        for node in self._runs.consortium.suspended_nodes(state.enrolled):
            self._runs.apply(run, machine.Withdraw(node=node, reason="suspended"))
            return seen, 0.0
        work = machine.work(state)
        for at, submission in sorted(work.screen, key=lambda each: each[1].received_ms):
            self._screen(state, at, submission)
        if work.screen:
            return seen, 0.0
        for at in work.merge:
            self._merge(state, at)
            return seen, 0.0
        if work.wake_ms is None:
            return seen, LONGEST_WAIT_S
        wait_s = (work.wake_ms - self._runs.journal.now_ms()) / 1000
        if wait_s > 0:
            return seen, min(wait_s, LONGEST_WAIT_S)
        after = self._runs.apply(run, machine.Tick())
        return seen, 0.0 if after.sequence > standing.sequence else LONGEST_WAIT_S

    def _screen(self, state: RunState, at: Round, submission: Submission) -> None:
        reason: str | None = None
        try:
            plan, largest = state.plan, state.plan.merge.largest_norm
            limit = largest if largest < ANY_NORM else None
            if plan.merge.largest_overlap is None:
                self._replay.screen(submission.delta, plan.layout, plan.codec, at.fragment, limit)
            else:
                self._copies.screen(state, at, submission, limit)
        except (IntegrityError, NotFound) as error:
            if isinstance(error, HashMismatch | NotFound) and self._whole(state, at, submission):
                raise  # what is damaged or lost is ours
            reason = reason_of(error)
            self._tell(
                "contribution-refused",
                {
                    "run": state.run,
                    "round": at.round,
                    "node": submission.node,
                    "reason": reason,
                    "error": error.message,
                },
            )
        self._runs.apply(
            state.run,
            machine.Screened(
                round=at.round,
                fragment=at.fragment,
                node=submission.node,
                contribution=submission.contribution,
                reason=reason,
            ),
        )
        if reason is None:
            manifest = read_message(self._runs.store, submission.delta, Artifact)
            sizes = [blob.bytes for blob in manifest.shards]
            self._quota.release(submission.node, [*sizes, self._runs.store.size(submission.delta)])

    def _whole(self, state: RunState, at: Round, submission: Submission) -> bool:
        plan, store = state.plan, self._runs.store
        layout = self._runs.layout(plan.layout)
        fragment = layout.fragment(at.fragment)
        found = find_artifact(store, submission.delta, fragment, "delta", plan.codec)
        return not isinstance(found, Lacking)

    def _merge(self, state: RunState, at: Round) -> None:
        job = MergeJob.of(state.plan, state=at.state, contributions=at.merged, durable=True)
        try:
            result = self._replay.merge(job)
        except Diverged as error:  # as often as it is repeated: the round ends without a merge
            where = {"round": at.round, "fragment": at.fragment}
            failed = machine.MergeFailed(**where, reason="merge-not-finite", detail=error.message)
            self._runs.apply(state.run, failed)
            self._tell("round-abandoned", {"run": state.run, **where, "error": error.message})
            return
        failpoints.reach("core.merge.before-record")
        done = machine.MergeDone(
            round=at.round, fragment=at.fragment, state=result.state, base=result.base, outer=result.outer
        )
        after = self._runs.apply(state.run, done)
        self._tell(
            "merged",
            {
                "run": state.run,
                "round": at.round,
                "contributions": len(at.merged),
                "seconds": result.seconds,
                "input_bytes": result.input_bytes,
                "sequence": after.sequence,
            },
        )
        self._copies.forget(after.state)
        erased = self._retention.erase(state.run)
        if erased:
            self._tell("erased", {"run": state.run, "blobs": erased})


def _words(error: TapestryError) -> str:
    return f"the core: {error.message}" + (f" ({error.hint})" if error.hint else "")


def reason_of(error: TapestryError) -> str:
    """The reason code under which a contribution is refused."""
    if isinstance(error, ArtifactError) and "NaN" in error.message:
        return "not-finite"
    return "blob-missing" if isinstance(error, NotFound) else error.code
