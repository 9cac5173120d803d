"""Follows a core's ledger: asks what is new, verifies it as a node does, and keeps what pages show of it.

One thread asks, however many look. Everything from a core is bytes from a stranger: entries count once the
rules, the signatures and the tree they must make have been held against them (`audit.verify`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

from tapestry.audit import file
from tapestry.audit.account import said_in
from tapestry.audit.verify import Verifier
from tapestry.errors import AuthError, IntegrityError, TapestryError
from tapestry.governance.accounting import NAMES_CONTRIBUTION, Account, Fold
from tapestry.governance.charter import Charter
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.protocol.clock import parse_time
from tapestry.protocol.views import RunView
from tapestry.web.book import Added, Book
from tapestry.web.known import Known
from tapestry.web.source import Source
from tapestry.web.story import Story

IDLE: Final = 5
"""A core whose runs all rest is asked so many times more seldom."""
WAIT_S: Final = (1.0, 2.0, 5.0, 10.0, 15.0)
"""After failures in a row."""
CATALOG_S: Final = 30.0
MAX_VIEWS: Final = 16
"""Runs that a core is asked for which does not show its ledger."""
ACCOUNT_S: Final = 2.0
MAX_TOLD: Final = 300
TELL_EVERY: Final = 500
"""Entries after which what is known is told while much of it is read."""


class Follower:
    """
    Args:
        source: the core.
        book: where the ledger is kept.
        every_s: how often the core is asked.
        news: called, in the thread of the follower, when something is known anew.
        log: hears what went wrong, once each time it changes.
    """

    def __init__(
        self,
        source: Source,
        book: Book,
        *,
        every_s: float = 1.0,
        news: Callable[[], None] = lambda: None,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.known = Known()
        self.book = book
        self._source = source
        self._every_s = every_s
        self._news = news
        self._log = log
        self._verifier = Verifier()
        self._fold = Fold()
        self._folding = threading.Lock()
        self._accounted: tuple[float, int, Account] | None = None
        self._stories: dict[str, Story] = {}
        self._catalog_at = -CATALOG_S
        self._charter: Charter | None = None
        """By which the catalog was asked for last."""
        self._failures = 0
        self._unwritten: tuple[bytes, list[Added], int, bool] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- the thread -------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self.book.close()
        self._source.close()

    def _run(self) -> None:
        self._take_up()
        while not self._stop.is_set():
            self.step()
            self._stop.wait(self._pause_s())

    def _pause_s(self) -> float:
        if self._failures:
            return WAIT_S[min(self._failures, len(WAIT_S)) - 1]
        if self.known.size < self.known.head:
            return 0.0
        return self._every_s if self._running() else self._every_s * IDLE

    def _running(self) -> list[str]:
        return [run for run, state in self.known.states.items() if state.status == "running"]

    def step(self) -> None:
        """Ask once for all that is new. Never raises, whatever a core does."""
        try:
            self._write()
            hello = self.known.hello or self._source.hello()
            self._tell(hello=hello)
            if self.known.broken is None:
                self._ledger()
            self._rest()
        except TapestryError as error:
            self._failed(error.message)
        except Exception as error:  # noqa: BLE001 - without this thread pages stood still, and never said so
            self._failed(f"the dashboard failed: {error!r}"[:MAX_TOLD])
        else:
            self._failures = 0
            self._tell(trouble=None, heard_at=self._source.time(), heard_s=time.monotonic())

    def _failed(self, message: str) -> None:
        self._failures += 1
        if self.known.trouble != message:
            self._log(message)
        self._tell(trouble=message)

    # -- the ledger -------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """What an earlier process has kept, verified anew: a file is believed no more than a core."""
        try:
            for data in self.book.kept():
                self._take(data, head=0, kept=True)
                if self._stop.is_set():
                    return
        except TapestryError as error:
            self._log(f"the ledger that was kept here does not hold, and is fetched anew: {error.message}")
            self._verifier, self._fold, self._stories = Verifier(), Fold(), {}
            self.book.clear()
            self.known = Known()

    def _ledger(self) -> None:
        while not self._stop.is_set():
            try:
                data = self._source.lines(self.known.size)
            except AuthError:
                self._close()
                return
            lines = data.rpartition(b'{"checkpoint":')[0] if b'\n{"checkpoint":' in b"\n" + data else data
            checkpoint = data[len(lines) :]
            try:
                self._take(lines, head=self.known.size + lines.count(file.ENTRY))
                for kind, value in file.parse(checkpoint):
                    self._verifier.line((kind, value))
                    self._same_consortium()
                    self._tell(checkpoint=str(value), head=self.known.size, closed=False)
            except IntegrityError as error:
                self._log(f"the core's ledger does not hold: {error.message}")
                self._tell(broken=error.message)
                return
            if checkpoint or not lines:
                return

    def _close(self) -> None:
        """The core shows its ledger to this dashboard no more, or never did. What was read of it goes, on the
        disk too. A charter that makes something private means what is known of it already."""
        known = self.known
        if known.size or self.book.size:
            self._verifier, self._stories = Verifier(), {}
            self._unwritten = None
            with self._folding:
                self._fold, self._accounted = Fold(), None
            self._catalog_at = -CATALOG_S
            self._tell_all(
                Known(hello=known.hello, closed=True, heard_at=known.heard_at, heard_s=known.heard_s)
            )
            self.book.clear()
            self._log("the core does not show its ledger to this dashboard any more: it was removed here")
        else:
            self._tell(closed=True)

    def _same_consortium(self) -> None:
        """What the core calls itself names the consortium in pages and in sign-ins."""
        hello = self.known.hello
        if hello is not None and hello.consortium != self._verifier.found.consortium:
            raise IntegrityError("the core calls itself another consortium than its ledger founds")

    def _take(self, lines: bytes, *, head: int, kept: bool = False) -> None:
        """Verify lines, and keep those of entries that hold. Raises `IntegrityError`."""
        begin = done = taken = 0
        envelope = b""
        added: list[Added] = []
        try:
            while begin < len(lines):
                end = lines.find(b"\n", begin) + 1 or len(lines)
                for kind, value in file.parse(lines[begin:end]):
                    self._verifier.line((kind, value))
                    if kind == "blob":
                        envelope = value
                    else:
                        self._entry(value, envelope)
                        added.append(Added(value.type, value.scope, self._verifier.leaf, end - taken))
                        taken, envelope = end, b""
                begin = end
                if len(added) == TELL_EVERY:
                    self._keep(lines[done:taken], added, head, kept)
                    done, added = taken, []
        finally:
            if added:
                self._keep(lines[done:taken], added, head, kept)

    def _keep(self, lines: bytes, added: list[Added], head: int, kept: bool) -> None:
        self._unwritten = lines, added, head, kept
        self._write()

    def _write(self) -> None:
        """What holds, into the book. Where that fails, as on a full disk, it waits: it was verified, and
        would be twice in the ledger if it were asked for again."""
        if self._unwritten is None:
            return
        lines, added, head, kept = self._unwritten
        self.book.add(lines, added, kept=kept)
        self._unwritten = None
        size = self.book.size
        states = {run: self._verifier.state(run) for run in self._verifier.found.runs}
        self._tell(
            size=size,
            head=max(head, size),
            assembly=self._verifier.assembly,
            states={run: state for run, state in states.items() if state is not None},
            stories=dict(self._stories),
            closed=False,
        )

    def _entry(self, entry: Entry, envelope: bytes) -> None:
        """One that holds."""
        said = said_in(envelope) if entry.type in NAMES_CONTRIBUTION else None
        with self._folding:
            self._fold.take(entry, said)
        if entry.scope == CONSORTIUM:
            return
        if entry.type == "run-planned":
            self._stories[entry.scope] = Story(entry.body["plan"])
        at_ms = round(parse_time(entry.at).timestamp() * 1000)
        self._stories[entry.scope].take(entry, said, at_ms)

    def account(self) -> Account:
        """What each member gave, as of what was verified; some seconds old at most."""
        with self._folding:
            now = time.monotonic()
            if self._accounted is None or (
                self._accounted[1] < self.known.size and now - self._accounted[0] > ACCOUNT_S
            ):
                self._accounted = now, self.known.size, deepcopy(self._fold).account()
            return self._accounted[2]

    # -- what is no ledger ------------------------------------------------------------------------

    def _rest(self) -> None:
        if self.known.closed:
            self._shown()
        else:
            self._tell(views=self._views(self._running()))
        if self.known.charter != self._charter:  # it may show less, or more
            self._charter, self._catalog_at = self.known.charter, -CATALOG_S
        if time.monotonic() - self._catalog_at > CATALOG_S and self.known.hello is not None:
            found = self._source.listings(self.known.assembly.ring, self.known.hello.consortium)
            self._catalog_at = time.monotonic()
            derived = self._source.derivatives(self.known.assembly.ring, self.known.hello.consortium)
            known = self.known  # what is the same stays the same thing, and what was made of it good
            self._tell(
                listings=known.listings if found == known.listings else found,
                derivatives=known.derivatives if derived == known.derivatives else derived,
            )

    def _shown(self) -> None:
        """What a core shows that does not show its ledger."""
        runs: list[str] = []
        with suppress(AuthError):
            runs = [line.run for line in self._source.runs()[:MAX_VIEWS]]
        charter, members = self._source.charter(), self._source.members()
        self._tell(shown_charter=charter, shown_members=members, views=self._views(runs))

    def _views(self, runs: list[str]) -> dict[str, RunView]:
        """What the core says of runs; of none that it does not show."""
        with suppress(AuthError):
            return {run: self._source.run(run) for run in runs}
        return {}

    def _tell(self, **fields: Any) -> None:
        self._tell_all(replace(self.known, **fields))

    def _tell_all(self, known: Known) -> None:
        self.known = known
        self._news()
