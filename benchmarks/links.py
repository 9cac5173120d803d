"""A link between two programs on this machine: a TCP proxy with a rate, a delay, loss and resets.

    python -m benchmarks.links --to 127.0.0.1:8000 --listen 9000 --rate 10Mbit --delay 50ms --loss 1%

or, from Python, `with Proxy("127.0.0.1", 8000, up=Link(delay_s=0.05), down=Link()) as proxy: ... proxy.port`.
Both ends must be on the loopback. *Up* is from who connects to the target, *down* is back; a *round trip*
is the sum of both delays; a *chunk* is at most 1448 bytes of one read, what a packet would carry.

Rate: all connections share it, in turn; after a pause 20 ms worth of bytes pass at once. Delay: a byte comes
out that much later, in order, with as many under way as the rate fills. Loss: TCP cannot lose bytes, so a
lost chunk comes out a round trip later, with all that follows it on its connection. Resets: RST to both ends.

What it does not show: connecting costs no round trip; neither slow start nor a sender that slows down after
loss (give a lower rate); a chunk is lost once at most; resends take nothing of the rate. A target that
refuses looks like a reset just after connecting. The seed repeats the draws, not how bytes fall into chunks.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import ipaddress
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import TypeVar

from benchmarks.link_pump import Lane, Link, Pump, Reset
from tapestry.errors import InputError, PortInUse

T = TypeVar("T")
SOCKET_BYTES = 256 << 10
"""The system's own buffers; left to themselves they would take megabytes that no link holds."""
__all__ = ["Counts", "Link", "Proxy"]
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """So far. Bytes count when they were handed on; resets are those the links made."""

    connections: int
    resets: int
    bytes_up: int
    bytes_down: int


class Proxy:
    """A link to a target, open while the context is; it runs in a thread of its own.

    Leaving the context resets what is still connected. `port` is where it listens, on 127.0.0.1.

    Raises:
        InputError: the target is not on the loopback.
        PortInUse: somebody listens on `listen_port`.
    """

    def __init__(
        self, target_host: str, target_port: int, *, up: Link, down: Link, seed: int = 0, listen_port: int = 0
    ) -> None:
        self._target = (_loopback(target_host), target_port)
        round_trip_s = up.delay_s + down.delay_s
        self._up, self._down = Lane(up, round_trip_s), Lane(down, round_trip_s)
        self._seed = seed
        self._connections = self._resets = 0
        self._ready = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._listener = _listen(listen_port)
        self.port: int = self._listener.getsockname()[1]

    @property
    def counts(self) -> Counts:
        return Counts(
            connections=self._connections,
            resets=self._resets,
            bytes_up=self._up.bytes,
            bytes_down=self._down.bytes,
        )

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._serving.cancel)
        self.wait()

    def wait(self) -> None:
        """Until it ends; raises what it ended with."""
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError), self._listener:
                asyncio.run(self._serve())
        except Exception as failed:  # noqa: BLE001 - raised again by `wait`
            self._failed = failed

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        serving = asyncio.current_task()
        assert serving is not None
        self._serving = serving
        self._ready.set()
        async with asyncio.TaskGroup() as group:

            def take() -> None:
                """Not `sock_accept`: when that is cancelled, it drops what it has accepted."""
                try:
                    near, _ = self._listener.accept()
                except (BlockingIOError, ConnectionError):
                    return
                except OSError as error:  # as where no more files may be open
                    self._failed = error
                    serving.cancel()
                    return
                near.setblocking(False)
                self._connections += 1
                task = group.create_task(self._connect(near, self._connections))
                task.add_done_callback(lambda _: near.close())  # one cancelled before its first step too

            self._loop.add_reader(self._listener, take)
            try:
                await asyncio.Event().wait()
            finally:
                self._loop.remove_reader(self._listener)

    async def _connect(self, near: socket.socket, number: int) -> None:
        far = _socket(socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET)
        well = False
        try:
            await self._loop.sock_connect(far, self._target)
            up = Pump(near, far, self._up, Random(f"{self._seed}/{number}/up"))
            down = Pump(far, near, self._down, Random(f"{self._seed}/{number}/down"))
            async with asyncio.TaskGroup() as both:
                ways = [both.create_task(pump.run()) for pump in (up, down)]
            well = all(way.result() for way in ways)
        except* Reset:
            self._resets += 1
        except* OSError:
            pass  # an end went away, or never was there
        finally:
            for sock in (near, far):
                if not well:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                sock.close()


