"""What every HTTP server of ours begins with: a bound socket, and uvicorn's parts with their gaps closed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http import h11_impl

from tapestry.errors import PortInUse, ResourceError, SettingsError

MAX_HEADER_BYTES: Final = 32 << 10
HEAD_S: Final = 20.0
"""A connection that brings no whole head in this time, or at most twice that, is closed. uvicorn waits for
ever, so that whoever opens as many connections as are allowed would keep all others out."""
BACKLOG: Final = 512


def listen(host: str, port: int, *, where: str) -> socket.socket:
    """A socket bound to an address; port 0 takes a free one.

    Args:
        host: name or address.
        port: to listen on.
        where: in which file or option both are set, for a hint.

    Raises:
        PortInUse: somebody listens there.
        SettingsError: no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as e:
        raise SettingsError(f"host {host} is no address to listen on: {e.strerror}") from e
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as e:
        sock.close()
        if e.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} of {host} is in use",
                hint=f"stop what listens there, or set another port in {where}",
            ) from e
        if e.errno in (errno.EACCES, errno.EADDRNOTAVAIL):
            raise SettingsError(
                f"cannot listen on {host}, port {port}: {e.strerror}",
                hint=f"correct host and port in {where}",
            ) from e
        raise ResourceError(f"cannot listen on {host}: {e.strerror}") from e
    return sock


class Server(uvicorn.Server):
    """Leaves signals alone; they are those of whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Connection(h11_impl.H11Protocol):
    """Ends where it begins no request. One that rests between two is uvicorn's, a slow body `pieces`'s."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look(None, False)

    def _look(self, before: object, waited: bool) -> None:
        """Args: the request at the last look, and whether the next was waited for then."""
        now = self.cycle
        waits = self.timeout_keep_alive_task is None and (now is None or now.response_complete)
        if waits and waited and now is before:
            self.transport.close()
        if not self.transport.is_closing():
            self.loop.call_later(HEAD_S, self._look, now, waits)


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop`; in a thread that is not the main one nobody can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
