"""Whose turn it is at the trainer: several runs share it, and it has one job at a time.

A turn is one round. A job that was begun is left alone while its run still wants it; then the run that
has waited longest is next, so that none starves, however many there are and however short the rounds of
the others.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from tapestry.errors import TapestryError
from tapestry.host import files
from tapestry.node import child
from tapestry.node.home import Home
from tapestry.node.session import Order, Session
from tapestry.training.spool import TrainJob


class Turns:
    """The trainer's one job.

    Args:
        home: the node's; the job that lies there when the agent starts goes first, if it is still wanted.
    """

    def __init__(self, home: Home) -> None:
        self.given: Order | None = None
        self._home = home
        self._turn = 0
        self._last: dict[str, int] = {}
        """When each run had its last turn."""
        self._lying = _run_of(home)
        """Run of the job an agent before this one gave, until it is known whether that is still wanted."""

    def give(self, sessions: Mapping[str, Session], troubled: Container[str]) -> None:
        """See that the trainer has a job, if any run wants one.

        Args:
            sessions: of all runs.
            troubled: runs that cannot go on just now; the others go before them.
        """
        wanted = {run: session.order for run, session in sessions.items() if session.order is not None}
        if self.given is not None and wanted.get(self.given.job.run) is self.given:
            return
        self.given = None
        if not wanted or self._waits(sessions, troubled):
            return
        first, self._lying = self._lying, None
        run = min(wanted, key=lambda name: (name != first, name in troubled, self._last.get(name, 0)))
        self._turn += 1
        self._last[run] = self._turn
        self.given = wanted[run]
        if not self.given.is_given(self._home):
            files.write_atomic(self._home.job, self.given.data, durable=False)
            child.log("job", run=run, round=self.given.job.round)

    def _waits(self, sessions: Mapping[str, Session], troubled: Container[str]) -> bool:
        """Whether the run of the job that lies there has not been heard of yet."""
        session = sessions.get(self._lying) if self._lying is not None else None
        if session is None or session.finished or session.run in troubled:
            return False
        return session.view is None


def _run_of(home: Home) -> str | None:
    try:
        return TrainJob.from_bytes(files.read_limited(home.job, TrainJob.MAX_BYTES)).run
    except (FileNotFoundError, TapestryError):
        return None
