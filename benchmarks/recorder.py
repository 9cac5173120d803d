"""A TCP proxy on this machine that keeps every byte of both directions, as an eavesdropper before encryption
would: `NUMBER.up` is from who connects to the target, `NUMBER.down` is back, a pair a connection."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

READ_BYTES = 64 << 10


class Recorder:
    """Open while the context is; `port` is where it listens, on 127.0.0.1.

    Args:
        target_port: on 127.0.0.1.
        folder: made if it is not there.
    """

    def __init__(self, target_port: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._target, self._folder = ("127.0.0.1", target_port), folder
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._closed = False

    def __enter__(self) -> Recorder:
        self._thread = threading.Thread(target=self._serve, name="recorder", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)  # what it has accepted is among the open ones then
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def sent(self) -> int:
        """Bytes towards the target so far."""
        return sum(path.stat().st_size for path in self._folder.glob("*.up"))

    def _serve(self) -> None:
        number = 0
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, 5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            number += 1
            self._open += [near, far]
            for source, sink, way in ((near, far, "up"), (far, near, "down")):
                place = self._folder / f"{number}.{way}"
                threading.Thread(target=_pump, args=(source, sink, place), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, place: Path) -> None:
    """Written down first, then handed on."""
    with place.open("wb", buffering=0) as file:
        with suppress(OSError):
            while data := source.recv(READ_BYTES):
                file.write(data)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
