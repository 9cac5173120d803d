"""A world whose core serves in a process of its own, and a follower that asks it over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapestry.identity.keys import KeyPair
from tapestry.transport.connection import Connection
from tapestry.web.book import Book
from tapestry.web.follow import Follower
from tapestry.web.source import Source
from tests.core.support import FORKS, _serve


@contextmanager
def core_of(root: Path) -> Iterator[Any]:
    """Its address and its process."""
    reader, writer = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_serve, args=(root, writer, {}, None), daemon=True)
    process.start()
    writer.close()
    try:
        assert reader.poll(60)
        yield reader.recv(), process
    finally:
        process.kill()
        process.join(30)


def source(url: str, consortium: str | None = None, key: KeyPair | None = None) -> Source:
    """Asks as anybody, or as whoever has the key."""
    return Source(Connection(url, consortium, key, ca=None, connections=2, connect_s=1.0))


_OPEN: list[Follower] = []


def follower(asked: Source, folder: Path, *, asks: bool = True) -> Follower:
    """One that has asked until it knows all; `end` stops it."""
    found = Follower(asked, Book(folder))
    _OPEN.append(found)
    found._take_up()
    if asks:
        caught_up(found)
    return found


def end() -> None:
    """All of them."""
    while _OPEN:
        _OPEN.pop().stop()


def caught_up(found: Follower) -> None:
    for _ in range(50):
        found.step()
        known = found.known
        if known.trouble is None and (known.closed or known.broken or known.size == known.head > 0):
            return
    raise AssertionError(found.known.trouble)
