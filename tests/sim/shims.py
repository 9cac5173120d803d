"""Puts the simulation in the place of clock, threads, chance and event loop, in Tapestry's modules alone."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Final, TypeVar

from obstore.store import LocalStore

from tapestry.audit import file
from tapestry.identity import keys
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.node.kept import Verified
from tapestry.protocol import canonical
from tapestry.protocol.message import Message
from tests.sim.scheduler import Process, Scheduler

T = TypeVar("T")
EPOCH_S: Final = 1_700_000_000
"""What an undisturbed clock says when a run begins."""


class Chance:
    """Everything of the standard library that is not a function of its arguments, for one run."""

    def __init__(self, scheduler: Scheduler, wall_s: Callable[[], float]) -> None:
        self.scheduler = scheduler
        self.wall_s = wall_s
        self.tokens = random.Random(scheduler.rng.random())

    def shims(self) -> dict[ModuleType | type, Any]:
        scheduler = self.scheduler
        hexadecimal = SimpleNamespace(token_hex=lambda size: self.tokens.randbytes(size).hex())
        return {
            time: SimpleNamespace(
                monotonic=lambda: scheduler.now,
                time=self.wall_s,
                time_ns=lambda: round(self.wall_s() * 1e9),
                sleep=scheduler.wait,
                perf_counter=lambda: scheduler.now,
                clock_gettime=lambda _: scheduler.now,
                CLOCK_MONOTONIC=0,
            ),
            threading: SimpleNamespace(
                Lock=lambda: Lock(scheduler),
                Event=lambda: Event(scheduler),
                Thread=lambda **given: Thread(scheduler, **given),
            ),
            queue: SimpleNamespace(Queue=_Queues(scheduler)),
            secrets: hexadecimal,
            random: SimpleNamespace(random=scheduler.rng.random),
            asyncio: _asyncio(scheduler),
            ThreadPoolExecutor: Executor,
            LocalStore: Objects,
        }


class Lock:
    """As `threading.Lock`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._process: Process | None = None
        self._held = False

    def acquire(self, timeout: float = -1) -> bool:
        while self._held:
            self._scheduler.wait(until=lambda: not self._held)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """As `threading.Event`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._scheduler.wait(timeout, until=lambda: self._set)
        return self._set


class Thread:
    """As `threading.Thread`: a task of the process that starts it."""

    def __init__(
        self, scheduler: Scheduler, *, target: Callable[[], object], name: str, daemon: bool
    ) -> None:
        self._scheduler, self._target, self._name = scheduler, target, name

    def start(self) -> None:
        assert self._scheduler.current is not None
        self._scheduler.spawn(self._scheduler.current.process, self._name, self._target)


class _Queues:
    """`queue.Queue`, which is also subscripted."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __getitem__(self, _: object) -> Callable[[], Queue]:
        return self

    def __call__(self) -> Queue:
        return Queue(self._scheduler)


