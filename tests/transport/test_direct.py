"""Blobs straight to and from an object store, over real HTTP: what it is asked, what follows each failure."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapestry.errors import HashMismatch
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.storage.blobs import BlobStore
from tapestry.transport import direct as direct_module
from tapestry.transport.client import CoreClient
from tapestry.transport.direct import Astray, Direct
from tests.core.test_tls import write_certificate
from tests.transport.stub import CONSORTIUM, KEY, StubCore, altered, served, truncated

DATA = os.urandom(300_000)
SECRET = "X-Amz-Signature=0123456789abcdef"


def blob(data: bytes = DATA) -> Blob:
    return Blob(sha256=canonical.sha256(data), bytes=len(data))


class StubStore(StubCore):
    """Holds objects by path; any query will do. `faults` as of `StubCore`, for uploads an answer's status."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        path = scope["path"].removeprefix("/")
        self.requests.append((scope["method"], path, headers))
        if path in self.answers:
            await self._body(receive)
            status, more, body = self.answers[path]()
            await self._say(send, status, body, more)
        elif scope["method"] == "GET":
            await self._get(path, "", headers, receive, send)
        else:
            data = await self._body(receive)
            status = self.faults.pop(0) if self.faults else 200
            if status == 200:
                self.blobs[path] = data
            await self._say(send, status, b"")


class OfferingCore(StubCore):
    """A core that sends nodes to `at`, below which its blobs lie."""

    def __init__(self) -> None:
        super().__init__()
        self.at = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        path, method = scope["path"], scope["method"]
        sha = path.removeprefix("/v1/blobs/")
        if method == "GET" and "tapestry-direct" in headers and sha in self.blobs:
            self.requests.append((method, path, headers))
            said = {"bytes": len(self.blobs[sha]), "url": f"{self.at}/{sha}?{SECRET}"}
            await self._say(send, 200, canonical.encode(said), {"tapestry-direct": "1"})
        elif method == "POST" and path == "/v1/blobs/missing":
            asked = canonical.decode(await self._body(receive))["blobs"]
            missing = {s: 0 for s in asked if s not in self.blobs}
            await self._say(send, 200, canonical.encode({"direct": 1000, "missing": missing}))
        elif method == "POST" and canonical.is_sha256(sha):
            self.requests.append((method, path, headers))
            await self._place(sha, send)
        else:
            await super().__call__(scope, receive, send)

    store: StubStore

    async def _place(self, sha: str, send: Any) -> None:
        put = self.store.blobs.pop(sha, None)
        url = None
        if put is None:
            url = f"{self.at}/{sha}?{SECRET}"
        elif canonical.sha256(put) != sha:
            await self._error(send, 400, "hash-mismatch", "other bytes")
            return
        else:
            self.blobs[sha] = put
        await self._say(send, 200, canonical.encode({"url": url}))

    def relayed(self) -> list[str]:
        """Methods of requests that carried a blob's bytes, or were to."""
        return [
            m
            for m, t, h in self.requests
            if t.startswith("/v1/blobs/") and m in ("GET", "PUT") and "tapestry-direct" not in h
        ]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OfferingCore, StubStore]]:
    with served(OfferingCore()) as core, served(StubStore()) as store:
        assert isinstance(core, OfferingCore) and isinstance(store, StubStore)
        yield core, store


@pytest.fixture
def there(servers: tuple[OfferingCore, StubStore]) -> StubStore:
    store = servers[1]
    url = store.url
    StubStore.__init__(store)
    store.url = url
    return store


@pytest.fixture
def core(servers: tuple[OfferingCore, StubStore], there: StubStore) -> OfferingCore:
    core = servers[0]
    url = core.url
    OfferingCore.__init__(core)
    core.url, core.at, core.store = url, there.url, there
    return core


def connect(core: StubCore, **more: Any) -> CoreClient:
    return CoreClient(core.url, CONSORTIUM, KEY, parallel=3, chunk_bytes=100_000, read_s=5, **more)


@pytest.fixture
def client(core: OfferingCore) -> Iterator[CoreClient]:
    with connect(core) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")


def both_have(core: OfferingCore, there: StubStore, data: bytes = DATA) -> Blob:
    core.add(data)
    there.add(data)
    return blob(data)


# -- downloads ----------------------------------------------------------------------------------


