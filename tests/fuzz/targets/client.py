"""Answers of a lying core, as bytes on a socket, read by the node's own client; and its bodies alone.

An input is a line that says what was asked, and then the answer from its first byte on.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tapestry.audit import file
from tapestry.errors import TapestryError
from tapestry.node.home import Home
from tapestry.node.replica import Replica
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.protocol.canonical import sha256
from tapestry.storage.blobs import BlobStore
from tapestry.transport import wire
from tapestry.transport.client import CoreClient
from tapestry.transport.direct import read_url
from tests.fuzz import made
from tests.fuzz.mutate import INTEGERS, json_bytes, lines, octets
from tests.fuzz.target import Parser, Target
from tests.fuzz.targets.replica import JOINED
from tests.fuzz.targets.signed import _memory_folder

BLOB = b"a blob of some bytes"
SHA = sha256(BLOB)
MOST = 64 << 10
"""Of an answer: what a socket takes without a reader."""


class Told(http.client.HTTPConnection):
    """A connection whose peer has said everything already."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("core", 80, timeout=5)
        self._answer = answer
        self._peer: socket.socket | None = None

    def connect(self) -> None:
        self.sock, self._peer = socket.socketpair()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._peer.setblocking(False)
        self._peer.send(self._answer[:MOST])
        self._peer.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        super().close()
        if self._peer is not None:
            self._peer.close()


class Asking:
    """A client, and what can be asked with it."""

    def __init__(self, root: Path) -> None:
        self.client = CoreClient("http://core", made.CONSORTIUM_ID, made.NODE, parallel=1)
        self.store = BlobStore.open(root)
        self.answer = b""
        transport: Any = self.client.connection.http._transport
        transport._connect = self._connect
        transport._kept = 0
        client, envelope = self.client, made.SIGNED.to_bytes()
        self.questions: dict[bytes, Callable[[], object]] = {
            b"hello": client.hello,
            b"members": client.members,
            b"events": lambda: client.events(after=0),
            b"checkpoint": client.checkpoint,
            b"ledger": lambda: self._follow(root.parent),
            b"inclusion": lambda: client.inclusion(1, 3),
            b"runs": client.runs,
            b"run": lambda: client.run("run", after=1, wait_s=1.0, gist=1),
            b"round": lambda: client.round("run", 1),
            b"attest": lambda: client.attest("run", envelope),
            b"contribute": lambda: client.contribute("run", envelope),
            b"missing": lambda: client.missing([SHA]),
            b"upload": lambda: client.upload_blobs([Blob(sha256=SHA, bytes=len(BLOB))], self.store),
            b"download": lambda: client.download_blobs([Blob(sha256=SHA, bytes=len(BLOB))], self.store),
            b"unsized": lambda: client.download(SHA, self.store, max_bytes=1 << 20),
        }

    def _follow(self, root: Path) -> None:
        """A node that has no ledger yet asks for it."""
        home = Home(root)
        shutil.rmtree(home.ledger, ignore_errors=True)
        Replica(home, self.client, JOINED).follow(1)

    def _connect(self, key: object, timeout_s: float) -> Told:
        connection = Told(self.answer)
        connection.connect()
        return connection

    def call(self, data: bytes) -> None:
        asked, _, self.answer = data.partition(b"\n")
        self.client.clock.set(made.AT)
        if asked == b"upload":
            self.store.put(BLOB, durable=False)
        else:
            self.store.delete(SHA)
        self.questions.get(asked, self.client.hello)()


def _answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Tapestry-Time: {made.AT}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _seeds() -> list[bytes]:
    entries = [each.model_dump(mode="json") for each in made.CONSORTIUM_EVENTS[:2]]
    note = made.checkpoint(made.ENTRIES)
    wrong = wire.error_body(TapestryError("something"), missing=[SHA])
    error = b'{"error":{"code":"conflict","hint":null,"message":"moved on"},"missing":["%b"]}' % SHA.encode()
    lacking = canonical.encode({"missing": {SHA: 0}, "direct": 1 << 30})
    return [
        b"hello\n" + _answer(made.HELLO.to_bytes()),
        b"members\n" + _answer(canonical.encode({"members": []})),
        b"events\n" + _answer(canonical.encode({"entries": entries, "head": 2})),
        b"checkpoint\n" + _answer(note.to_bytes()),
        b"ledger\n" + _answer(b"".join(map(file.encode, made.ledger()[0]))),
        b"ledger\n" + _answer(b"".join(map(file.encode, made.ledger()[0][:9]))),
        b"inclusion\n" + _answer(canonical.encode({"proof": [made.H[1], made.H[2]]})),
        b"runs\n" + _answer(canonical.encode({"runs": []})),
        b"run\n" + _answer(made.VIEW.to_bytes()),
        b"round\n" + _answer(made.RECORD.to_bytes()),
        b"attest\n" + _answer(canonical.encode({"sequence": 13})),
        b"contribute\n" + _answer(made.SIGNED.to_bytes()),
        b"contribute\n" + _answer(error, status="409 Conflict"),
        b"contribute\n" + _answer(wrong, status="500 No"),
        b"missing\n" + _answer(lacking),
        b"upload\n" + _answer(lacking),
        b"download\n" + _answer(BLOB),
        b"download\n" + _answer(BLOB[5:], f"Content-Range: bytes 5-19/{len(BLOB)}", status="206 Part"),
        b"unsized\n" + _answer(BLOB),
    ]