class Queue:
    """As `queue.Queue`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self) -> Any:
        while not self._items:
            self._scheduler.wait(until=lambda: self._items)
        return self._items.popleft()


class Executor:
    """As a `ThreadPoolExecutor` whose every call is done when it is submitted."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, function: Callable[..., T], *given: Iterable[Any]) -> Iterator[T]:
        return iter([function(*each) for each in zip(*given, strict=False)])

    def shutdown(self, **_: object) -> None:
        pass

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _asyncio(scheduler: Scheduler) -> SimpleNamespace:
    """Coroutines that never suspend: what they would wait for is done at once, or lets other tasks go on."""

    async def to_thread(function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    async def sleep(seconds: float) -> None:
        scheduler.wait(seconds)

    @asynccontextmanager
    async def timeout(_: float) -> AsyncIterator[None]:
        yield

    loop = SimpleNamespace(
        time=lambda: scheduler.now, run_in_executor=lambda _, function, *args: to_thread(function, *args)
    )
    return SimpleNamespace(to_thread=to_thread, sleep=sleep, timeout=timeout, get_running_loop=lambda: loop)


class Objects:
    """As `obstore.store.LocalStore`, by plain calls: each of obstore's goes by way of another thread, which
    takes a third of a run's time. Names are joined as text, which takes a fifth of what paths take."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def head(self, name: str) -> dict[str, int]:
        return {"size": os.stat(f"{self._root}/{name}").st_size}  # noqa: PTH116

    def get(self, name: str) -> Any:
        with open(f"{self._root}/{name}", "rb", buffering=0) as file:
            data = file.read()
        return SimpleNamespace(bytes=lambda: SimpleNamespace(to_bytes=lambda: data))

    def list(self) -> Iterator[Any]:
        found = sorted(path for path in self._root.glob("*/*") if path.is_file())
        yield [{"path": str(p.relative_to(self._root)), "size": p.stat().st_size} for p in found]

    def delete(self, name: str) -> None:
        os.unlink(f"{self._root}/{name}")  # noqa: PTH108


class Memo:
    """What was read, written or verified before: functions of bytes that never change, asked by every node
    for the same bytes, and most of a run would go into them.

    No bug can hide in that: each is remembered by all that it is given, after the real one has done it once.
    A signature that a key of this run has just made is one that it would verify.
    """

    _good: ClassVar[set[tuple[str, bytes, bytes]]] = set()
    """Key, signature and data that go together. Of all runs, since they begin alike."""
    MOST: Final = 20_000

    def __init__(self) -> None:
        self._read: dict[tuple[type, bytes], Any] = {}
        self._written: dict[int, tuple[Any, bytes]] = {}
        self._lines: dict[tuple[bytes, bool], Any] = {}
        self._canonical: set[bytes] = set()
        if len(self._good) > self.MOST:
            self._good.clear()

    def places(self) -> dict[tuple[Any, str], Any]:
        """All of it."""
        decode, parsed = canonical.decode, file._parsed

        def decoded(data: bytes, **options: Any) -> Any:
            if data in self._canonical:
                return json.loads(data)
            value = decode(data, **options)
            self._canonical.add(bytes(data))
            return value

        def line(data: bytes, *, first: bool) -> Any:
            found = self._lines.get((data, first))
            if found is None:
                found = self._lines[data, first] = parsed(data, first=first)
            return found

        return {
            **self._of(Message),
            **self._of(Envelope),
            **self._signatures(),
            (file, "_parsed"): line,
            (canonical, "decode"): decoded,
        }

    def _of(self, kind: type[Message] | type[Envelope]) -> dict[tuple[Any, str], Any]:
        """Reading and writing them."""
        from_bytes, to_bytes = vars(kind)["from_bytes"].__func__, kind.to_bytes

        def read(cls: type, data: bytes) -> Any:
            if cls is Verified:  # holds what its owner goes on changing
                return from_bytes(cls, data)
            found = self._read.get((cls, data))
            if found is None:
                found = self._read[cls, data] = from_bytes(cls, data)
            return found

        def write(message: Any) -> bytes:
            if isinstance(message, Verified):
                return to_bytes(message)
            found = self._written.get(id(message))
            if found is None:
                found = self._written[id(message)] = (message, to_bytes(message))
                self._read.setdefault((type(message), found[1]), message)
            return found[1]

        return {(kind, "from_bytes"): classmethod(read), (kind, "to_bytes"): write}

    def _signatures(self) -> dict[tuple[Any, str], Any]:
        check, make, good = keys.verify, KeyPair.sign, self._good

        def verify(public_key: str, signature: bytes, data: bytes) -> None:
            if (public_key, signature, data) not in good:
                check(public_key, signature, data)
                good.add((public_key, signature, data))

        def sign(pair: KeyPair, data: bytes) -> bytes:
            signature = make(pair, data)
            good.add((pair.public_key, signature, data))
            return signature

        return {(keys, "verify"): verify, (KeyPair, "sign"): sign}


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one to its end."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise RuntimeError("a coroutine waits for something that is not simulated")


ROOMS: Final = ("core", "host", "node", "storage", "transport", "identity", "protocol", "rounds", "audit")


@contextmanager
def installed(shims: dict[ModuleType | type, Any], named: dict[tuple[Any, str], Any]) -> Iterator[None]:
    """Within, modules have shims for what they import, and `named` attributes are replaced."""
    changed: list[tuple[Any, str, Any]] = []
    for where, (module, attribute, shim) in _places(shims).items():
        del where
        changed.append((module, attribute, getattr(module, attribute)))
        setattr(module, attribute, shim)
    for (owner, attribute), value in named.items():
        changed.append((owner, attribute, vars(owner)[attribute]))
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in reversed(changed):
            setattr(owner, attribute, value)


_found: dict[tuple[str, str], tuple[ModuleType, str, Any]] = {}


def _places(shims: dict[ModuleType | type, Any]) -> dict[tuple[str, str], tuple[ModuleType, str, Any]]:
    """Where Tapestry's modules name what a shim stands for."""
    by_id = {id(real): real for real in shims}
    if not _found:
        for name, module in list(sys.modules.items()):
            if name.startswith(tuple(f"tapestry.{room}." for room in ROOMS)):
                for attribute, value in vars(module).items():
                    if id(value) in by_id:
                        _found[name, attribute] = (module, attribute, value)
    return {key: (module, name, shims[real]) for key, (module, name, real) in _found.items()}
