"""One consortium on the engines of institutions: PostgreSQL, S3, two core processes behind one address, and a
node of two ranks. What dies is started again; the base is that of SQLite and a folder, undisturbed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import object_store, postgresql
from tests.federation.kills import processes_of
from tests.federation.support import Federation

STEPS = 20
RANKS = {"c": 2}
FEW = ("first core", "a rank")
EVERYTHING = (
    *FEW,
    "database",
    "agent",
    "object store, away",
    "node",
    "torchrun",
    "second core",
    "gate",
    "trainer",
    "replay worker of a node",
)


@contextmanager
def one_address(ports: list[int]) -> Iterator[int]:
    """A port that passes each connection on to one of several, in turn; one that does not answer is left out,
    as a load balancer does."""
    listener = socket.create_server(("127.0.0.1", 0))
    turn = iter(range(1 << 40))

    open_ones: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            open_ones.append(client)
            first = next(turn)
            for step in range(len(ports)):
                with suppress(OSError):
                    there = socket.create_connection(("127.0.0.1", ports[(first + step) % len(ports)]), 5)
                    there.settimeout(None)
                    open_ones.append(there)
                    for pair in ((client, there), (there, client)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()
                    break
            else:
                client.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in (listener, *open_ones):
            each.close()


class Killer:
    """Kills one thing after the other, each a while after the one before, in rounds of their own."""

    def __init__(self, federation: Federation, deeds: dict[str, Callable[[], object]]) -> None:
        self.federation, self.deeds = federation, list(deeds.items())
        self.done: list[str] = []

    def __call__(self) -> None:
        if self.deeds:
            current = self.federation.view().current
            if current is not None and current.round > len(self.done) + 1:
                name, deed = self.deeds[0]
                deed()
                self.done.append(name)
                del self.deeds[0]


def kill_one(federation: Federation, role: str, name: str, which: int = 0) -> None:
    found = processes_of(federation.node(name))[role]
    os.kill(sorted(found)[which], signal.SIGKILL)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victims", [FEW, pytest.param(EVERYTHING, marks=pytest.mark.long)], ids=len)
def test_all_engines_at_once_and_their_deaths_give_the_base_of_the_plain_ones(
    victims: tuple[str, ...],
    tmp_path: Path,
    postgres: postgresql.Server,
    s3: object_store.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in object_store.KEYS.items():
        monkeypatch.setenv(key, value)
    rounds = len(victims) + 2
    proxy = object_store.Proxy(s3)
    with proxy.running():
        where: dict[str, Any] = {"database": postgres.database(), "blobs": s3.bucket()}
        where["object_store"] = {"endpoint": proxy.url}
        wild = Federation(
            tmp_path / "wild", seed_blobs=tmp_path / "seed", rounds=rounds, steps=STEPS, nodes=3,
            where=where, ranks=RANKS,
        )  # fmt: skip
        deeds: dict[str, Callable[[], object]] = {
            "first core": lambda: wild.kill("core"),
            "a rank": lambda: kill_one(wild, "trainer", "c", 1),
            "database": postgres.kill,
            "agent": lambda: kill_one(wild, "agent", "a"),
            "object store, away": lambda: proxy.spoil("PUT", None, times=12),
            "node": lambda: wild.kill("b"),
            "torchrun": lambda: kill_one(wild, "torchrun", "c"),
            "second core": lambda: wild.kill("core-2"),
            "gate": lambda: kill_one(wild, "gate", "c"),
            "trainer": lambda: kill_one(wild, "trainer", "a"),
            "replay worker of a node": lambda: kill_one(wild, "replay", "b"),
        }
        killer = Killer(wild, {name: deeds[name] for name in victims})
        try:
            with one_address([wild.port, wild.beside("core-2")]) as port:
                wild.url = f"http://127.0.0.1:{port}"
                wild.start()
                wild.keep_going(timeout_s=420, between=killer)
            history = wild.history()
        finally:
            wild.stop()
    print(f"killed once: {', '.join(killer.done)}; started again: {wild.restarts}")
    assert not killer.deeds
    assert wild.restarts.keys() >= ({"core", "core-2", "b"} if victims is EVERYTHING else {"core"})
    calm = Federation(
        tmp_path / "calm", seed_blobs=tmp_path / "seed-2", rounds=rounds, steps=STEPS, nodes=3, ranks=RANKS
    )
    try:
        calm.start()
        calm.keep_going(timeout_s=120)
        assert calm.history() == history
    finally:
        calm.stop()