NUMBERS = (
    "²",
    "9" * 20,
    "9" * 5000,
    "-1",
    "",
    "1e3",
    "0x5",
    " 5",
    "5 ",
    "+5",
    "5, 5",
    "٣",
    "18446744073709551616",
)
HEADERS = (
    *("Content-Encoding: gzip", "Transfer-Encoding: chunked", "Content-Length: 5", "Tapestry-Direct: 1"),
    *(
        "Location: http://other/",
        "Content-Range: bytes 0-1/2",
        "Content-Range: x",
        "X: \xff",
        "Tapestry-Time: x",
    ),
    *(
        "Tapestry-Time: 0001-01-01T00:00:00.000Z",
        "Tapestry-Time: 9999-12-31T23:59:59.999Z",
        "X" * 70_000,
        " x",
    ),
)
STATUS = (
    "100 Go",
    "204 None",
    "206 Part",
    "301 Moved",
    "304 Same",
    "400 Bad",
    "401 Who",
    "404 No",
    "409 Conflict",
)
STATUS += (
    "416 Range",
    "429 Slow",
    "500 No",
    "503 Away",
    "999 X",
    "000 X",
    "20 X",
    "abc",
    "200",
    "-1 X",
    "1000 X",
)


def _mutate(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    asked, _, answer = seed.partition(b"\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    told = head.split(b"\r\n")
    kind = random.randrange(10)
    if kind < 5:
        change = lines(json_bytes) if asked == b"ledger" else json_bytes
        body = change(random, body, [body])
        if random.random() < 0.9:
            told[1] = b"Content-Length: %d" % len(body)
    elif kind == 5:
        told[1] = b"Content-Length: " + random.choice((*NUMBERS, str(random.choice(INTEGERS)))).encode(
            "latin-1", "replace"
        )
    elif kind == 6:
        told.insert(random.randrange(1, len(told) + 1), random.choice(HEADERS).encode("latin-1"))
    elif kind == 7:
        told[0] = (
            random.choice((b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/9 ", b"")) + random.choice(STATUS).encode()
        )
    elif kind == 8:
        size = random.choice((b"5", b"0", b"fffffffff", b"-5", b"x", b"5;" + b"a" * 100))
        told[1] = b"Transfer-Encoding: chunked"
        body = size + b"\r\n" + body + b"\r\n0\r\n" + random.choice((b"\r\n", b"", b"A: b\r\n\r\n"))
    else:
        return octets(random, seed, seeds)
    return asked + b"\n" + b"\r\n".join(told) + b"\r\n\r\n" + body


def _client() -> Parser:
    root = Path(tempfile.mkdtemp(prefix="tapestry-fuzz-", dir=_memory_folder()))
    asking = Asking(root / "blobs")

    def close() -> None:
        asking.client.close()
        shutil.rmtree(root, ignore_errors=True)

    return Parser(seeds=_seeds(), call=asking.call, close=close)


def _errors() -> Parser:
    """`read_error` promises never to raise; an address of a store is read beside it."""
    good = canonical.encode({"url": "https://store/blob?x=1"})
    bad = wire.error_body(TapestryError("no", hint="yes"), missing=[SHA])

    def call(data: bytes) -> None:
        error, more = wire.read_error(500, data)
        assert isinstance(more, dict)
        wire.status_of(error)
        read_url(data)

    return Parser(seeds=[good, bad], call=call)


TARGETS: Sequence[Target] = (
    Target(name="core-answer", open=_client, mutate=_mutate, alone=True),
    Target(name="error-body", open=_errors, mutate=json_bytes),
)
