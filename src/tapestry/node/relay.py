"""Progress on its way from the trainer to the core, once a second. Only ever a help."""

from __future__ import annotations

import time
from typing import Final

from tapestry.errors import FormatError
from tapestry.host import files
from tapestry.node.home import Home, identity
from tapestry.node.outbox import Outbox
from tapestry.node.session import Order
from tapestry.protocol.messages import Progress
from tapestry.transport.client import CoreClient

EVERY_S: Final = 1.0


class Relay:
    """What the gate lets out of the trainer's progress, of one node."""

    def __init__(self, home: Home, client: CoreClient, outbox: Outbox) -> None:
        self._file = home.progress
        self._path = str(home.progress)
        self._client = client
        self._outbox = outbox
        self._of: Order | None = None
        self._told: tuple[float, tuple[int, int]] = (0.0, (0, 0))
        """When, and what lay there then."""

    def tell(self, given: Order | None, *, quiet: bool) -> None:
        """Hand on what is new of the job that the trainer has; `quiet`: not now. Raises as `progress` of the
        client."""
        now = time.monotonic()
        when, seen = self._told
        if given is not self._of:  # what lies there now is of the job before
            self._told, self._of = (when, identity(self._path) or (0, 0)), given
            return
        if given is None or not given.job.train or now - when < EVERY_S or quiet:
            return
        found = identity(self._path)
        if found is None or found == seen:
            return
        try:
            data = files.read_limited(self._file, Progress.MAX_BYTES)
            progress = Progress.from_bytes(data)
        except (FileNotFoundError, FormatError):
            return
        self._told = (now, found)
        if progress.round == given.job.round:
            self._client.progress(given.job.run, progress)
            self._outbox.progress(len(data))
