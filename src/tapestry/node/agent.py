"""The agent: the node's one process with a network. It reads no text and loads no torch.

It waits for two things: a view of a run from the core (a thread per run long-polls), and a result
that passed the gate (a look at a file every 10 ms while the trainer has a job). Each is handed to the
run's `Session`; what a session wants of the trainer is written to spool/job/job.json.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tapestry.errors import (
    AuthError,
    Fork,
    FormatError,
    InputError,
    KeyRefused,
    MergeMismatch,
    PeerError,
    ProcessDied,
    ResourceError,
    TapestryError,
    VersionError,
)
from tapestry.node import airlock, child, keys, settings
from tapestry.node.home import Home
from tapestry.node.memory import Memory
from tapestry.node.mend import Mender
from tapestry.node.mirrors import Mirrors
from tapestry.node.prune import Pruner
from tapestry.node.relay import Relay
from tapestry.node.session import Session, summary
from tapestry.node.tools import Tools
from tapestry.node.turns import Turns
from tapestry.node.watch import News, RunWatcher
from tapestry.protocol.canonical import is_name
from tapestry.protocol.views import RunView
from tapestry.transport import observe
from tapestry.transport.patience import Pauses, patiently

POLL_S: Final = 0.01
HOUSEKEEPING_S: Final = 0.1
LIST_RUNS_S: Final = 2.0
LIST_RUNS_BUSY_S: Final = 30.0
STATUS_S: Final = 0.5
KEEP_S: Final = 2.0
"""The ledger on disk is at most about so far behind what the core has told."""
LOOK_S: Final = 5.0
"""A node without a run asks so often for what is new in the ledger."""
OLD_KEY_S: Final = 60.0
"""After a change of key, refusals of requests that were signed with the old one may come in this long."""
OLD_KEY_RETRY_S: Final = 0.2

LASTING: Final = (AuthError, InputError, MergeMismatch, ProcessDied, ResourceError, VersionError)
"""What waiting does not heal: it ends the agent, and with it the node."""


class Agent:
    """All runs of one node.

    Args:
        home: the node's.
        status: where to say what goes on.
        once: return when all runs are finished.
    """

    def __init__(self, home: Home, status: child.Status, *, once: bool) -> None:
        self._home = home
        self._status = status
        self._once = once
        self._settings = settings.load(home)
        self._tools = Tools.of(home, self._settings, self._tell)
        status.update(reads_text=airlock.reads_text(home, self._settings))
        self._client, self._memory = self._tools.client, self._tools.memory
        self._outbox = self._tools.outbox
        self._mender = Mender(home, self._tools.library)
        self._mirrors = Mirrors(home, self._settings.ledger.mirrors, self._tools.replica)
        self._pruner = Pruner(home, self._tools.store, self._memory)
        self._sessions: dict[str, Session] = {}
        self._watchers: dict[str, RunWatcher] = {}
        self._news: deque[tuple[str, News]] = deque()
        self._retry: dict[str, float] = {}
        """Runs to be looked at again, and when."""
        self._pauses = Pauses()
        self._trouble: dict[str, TapestryError] = {}
        self._turns = Turns(home)
        self._next_list = 0.0
        self._relay = Relay(home, self._client, self._outbox)
        self._next_status = self._next_keep = self._next_look = 0.0
        self._old_key_until = 0.0
        self._closed = False
        self._prunable: set[str] = set()
        self._observed = self._observe()

    def _observe(self) -> observe.Observed | None:
        """Listen for Prometheus, where node.toml says so."""
        if self._settings.metrics.port is None:
            return None
        observe.needs_client()
        from tapestry.node.metrics import NodeMetrics

        metrics = NodeMetrics(self._home, self._status)
        observed = observe.Observed(self._settings.metrics, metrics.page, metrics.health)
        self._status.update(metrics=observed.url)
        return observed

    def close(self) -> None:
        self._closed = True
        if self._observed is not None:
            self._observed.close()
        for watcher in self._watchers.values():
            watcher.stop()
        self._tools.close()
        self._outbox.count(now=True)
        self._status.update(traffic=self._outbox.total())

    def work(self) -> None:
        """Until told to stop, or with `once` until all runs are finished."""
        self._tell("looking for the core")
        patiently(self._client.hello, waiting=self._waiting)
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
        while not (self._once and self._all_finished()):
            child.go_on()
            self._list_runs()
            self._say_progress()
            self._say_status()
            self._tidy()
            self._wait()
            self._take_news()
            self._look_at_files()
            self._mend()
            self._turns.give(self._sessions, self._trouble)
        self._say_status(now=True)

    def _wait(self) -> None:
        """Until there is news or the gate has answered; a little while at most."""
        until = time.monotonic() + HOUSEKEEPING_S
        awaited = [s for run, s in self._sessions.items() if s.order is not None and run not in self._retry]
        while not self._news and not any(session.stirred() for session in awaited):
            time.sleep(POLL_S)
            if time.monotonic() >= until:
                return

    def _warm_up(self) -> None:
        """Have the replay worker loaded by the time of the first merge; what fails will fail again then."""
        try:
            child.log("replay-worker", level=self._tools.replayer.start())
        except TapestryError as error:
            if not self._closed:  # else the last line of the log is what the agent ended with
                child.log("replay-worker", error=error.message)

    # -- what comes from the core ---------------------------------------------------------------

    def _list_runs(self) -> None:
        now = time.monotonic()
        if now < self._next_list:
            return
        try:
            answer = self._client.runs()
        except TapestryError as error:
            self._next_list = now + self._stumble("runs", error)
            return
        self._well("runs")
        busy = any(not session.finished for session in self._sessions.values())
        self._next_list = now + (LIST_RUNS_BUSY_S if busy else LIST_RUNS_S)
        for run in _names(answer):
            if run not in self._sessions and self._settings.takes_part_in(run):
                self._sessions[run] = Session(run, self._tools)
                if not self._memory[run].finished:
                    self._watchers[run] = RunWatcher(
                        self._client,
                        run,
                        self._settings.node.name,
                        lambda name, news: self._news.append((name, news)),
                    )
                self._next_list = now + LIST_RUNS_BUSY_S

    def _take_news(self) -> None:
        """Act on the newest word about each run."""
        newest: dict[str, News] = {}
        while self._news:
            run, news = self._news.popleft()
            newest[run] = news
        now = time.monotonic()
        for run in [run for run, due in self._retry.items() if due <= now]:
            if isinstance(newest.get(run), TapestryError):
                continue  # the core is away: it stays due
            view = self._sessions[run].view
            if view is not None:
                newest.setdefault(run, view)
            del self._retry[run]
        for run, item in newest.items():
            if isinstance(item, RunView):
                self._attempt(run, item)
            else:
                # Whoever brings a core back from its nodes' folders needs all that they were shown.
                self._tools.replica.keep()
                self._stumble(run, item)

    def _attempt(self, run: str, view: RunView) -> None:
        session = self._sessions[run]
        merges = _merges(self._memory, run)
        try:
            session.follow(view)
        except TapestryError as error:
            self._again(run, error)
            return
        self._well(run)
        if _merges(self._memory, run) != merges:
            self._prunable.add(run)
        if session.finished and run in self._watchers:
            self._watchers.pop(run).stop()

    def _again(self, run: str, error: TapestryError) -> None:
        """Look at this run again in a while, unless that cannot help."""
        self._retry[run] = time.monotonic() + self._stumble(run, error)

    def _stumble(self, what: str, error: TapestryError) -> float:
        """Something failed: raise it if it will not heal, else say so; seconds until the next try."""
        if isinstance(error, KeyRefused):
            if self._key_changed():
                return 0.0
            if time.monotonic() < self._old_key_until:
                return OLD_KEY_RETRY_S
        if isinstance(error, LASTING):
            raise error
        if isinstance(error, PeerError):
            self._tools.replica.doubt()
        wait_s = self._pauses.next()
        self._trouble[what] = error
        child.log(
            "trouble",
            what=what,
            code=error.code,
            error=error.message,
            hint=error.hint,
            retry_s=round(wait_s, 2),
        )
        self._say_status(now=True)
        return wait_s

    def _well(self, what: str) -> None:
        if self._trouble.pop(what, None) is not None:
            self._next_status = 0.0
        if not self._trouble:
            self._pauses.reset()

    def _key_changed(self) -> bool:
        """Whether a rotation has put another key in place; it is used from now on."""
        pair = keys.load_pair(self._home)
        if self._client.keypair is not None and pair.key_id == self._client.keypair.key_id:
            return False
        child.log("key-rotated", key_id=pair.key_id)
        self._client.keypair = pair
        self._old_key_until = time.monotonic() + OLD_KEY_S
        return True

    # -- what comes from the gate, what goes to the trainer -------------------------------------

    def _look_at_files(self) -> None:
        for run, session in self._sessions.items():
            if run in self._retry:
                continue
            try:
                if session.look():
                    # While this run's update is on its way, the trainer goes on with another's.
                    self._turns.give(self._sessions, self._trouble)
                    session.hand_in()
            except TapestryError as error:
                self._again(run, error)

    def _mend(self) -> None:
        given = self._turns.given
        if given is None or given.job.run in self._retry:
            return
        try:
            self._mender.look(given.job)
        except TapestryError as error:
            self._again(given.job.run, error)
            self._turns.given = None  # others go first while this one's blobs are not to be had

    def _all_finished(self) -> bool:
        return bool(self._sessions) and all(session.finished for session in self._sessions.values())

    # -- what is said ---------------------------------------------------------------------------

    def _say_progress(self) -> None:
        given = self._turns.given
        quiet = "runs" in self._trouble or (given is not None and given.job.run in self._trouble)
        try:
            self._relay.tell(given, quiet=quiet)
        except TapestryError as error:
            self._stumble("progress", error)
        finally:
            self._trouble.pop("progress", None)

    def _tell(self, phase: str) -> None:
        self._status.update(phase=phase)

    def _waiting(self, error: TapestryError, wait_s: float) -> None:
        self._status.update(phase="waiting for the core", trouble=error.message, hint=error.hint)
        child.log("waiting", error=error.message, retry_s=round(wait_s, 2))

    def _say_status(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        if moment < self._next_status and not now:
            return
        self._next_status = moment + STATUS_S
        trouble = next(iter(self._trouble.values()), None)
        self._status.update(
            phase=self._phase(),
            trouble=trouble and trouble.message,
            hint=trouble and trouble.hint,
            runs={run: summary(session, self._memory) for run, session in self._sessions.items()},
            traffic=self._outbox.total(),
        )

    def _phase(self) -> str:
        if self._trouble:
            return "waiting for the core"
        if self._turns.given is not None:
            job = self._turns.given.job
            return f"training round {job.round}" if job.train else f"scoring the final base of {job.run}"
        if self._all_finished():
            return "finished"
        return "waiting" if self._sessions else "waiting for a run"

    def _look_at_mirrors(self) -> None:
        """At each new round, not too often. With a fork no run goes on."""
        views = ((run, session.view) for run, session in self._sessions.items())
        try:
            self._mirrors.look(
                tuple((run, v.current and v.current.round) for run, v in views if v is not None)
            )
        except Fork as error:
            self._stumble("mirrors", error)
            for run in self._sessions:
                self._again(run, error)

    def _tidy(self) -> None:
        """Work for quiet moments."""
        self._outbox.count()
        if time.monotonic() >= self._next_keep:
            self._next_keep = time.monotonic() + KEEP_S
            self._tools.replica.settle()
        self._look_at_mirrors()
        self._look_around()
        for run, session in self._sessions.items():
            if run not in self._retry and not self._tools.replica.doubted:
                try:
                    session.publish_scores()
                except TapestryError as error:
                    self._again(run, error)
        if self._turns.given is None and any(not session.finished for session in self._sessions.values()):
            return
        for run in list(self._prunable):
            self._prunable.discard(run)
            plan = self._sessions[run].plan
            if plan is not None:
                held = {state for session in self._sessions.values() for state in session.held}
                self._pruner.prune(run, plan, self._sessions.keys() - {run}, held)

    def _look_around(self) -> None:
        """Have what members decide where nothing is trained: no run's news tells of it."""
        if time.monotonic() < self._next_look or self._tools.replica.doubted:
            return
        self._next_look = time.monotonic() + LOOK_S
        if all(session.finished for session in self._sessions.values()):
            try:
                self._tools.replica.follow(self._tools.replica.size, again=True)
            except TapestryError as error:
                self._next_look += self._stumble("the ledger", error)


def _names(answer: Any) -> list[str]:
    try:
        names = [each["run"] for each in answer["runs"]]
    except (KeyError, TypeError) as e:
        raise FormatError("the core's list of runs is not one") from e
    return [name for name in names if isinstance(name, str) and is_name(name)]


def _merges(memory: Memory, run: str) -> int | None:
    head = memory[run].head
    return None if head is None else head.merges


def work(home: Home, status: child.Status, *, once: bool) -> None:
    agent = Agent(home, status, once=once)
    try:
        agent.work()
    finally:
        agent.close()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tapestry.node.agent", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--once", action="store_true", help="end when all runs are finished")
    given = parser.parse_args(argv)
    home = Home(given.home)
    child.run(home, "agent", lambda status: work(home, status, once=given.once))


if __name__ == "__main__":
    main()