def test_a_blob_comes_from_the_store_and_no_proof_goes_there(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    wanted = [both_have(core, there, os.urandom(5000 + n)) for n in range(5)]
    assert client.download_blobs(wanted, store) == sum(b.bytes for b in wanted)
    assert all(store.has(b.sha256) for b in wanted)
    assert core.relayed() == [] and len(there.requests) == 5
    for _, _, headers in there.requests:
        assert set(headers) == {"host", "accept-encoding", "user-agent"}
        assert headers["accept-encoding"] == "identity"
    assert all("authorization" in headers for _, t, headers in core.requests if "blobs" in t)  # it has one


def test_a_broken_download_goes_on_where_it_was(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    wanted = both_have(core, there)
    there.faults = [truncated(100_000)]
    client.download_blobs([wanted], store)
    assert store.read(wanted.sha256) == DATA and core.relayed() == []
    assert [h.get("range") for _, _, h in there.requests] == [None, "bytes=100000-"]


def test_a_store_that_breaks_off_again_and_again(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    wanted = both_have(core, there)
    there.faults = [truncated(100_000), truncated(50_000)]
    client.download_blobs([wanted], store)
    assert store.read(wanted.sha256) == DATA
    assert core.relayed() == ["GET"] and core.requests[-1][2]["range"] == "bytes=150000-"


def answer(status: int, body: bytes = b"<Error>X</Error>", **headers: str) -> Any:
    return lambda: (status, headers, body)


@pytest.mark.parametrize(
    "said",
    [
        answer(403),
        answer(404),
        answer(500),
        answer(307, b"", location="http://127.0.0.1:1/"),
        answer(200, DATA[:-1]),
        answer(200, DATA + b"?"),
        answer(200, b"?" + DATA[1:]),
        answer(200, b""),
        answer(200, DATA, **{"content-encoding": "gzip"}),
        answer(206, DATA[5:], **{"content-range": "bytes 5-9/10"}),
        answer(200, DATA, **{"content-length": "99999999999"}),
    ],
)
def test_whatever_else_the_store_says_the_core_relays(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore, said: Any
) -> None:
    wanted = both_have(core, there)
    there.answers[wanted.sha256] = said
    client.download_blobs([wanted], store)
    assert store.read(wanted.sha256) == DATA
    assert core.relayed() == ["GET"] and 1 <= len(there.requests) <= 2


def test_wrong_bytes_never_get_a_name(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    wanted = both_have(core, there)
    there.faults = [altered(5)]
    core.faults = [altered(n) for n in range(3)]
    with pytest.raises(HashMismatch):
        client.download_blobs([wanted], store)
    assert not store.has(wanted.sha256) and len(there.requests) == 1


def test_a_store_that_cannot_be_reached_is_left_alone(core: OfferingCore, store: BlobStore) -> None:
    with socket.socket() as sock:  # nobody listens there
        sock.bind(("127.0.0.1", 0))
        core.at = f"http://127.0.0.1:{sock.getsockname()[1]}"
        datas = [os.urandom(n) for n in range(4000, 4004)]
        wanted = [Blob(sha256=core.add(data), bytes=len(data)) for data in datas]
        with connect(core) as client:
            client.download_blobs(wanted[:1], store)
            asked = len(core.requests)
            client.download_blobs(wanted[1:3], store)
            assert len(core.requests) == asked + 2  # straight to the core
            client._direct._paused_until -= direct_module.PAUSE_S
            client.download_blobs(wanted[3:], store)
            assert len(core.requests) == asked + 4  # tried again
    assert all(store.has(b.sha256) for b in wanted)


def test_a_store_that_fails_too_often_is_left_alone(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    wanted = [both_have(core, there, os.urandom(n)) for n in range(4000, 4006)]
    for one in wanted:
        there.answers[one.sha256] = answer(403)
        client.download_blobs([one], store)
    assert len(there.requests) == direct_module.FAILURES
    assert all(store.has(b.sha256) for b in wanted)


def test_who_does_not_announce_it_gets_the_bytes(
    core: OfferingCore, there: StubStore, store: BlobStore
) -> None:
    wanted = both_have(core, there)
    with connect(core, direct=False) as client:
        client.download_blobs([wanted], store)
        client.upload_blobs([blob(b"x" * 5000)], _with(store, b"x" * 5000))
    assert store.read(wanted.sha256) == DATA and there.requests == []
    assert core.relayed() == ["GET", "PUT"]


def _with(store: BlobStore, data: bytes) -> BlobStore:
    store.put(data, durable=False)
    return store


def test_a_core_that_offers_nothing_is_asked_as_ever(
    there: StubStore, store: BlobStore, tmp_path: Path
) -> None:
    with served(StubCore()) as plain, connect(plain) as client:
        client.upload_blobs([blob()], _with(store, DATA))
        client.download_blobs([blob()], BlobStore.open(tmp_path / "other"))
        assert [m for m, t, _ in plain.requests if "blobs/" in t] == ["POST", "PUT", "PUT", "PUT", "GET"]


@pytest.mark.parametrize(
    "url",
    [
        "http://store.example.org/x",
        "ftp://store.example.org/x",
        "https://user:password@store.example.org/x",
        "https:///x",
        "file:///etc/passwd",
        "https://store.example.org:0/x",
        "https://[/x",
    ],
)
def test_where_a_node_does_not_go(url: str, client: CoreClient) -> None:
    """A core that is asked over TLS cannot send its nodes anywhere without."""
    traffic = client.traffic
    direct = Direct(wanted=True, secure=True, ca=None, connections=1, connect_s=1, read_s=1, traffic=traffic)
    before = traffic.requests
    with pytest.raises(Astray), direct.get(url, 0):
        pass
    assert traffic.requests == before


def test_a_store_under_a_certificate_of_the_cores_authority(client: CoreClient, tmp_path: Path) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"https://127.0.0.1:{server.server_port}/x?{SECRET}"
        got = {}
        for ca in (tmp_path / "tls.pem", None):
            direct = Direct(
                wanted=True, secure=True, ca=ca, connections=1, connect_s=5, read_s=5, traffic=client.traffic
            )
            try:
                with direct.get(url, 0) as response:
                    got[ca] = response.read()
            except Astray:
                got[ca] = b"refused"
            direct.close()
        server.shutdown()
        thread.join()
    assert list(got.values()) == [b"ok", b"refused"]


# -- uploads ------------------------------------------------------------------------------------


def test_a_blob_goes_to_the_store(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    small = b"small" * 100
    wanted = [blob(), blob(small)]
    store.put(DATA, durable=False)
    assert client.upload_blobs(wanted, _with(store, small)) == len(DATA) + len(small)
    assert core.blobs == {blob().sha256: DATA, blob(small).sha256: small}
    assert core.relayed() == ["PUT"]  # the small one
    ((method, path, headers),) = there.requests
    assert (method, path) == ("PUT", blob().sha256)
    assert headers["content-length"] == str(len(DATA)) and "transfer-encoding" not in headers
    assert "authorization" not in headers and headers["x-ms-blob-type"] == "BlockBlob"


@pytest.mark.parametrize("status", [403, 500, 307])
def test_an_upload_the_store_refuses_is_relayed(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore, status: int
) -> None:
    there.faults = [status]
    client.upload_blobs([blob()], _with(store, DATA))
    assert core.blobs[blob().sha256] == DATA and core.relayed() == ["PUT"] * 3


def test_an_upload_that_the_store_loses_is_relayed(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    there.answers[blob().sha256] = answer(200, b"")
    client.upload_blobs([blob()], _with(store, DATA))
    assert core.blobs[blob().sha256] == DATA and core.relayed() == ["PUT"] * 3


def test_an_upload_that_arrives_altered_is_relayed(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    core.store.blobs[blob().sha256] = b"left there by an earlier try"
    client.upload_blobs([blob()], _with(store, DATA))
    assert core.blobs[blob().sha256] == DATA and core.relayed() == ["PUT"] * 3


def test_what_was_put_before_a_node_was_killed_is_not_put_again(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore
) -> None:
    there.blobs[blob().sha256] = DATA
    client.upload_blobs([blob()], _with(store, DATA))
    assert core.blobs[blob().sha256] == DATA and core.relayed() == [] and there.requests == []


# -- what is told -------------------------------------------------------------------------------


def test_a_signed_url_is_in_no_log(
    core: OfferingCore,
    there: StubStore,
    client: CoreClient,
    store: BlobStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told() -> str:
        """By this side: the services run in this process too."""
        return "".join(r.getMessage() for r in caplog.records if not r.name.startswith("uvicorn"))

    caplog.set_level(logging.DEBUG)
    wanted = both_have(core, there)
    there.faults = [truncated(10)]
    client.download_blobs([wanted], store)
    for letter in (b"y", b"z"):
        client.upload_blobs([blob(letter * 5000)], _with(store, letter * 5000))
        there.faults = [403]
    assert len(there.requests) == 4 and "/v1/blobs/" in told()
    assert SECRET not in told()
    httpx.get(f"{there.url}/x?{SECRET}", trust_env=False)  # positive control
    assert SECRET in told()


def test_an_error_does_not_name_the_url(there: StubStore, client: CoreClient) -> None:
    there.answers["x"] = answer(403)
    for url in (f"{there.url}/x?{SECRET}", f"http://127.0.0.1:1/x?{SECRET}", f"http://[x?{SECRET}"):
        with pytest.raises(Astray) as caught, client._direct.get(url, 0):
            pass
        assert SECRET not in repr(caught.value)
        assert caught.value.__suppress_context__


def test_traffic_with_the_store_is_counted(
    core: OfferingCore, there: StubStore, client: CoreClient, store: BlobStore, tmp_path: Path
) -> None:
    client.upload_blobs([blob()], _with(store, DATA))
    assert len(DATA) < client.traffic.sent_bytes < len(DATA) + 8000
    there.add(DATA)
    client.download_blobs([blob()], BlobStore.open(tmp_path / "other"))
    assert len(DATA) < client.traffic.received_bytes < len(DATA) + 8000
