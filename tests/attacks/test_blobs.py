"""Blobs: other bytes, other addresses, and more of them than a node may leave."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import httpx

from tapestry.protocol import canonical
from tests.attacks.catalog import attack
from tests.attacks.support import Game, refused
from tests.attacks.switches import Switches

WHO = "an enrolled node, by what it uploads"
Given = tuple[Any, ...]
MISSING = "/v1/blobs/missing"


def _post(game: Game, path: str, body: bytes) -> httpx.Response:
    return game.eve.ask("POST", path, body)


@attack(
    "blob-with-other-bytes",
    tries="uploads bytes under the address of others",
    stopped_by="a blob gets its name only if it has its hash",
)
def test_other_bytes(game: Game, switches: Switches) -> None:
    data, sha = b"evil", canonical.sha256(b"what a node will ask for" + game.run.encode())
    refused(game.eve.put(data, sha=sha), "hash-mismatch")
    assert not game.core.store.has(sha)
    game.goes_on()
    with switches.check_off(
        "tapestry.storage.receiver.Receiver.finish",
        "(actual := self._hash.hexdigest()) != self.expected.sha256",
    ):
        assert game.eve.put(data, sha=sha).status_code == 200
    assert game.core.store.path(sha).read_bytes() == data
    game.core.store.delete(sha)


@attack(
    "blob-over-the-cores-limit",
    tries="announces a blob larger than the core takes",
    stopped_by="the announced size is held against `limits.blob_bytes` before a byte is read",
)
def test_a_large_blob(game: Game, switches: Switches) -> None:
    data = bytes(2 << 20)
    refused(game.eve.put(data), "too-large")
    assert not game.core.store.has(canonical.sha256(data))
    game.goes_on()
    with switches.check_off("tapestry.core.blobs_api.BlobsApi._expected", "size > most"):
        assert game.eve.put(data).status_code == 200
    game.core.store.delete(canonical.sha256(data))


@attack(
    "more-bytes-than-announced",
    tries="goes on sending behind the end of a blob",
    stopped_by="bytes are counted as they come, by the server and by the receiver",
)
def test_more_than_announced(game: Game, switches: Switches) -> None:
    data = b"more and more" * 1000 + game.run.encode()
    sha, most = canonical.sha256(data), 100
    target = f"/v1/blobs/{sha}?bytes={most}&offset=0"

    def tried() -> httpx.Response:
        headers = {"Authorization": game.eve.proof("PUT", target, sha)}
        return game.eve.http.put(game.eve.url + target, content=iter([data]), headers=headers)

    refused(tried(), "too-large")
    store = game.core.store
    assert store.partial(sha) <= most
    game.goes_on()
    with (
        switches.check_off("tapestry.transport.server.pieces", "received > max_bytes"),
        switches.check_off(
            "tapestry.storage.receiver.Receiver.write", "self.offset + len(view) > self.expected.bytes"
        ),
    ):
        tried()
    assert store.partial(sha) == len(data), "all of it is on the core's disk"


@attack(
    "address-that-is-a-path",
    tries="asks for a blob named `../keys/core.key`",
    stopped_by="an address is 64 hexadecimal digits, whoever looks it up",
)
def test_traversal(game: Game, switches: Switches) -> None:
    store = game.core.store
    answer = game.eve.ask("GET", "/v1/blobs/..%2F..%2Fkeys%2Fcore.key")
    refused(answer, "not-found")
    refused(game.eve.ask("GET", "/v1/blobs/../../keys/core.key"), "not-found")
    refused(_post(game, MISSING, b'{"blobs":["../../keys/core.key"]}'), "format")
    refused(game.eve.ask("PUT", "/v1/blobs/core.key?bytes=1", b"x"), "not-found")
    game.goes_on()
    with switches.off("tapestry.storage.blobs.blob_name", lambda sha: sha):
        fd = store.open_for_reading("../keys/core.key")
        assert b"PRIVATE KEY" in os.read(fd, 1000)
        os.close(fd)


@attack(
    "quota-exhausted",
    tries="leaves more at the core than one node may",
    stopped_by="what no accepted contribution uses is counted for each node",
)
def test_quota(game: Game, switches: Switches) -> None:
    def fill() -> httpx.Response:
        for number in range(40):
            answer = game.eve.put(number.to_bytes(2, "big") * (1 << 19))
            if answer.status_code != 200:
                break
        return answer

    with _little(game, switches, 4 << 20):
        refused(fill(), "refused")
        game.goes_on()
        with switches.off("tapestry.core.quota.Quota._check"):
            assert fill().status_code == 200
    game.core.free("eve-1")


@attack(
    "quota-by-many-empty-blobs",
    tries="leaves very many tiny files, which cost a disk more than their bytes",
    stopped_by="each upload counts 4 KiB beside its bytes",
)
def test_many_small(game: Game, switches: Switches) -> None:
    def fill() -> httpx.Response:
        for number in range(60):
            answer = game.eve.put(b"%d of %b" % (number, game.run.encode()))
            if answer.status_code != 200:
                break
        return answer

    with _little(game, switches, 160 << 10):
        refused(fill(), "refused")
        game.core.free("eve-1")
        with switches.off("tapestry.core.quota.FILE_BYTES", 0):
            assert fill().status_code == 200
    game.core.free("eve-1")
    game.goes_on()


def _little(game: Game, switches: Switches, most: int) -> AbstractContextManager[Any]:
    """A small quota, as an operator may set it, and eve has nothing pending."""
    import pytest

    game.core.free("eve-1")
    patch = pytest.MonkeyPatch()
    patch.setattr(game.core.quota, "_most", most)
    stack = ExitStack()
    stack.callback(patch.undo)
    return stack


@attack(
    "quota-by-uploads-at-once",
    tries="begins many uploads at the same moment, each within what is left",
    stopped_by="an upload is counted in full from its beginning on",
)
def test_uploads_at_once(game: Game, switches: Switches) -> None:
    def at_once() -> int:
        """How many of ten uploads of 1 MiB are let in while all are on their way."""
        return asyncio.run(_at_once(game))

    with _little(game, switches, 4 << 20):
        assert at_once() <= 3
        game.core.free("eve-1")
        with switches.off(
            "tapestry.core.quota.Quota.reserve", lambda self, node, sha, size, _s: self.check(node, size)
        ):
            assert at_once() == 10
    game.core.free("eve-1")
    game.goes_on()


async def _at_once(game: Game) -> int:
    async def upload(number: int) -> bool:
        data = os.urandom(1000) + bytes([number]) * ((1 << 20) - 1000)
        sha = canonical.sha256(data)
        target = f"/v1/blobs/{sha}?bytes={len(data)}&offset=0"
        host, port = game.eve.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        head += f"Authorization: {game.eve.proof('PUT', target, sha)}\r\n\r\n"
        writer.write(head.encode() + data[:1000])
        await writer.drain()
        try:
            await asyncio.wait_for(reader.read(1), 0.5)  # an answer before the body is a refusal
            return False
        except TimeoutError:
            return True
        finally:
            writer.close()

    return sum(await asyncio.gather(*(upload(number) for number in range(10))))
