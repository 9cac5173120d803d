"""What a database engine has to offer beside SQL, and the errors all of them share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy.engine import Connection, Engine

from tapestry.errors import TapestryError


class Backend(Protocol):
    """One kind of database.

    A write transaction holds a lock that all writers of the database want, of other processes as well:
    the log's sequence has no gaps, so they could not go on side by side anyway.
    """

    name: str
    """For messages: which database it is, without secrets."""
    engine: Engine

    def start(self, connection: Connection, *, writing: bool) -> None:
        """First statements of a transaction; for a writing one, return once no other process writes."""
        ...

    def translate(self, cause: BaseException) -> TapestryError:
        """What an error of the driver means here."""
        ...

    def leading(self) -> AbstractContextManager[Leadership]:
        """A candidate for being the one process that coordinates."""
        ...


class Leadership(Protocol):
    """One process of those that share a database leads; when it ends or loses its connection, another
    may within seconds."""

    def acquire(self) -> bool:
        """Whether this process leads now. Harmless to repeat: asks anew whether it still does.

        Raises `StoreError` where the database cannot be asked; then it does not lead.
        """
        ...
