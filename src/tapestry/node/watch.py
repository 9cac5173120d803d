"""Threads that wait on the core, so that the agent need not: views of runs, and others' deltas."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

from tapestry.errors import TapestryError
from tapestry.node import child
from tapestry.node.sync import Library
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView
from tapestry.rounds.events import Arrived, ContributionAccepted, Event, RoundOpened, parse_event
from tapestry.transport.client import CoreClient
from tapestry.transport.patience import Pauses
from tapestry.transport.wire import LONG_POLL_S

MAX_EVENTS_BEHIND: Final = 1000
"""Prefetching looks back no further than this."""
COALESCE_S: Final = 0.025
"""Pause between two views, so that events that come together are one view."""

News = RunView | TapestryError
Post = Callable[[str, News], None]


class RunWatcher:
    """Long-polls one run and posts each view, one with nothing new too, or the error where there is none."""

    def __init__(self, client: CoreClient, run: str, node: str, post: Post) -> None:
        self._client = client
        self._run = run
        self._node = node
        self._post = post
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch-{run}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Post nothing more; the thread ends with its request."""
        self._stop.set()

    def _watch(self) -> None:
        pauses = Pauses()
        after: int | None = None
        gist: int | None = None
        while not self._stop.is_set():
            try:
                view = self._client.run(self._run, after=after, wait_s=LONG_POLL_S, gist=gist)
            except TapestryError as error:
                if self._stop.is_set():
                    return
                self._post(self._run, error)
                # A core that came back, perhaps from a backup, is asked without a position.
                after = gist = None
                self._stop.wait(pauses.next())
                continue
            pauses.reset()
            if self._stop.is_set():
                return
            self._post(self._run, view)
            after, gist = view.sequence, view.gist_for(self._node)
            self._stop.wait(COALESCE_S)


class Prefetcher:
    """Fetches others' deltas as the core accepts them, so that they are here when the round closes.

    Only ever a help: what fails here is fetched again, and its error raised, when it is needed.
    `held` keeps it from touching blobs that its owner is about to fetch itself.
    """

    def __init__(self, client: CoreClient, library: Library, own_node: str) -> None:
        self._client = client
        self._library = library
        self._own_node = own_node
        self._lock = threading.Lock()
        self._wanted: queue.Queue[tuple[int, str, Plan] | None] = queue.Queue()
        self._after: dict[str, int] = {}
        self._received: dict[str, dict[str, tuple[str, int]]] = {}
        """By run: of the round in flight, each contribution's delta and its fragment."""
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is fetched meanwhile."""
        with self._lock:
            yield

    def look(self, run: str, sequence: int, plan: Plan) -> None:
        """In this run something was accepted, as of `sequence` of the event log."""
        self._wanted.put((sequence, run, plan))

    def stop(self) -> None:
        self._wanted.put(None)

    def _work(self) -> None:
        while (item := self._wanted.get()) is not None:
            sequence, run, plan = item
            try:
                for delta, fragment in self._accepted(run, sequence):
                    with self._lock:
                        self._library.deltas([delta], plan, fragment)
            except TapestryError as error:
                child.log("prefetch", error=error.message)

    def _accepted(self, run: str, sequence: int) -> list[tuple[str, int]]:
        """Others' deltas, with their fragments, that were accepted since the last look."""
        after = self._after.get(run, 0)
        if sequence - after > MAX_EVENTS_BEHIND or after == 0:
            after = max(0, sequence - MAX_EVENTS_BEHIND)
        found: list[tuple[str, int]] = []
        while after < sequence:
            entries = self._client.events(after=after)
            if not entries:
                break
            after = entries[-1].sequence
            for entry in entries:
                if entry.scope == run:
                    found += self._of(run, parse_event(entry.type, entry.body))
        self._after[run] = max(after, sequence)
        return found

    def _of(self, run: str, event: Event) -> list[tuple[str, int]]:
        received = self._received.setdefault(run, {})
        if isinstance(event, RoundOpened):
            received.clear()
        elif isinstance(event, Arrived) and event.node != self._own_node:
            received[event.contribution] = (event.delta, event.fragment)
        elif isinstance(event, ContributionAccepted) and event.contribution in received:
            return [received.pop(event.contribution)]
        return []