def _loopback(host: str) -> str:
    """The address; names but `localhost` are not looked up."""
    address = "127.0.0.1" if host == "localhost" else host
    with suppress(ValueError):
        if ipaddress.ip_address(address).is_loopback:
            return address
    raise InputError(f"the target {host} is not on the loopback", hint="give 127.0.0.1, ::1 or localhost")


def _socket(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    return made


def _listen(port: int) -> socket.socket:
    made = _socket(socket.AF_INET)  # what it accepts has its buffers
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        made.listen(128)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"somebody listens on port {port} already", hint="choose another, or 0") from None
        raise
    return made


# -- command ----------------------------------------------------------------------------------------------


def _quantity(what: str, units: dict[str, float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z%]*)", text)
        if found is None or found[2] not in units:
            known = " or ".join(repr(unit) for unit in units if unit)
            alone = "alone or " if "" in units else ""
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}; write a number, {alone}with {known}")
        return float(found[1]) * units[found[2]]

    return read


def _ways(read: Callable[[str], T]) -> Callable[[str], tuple[T, T]]:
    """`VALUE`, or `UP/DOWN`."""

    def both(text: str) -> tuple[T, T]:
        up, _, down = text.partition("/")
        return read(up), read(down or up)

    return both


def _target(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), _port(port)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


_RATE = _ways(_quantity("rate", {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}))
_DELAY = _ways(_quantity("delay", {"ms": 1e-3, "s": 1.0}))
_CHANCE = _ways(_quantity("chance", {"": 1.0, "%": 0.01}))
_BYTES = _ways(_quantity("size", {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.links",
        description="A TCP proxy on this machine with a rate, a delay, loss and resets, until Ctrl-C.",
        epilog="Values are for each way, or UP/DOWN (up: towards the target).\n\nexample:\n"
        "  python -m benchmarks.links --to 127.0.0.1:8000 --listen 9000 --rate 10Mbit/50Mbit --delay 50ms",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--to", type=_target, required=True, metavar="HOST:PORT", help="target, on the loopback"
    )
    made.add_argument(
        "--listen", type=_port, default=0, metavar="PORT", help="port here; 0: any free one (0)"
    )
    made.add_argument(
        "--rate", type=_RATE, help="bits a second, all connections together, e.g. 10Mbit (none)"
    )
    made.add_argument("--delay", type=_DELAY, default=(0.0, 0.0), help="one way, e.g. 50ms (0)")
    made.add_argument("--loss", type=_CHANCE, default=(0.0, 0.0), help="of a packet, e.g. 0.5%% (0)")
    made.add_argument("--reset-after", type=_BYTES, metavar="SIZE", help="of a connection, e.g. 8MiB (never)")
    made.add_argument("--reset-chance", type=_CHANCE, default=(0.0, 0.0), help="at a packet (0)")
    made.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    return made


def _links(given: argparse.Namespace) -> list[Link]:
    """Up and down."""
    return [
        Link(
            rate_bits_s=given.rate and given.rate[way],
            delay_s=given.delay[way],
            loss=given.loss[way],
            reset_after_bytes=given.reset_after and int(given.reset_after[way]),
            reset_chance=given.reset_chance[way],
        )
        for way in (0, 1)
    ]


def main(argv: list[str]) -> int:
    """Prints where it listens on stdout and, at the end, what passed on stderr."""
    reading = parser()
    given = reading.parse_args(argv)
    try:
        up, down = _links(given)
        proxy = Proxy(*given.to, up=up, down=down, seed=given.seed, listen_port=given.listen)
    except (InputError, PortInUse) as error:
        reading.error(f"{error}; {error.hint}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), proxy:
        print(f"listening on 127.0.0.1:{proxy.port}", flush=True)
        proxy.wait()
    print(proxy.counts, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
