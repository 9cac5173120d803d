"""Blobs that were lost or damaged at this node: the trainer finds them, the agent fetches them anew.

The trainer has no network and ends with an error. The supervisor starts it again, after ever longer pauses,
and meanwhile the agent reads what that error is in its status file.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tapestry.errors import HashMismatch, NotFound
from tapestry.node import child
from tapestry.node.home import Home, read_json
from tapestry.training.spool import TrainJob

if TYPE_CHECKING:
    from tapestry.node.sync import Library

MENDABLE: Final = (HashMismatch, NotFound)
"""What a trainer ends with that the agent can mend."""
LOOK_S: Final = 0.2


class Mender:
    """Used by the agent."""

    def __init__(self, home: Home, library: Library) -> None:
        self._home = home
        self._library = library
        self._next = 0.0
        self._mended: dict[str, Any] = {}
        """What the trainer said last about a blob that is whole again."""

    def look(self, job: TrainJob) -> None:
        """Where the trainer ended for want of a blob of this job, see that all of them are whole.

        Raises:
            TapestryError: the core is away, or does not have them; call again.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        told = read_json(self._home.status("trainer")) or {}
        error = child.from_json(told.get("error"))
        if isinstance(error, MENDABLE) and told != self._mended:
            self._library.mend(job.state, job.plan)
            self._mended = told
            child.log("mended", run=job.run, because=error.message)
