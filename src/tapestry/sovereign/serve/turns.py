"""One answer at a time: a line of bounded length before the engine, and a thread in which it works."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor

from tapestry.errors import TapestryError
from tapestry.sovereign.serve.answers import Closed, Full
from tapestry.sovereign.serve.engine import Engine, Piece, Wanted

MAX_AGAIN_S = 60
Numbered = tuple[int, Piece]


class Turns:
    """Who may use the engine now, and who waits.

    Args:
        engine: the only one.
        waiting: how many may wait while one is answered.
    """

    def __init__(self, engine: Engine, *, waiting: int) -> None:
        self._engine = engine
        self._places = waiting + 1
        self._taken = 0
        self._lock = asyncio.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._usual_s = 1.0
        self._ends: set[threading.Event] = set()
        self._closed = False

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the line. Raises `Full`, or `Closed` once the endpoint stops."""
        if self._closed:
            raise Closed("this endpoint is stopping")
        if self._taken >= self._places:
            again_s = min(MAX_AGAIN_S, max(1, round(self._usual_s * self._taken)))
            raise Full(
                f"{self._taken} requests are being answered or wait; one is answered at a time",
                hint=f"try again in {again_s} s, or serve with a longer --queue",
                again_s=again_s,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def answers(self, wanted: Wanted, count: int) -> AsyncGenerator[Numbered]:
        """`Engine.answers` once it is this request's turn. Whoever closes this early ends them."""
        async with self._lock:
            began = time.monotonic()
            end = threading.Event()
            self._ends.add(end)
            if self._closed:
                end.set()
            pieces: asyncio.Queue[Numbered | BaseException | None] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def work() -> None:
                last: BaseException | None = None
                try:
                    for each in self._engine.answers(wanted, count, end.is_set):
                        loop.call_soon_threadsafe(pieces.put_nowait, each)
                except BaseException as e:  # noqa: BLE001 - raised again where it is awaited
                    last = e
                with contextlib.suppress(RuntimeError):  # the loop is gone
                    loop.call_soon_threadsafe(pieces.put_nowait, last)

            done = loop.run_in_executor(self._pool, work)
            try:
                while (each := await pieces.get()) is not None:
                    if isinstance(each, BaseException):
                        raise each
                    yield each
                if end.is_set():
                    raise Closed("this endpoint stopped before the answer was whole")
            finally:
                end.set()
                self._ends.discard(end)
                await asyncio.wait({done})  # one step of the engine at most
                self._usual_s += (time.monotonic() - began - self._usual_s) / 4

    def stop(self) -> None:
        """No new requests from now on."""
        self._closed = True

    def break_off(self) -> None:
        """End what is being answered; who waits is told that there is nothing any more."""
        self._closed = True
        for end in self._ends:
            end.set()

    def close(self) -> None:
        self.break_off()
        self._pool.shutdown(wait=True, cancel_futures=True)


def unforeseen(error: BaseException) -> TapestryError:
    """What a client is told of a fault that has no type of its own."""
    return (
        error
        if isinstance(error, TapestryError)
        else TapestryError("the endpoint failed; its log says where")
    )
