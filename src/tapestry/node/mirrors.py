"""Heads of the ledger as others can see them, held against what this node was shown.

A core that relays everything can show two groups two histories and keep them apart. A static mirror
(`audit.pieces`) that the owner names is another way by which a head may come here. It is looked at now and
then; one that is away or gives something else proves nothing and troubles nobody.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tapestry.audit import pieces
from tapestry.errors import Fork, TapestryError
from tapestry.ledger.entries import Entry
from tapestry.node import child
from tapestry.node.home import Home
from tapestry.node.replica import Replica
from tapestry.node.settings import folder_of
from tapestry.transport import mirror

EVERY_S: Final = 60.0
"""Not more often, whatever happens."""
STILL_S: Final = 600.0
"""So long after, though no round has opened: where the core shows two histories, both may stand still."""
MAX_PIECE_BYTES: Final = 1 << 30


class Mirrors:
    """Of one node; the waiting is done in threads.

    Args:
        home: relative folders lie below it.
        sources: addresses or folders of mirrors.
        replica: what this node was shown.
    """

    def __init__(self, home: Home, sources: Sequence[str], replica: Replica) -> None:
        self._home = home
        self._sources = sources
        self._replica = replica
        self._seen: Hashable = None
        self._next = 0.0
        self._notes: deque[tuple[str, str, list[Entry] | None]] = deque()
        """By source what came, with the entries where they were asked for."""
        self._ahead: dict[str, str] = {}
        """By source: a head of more entries than this node has yet."""
        self._judged_at = 0
        """Entries that this node had then."""
        self._said: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def look(self, news: Hashable) -> None:
        """Look at the mirrors if there is `news` since the last time, or nothing has happened for long; hold
        what came of it against the ledger.

        Raises:
            Fork: the core has signed what contradicts what it has shown this node; a proof is kept.
        """
        longer: dict[str, str] = {}
        while self._notes:
            longer |= self._judge(*self._notes.popleft())
        if self._replica.size != self._judged_at:
            self._judged_at = self._replica.size
            self._ahead = {source: n for source, n in self._ahead.items() if self._check(source, n) is False}
        if self._thread is not None and self._thread.is_alive():
            return
        now = time.monotonic()
        if longer:
            self._start(self._fetch_longer, longer)
        elif self._sources and now >= self._next and (news != self._seen or now >= self._next + STILL_S):
            self._seen, self._next = news, now + EVERY_S
            self._start(self._fetch)

    def _start(self, work: Callable[..., None], *given: object) -> None:
        self._thread = threading.Thread(target=work, args=given, name="mirrors", daemon=True)
        self._thread.start()

    def _fetch(self) -> None:
        for source in self._sources:
            try:
                with self._reading(source) as get:
                    self._notes.append((source, pieces.checkpoint(get(pieces.CHECKPOINT)), None))
            except (OSError, TapestryError) as error:
                self._say(source, str(error))

    def _fetch_longer(self, notes: Mapping[str, str]) -> None:
        for source, note in notes.items():
            try:
                with self._reading(source) as get:
                    lines = pieces.read(get, note=note)
                    self._notes.append((source, note, [value for kind, value in lines if kind == "entry"]))
            except (OSError, TapestryError) as error:
                self._say(source, str(error))

    def _judge(self, source: str, note: str, entries: list[Entry] | None) -> dict[str, str]:
        """The source with its note, where its entries are needed to judge that."""
        if entries is not None:
            self._replica.hold_against_longer(note, entries)
            return {}
        before = self._ahead.pop(source, None)
        behind = before is not None and self._check(source, before) is False
        if self._check(source, note) is False:
            self._ahead[source] = note
            # The core has not shown it here since the last look: what is it that others have?
            return {source: note} if behind else {}
        return {}

    def _check(self, source: str, note: str) -> bool | None:
        """As `Replica.hold_against`; None where it is no head of this ledger."""
        try:
            known = self._replica.hold_against(note)
        except Fork:
            raise
        except TapestryError as error:
            self._say(source, error.message)
            return None
        self._say(source, "")
        return known

    @contextmanager
    def _reading(self, source: str) -> Iterator[pieces.Get]:
        if (near := folder_of(self._home, source)) is not None:
            yield lambda name: near / name
            return
        with tempfile.TemporaryDirectory(dir=self._home.state) as folder:  # where the agent may write
            yield mirror.getter(source, Path(folder), max_bytes=MAX_PIECE_BYTES)

    def _say(self, source: str, what: str) -> None:
        if self._said.get(source, "") != what:
            self._said[source] = what
            child.log("mirror", source=source, error=what or None)
