"""Whoever sits between node and core and changes what passes."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tapestry.errors import HashMismatch, PeerError, SettingsError, Unreachable
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient
from tests.attacks.catalog import attack
from tests.attacks.switches import Switches
from tests.transport.stub import CONSORTIUM, KEY, StubCore, altered, served, truncated

WHO = "the network"
Given = tuple[Any, ...]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")


# -- answers that are changed on their way ------------------------------------------------------

DATA = bytes(range(256)) * 1000


def _blob(data: bytes = DATA) -> Blob:
    return Blob(sha256=canonical.sha256(data), bytes=len(data))


@attack(
    "bytes-altered-on-their-way",
    tries="flips a bit of every blob a node fetches",
    stopped_by="a blob gets its name only if it has its hash",
)
def test_altered(stub: StubCore, client: CoreClient, store: BlobStore, switches: Switches) -> None:
    stub.add(DATA)
    good = stub.add(DATA[::-1])
    stub.faults = [altered(n) for n in range(3)]
    with pytest.raises(HashMismatch):
        client.download_blobs([_blob()], store)
    assert not store.has(_blob().sha256)
    client.download(good, store, max_bytes=len(DATA))
    stub.faults = [altered(7)]
    with switches.check_off(
        "tapestry.storage.receiver.Receiver.finish",
        "(actual := self._hash.hexdigest()) != self.expected.sha256",
    ):
        client.download_blobs([_blob()], store)
    assert store.path(_blob().sha256).read_bytes() != DATA


@attack(
    "download-cut-off",
    tries="ends the connection in the middle of every blob",
    stopped_by="what came is kept, and a blob is whole or has no name",
)
def test_truncated(stub: StubCore, client: CoreClient, store: BlobStore, switches: Switches) -> None:
    sha = stub.add(DATA)
    stub.faults = [truncated(n) for n in (1000, 0, 0, 0)]
    with pytest.raises(Unreachable):
        client.download_blobs([_blob()], store)
    assert not store.has(sha)
    client.download_blobs([_blob()], store)
    assert store.read(sha) == DATA
    store.delete(sha)
    stub.faults = [truncated(1000)]
    with (
        switches.off("tapestry.transport.transfers.Transfers._fill", _as_far_as_it_goes),
        switches.check_off("tapestry.storage.receiver.Receiver.finish", "self.offset != self.expected.bytes"),
        switches.check_off(
            "tapestry.storage.receiver.Receiver.finish",
            "(actual := self._hash.hexdigest()) != self.expected.sha256",
        ),
    ):
        client.download_blobs([_blob()], store)
    assert store.path(sha).stat().st_size == 1000, "half a blob under the name of the whole"


def _as_far_as_it_goes(transfers: Any, writer: Any, response: httpx.Response, *, skip: int) -> int:
    received = 0
    try:
        for piece in response.iter_raw():
            writer.write(piece)
            received += len(piece)
    except httpx.HTTPError:
        pass
    return received


@attack(
    "another-part-of-a-blob",
    tries="answers a request to go on with another part of the blob",
    stopped_by="the part that comes must be the one asked for, and the whole is hashed",
)
def test_another_part(stub: StubCore, client: CoreClient, store: BlobStore, switches: Switches) -> None:
    sha = stub.add(DATA)
    real = stub._get

    async def elsewhere(sha: str, query: str, headers: dict[str, str], receive: Any, send: Any) -> None:
        async def moved(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (k, v.replace(b"bytes 1000-", b"bytes 2000-")) for k, v in message["headers"]
                ]
            await send(message)

        await real(sha, query, headers, receive, moved)

    stub._get = elsewhere  # type: ignore[method-assign]
    stub.faults = [truncated(1000)]
    with pytest.raises(PeerError, match="another part"):
        client.download_blobs([_blob()], store)
    assert not store.has(sha)
    store.part_path(sha).unlink(missing_ok=True)
    stub.faults = [truncated(1000)]
    with switches.off("tapestry.transport.transfers._check_part"):
        client.download_blobs([_blob()], store)  # no complaint, though it says it is another part
    del stub._get
    other = stub.add(DATA[::-1])
    client.download(other, store, max_bytes=len(DATA))


@attack(
    "redirect",
    tries="sends a node, with its proof, to another address",
    stopped_by="no redirect is followed",
)
def test_redirect(stub: StubCore, client: CoreClient, switches: Switches) -> None:
    with served(StubCore()) as thief:
        stub.answers["/v1/members"] = lambda: (307, {"location": f"{thief.url}/v1/members"}, b"")
        thief.answers["/v1/members"] = lambda: (200, {}, b'{"members":[]}')
        client.hello()
        assert client.members() is None and not thief.requests
        client.missing([])
        with switches.check_off(
            "tapestry.transport.connection.Connection._begin",
            "self.http.send(built, stream=True)",
            lambda http, built: http.send(built, stream=True, follow_redirects=True),
            given="self.http, built",
        ):
            client.members()
        assert [target for _, target, _ in thief.requests] == ["/v1/members"]


@attack(
    "compressed-answer",
    tries="answers compressed, a thousandth of what it unpacks to",
    stopped_by="compression is not asked for, and refused",
)
def test_compressed_answer(stub: StubCore, client: CoreClient, switches: Switches) -> None:
    stub.answers["/v1/members"] = lambda: (200, {"content-encoding": "gzip"}, b'{"members":[]}')
    with pytest.raises(PeerError, match="compressed"):
        client.members()
    stub.answers["/v1/runs"] = lambda: (200, {}, b'{"runs":[]}')
    assert client.runs() == {"runs": []}
    with switches.check_off(
        "tapestry.transport.connection.Connection.open",
        'response.headers.get("Content-Encoding", "identity") != "identity"',
    ):
        assert client.members() == {"members": []}


# -- TLS ----------------------------------------------------------------------------------------


def _certificate(folder: Path, name: str) -> Path:
    """An authority that vouches for 127.0.0.1; the file holds certificate and key."""
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
    )
    path = folder / f"{name}.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + pem)
    return path


@contextmanager
def _in_between(stub: StubCore, certificate: Path) -> Iterator[str]:
    """Ends TLS with a certificate of its own and passes everything on; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    port = int(stub.url.rpartition(":")[2])
    listening = socket.create_server(("127.0.0.1", 0))

    def pump(source: Any, sink: Any) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, sink):
                each.close()

    def serve() -> None:
        while True:
            try:
                raw, _ = listening.accept()
            except OSError:
                return
            try:
                inside = context.wrap_socket(raw, server_side=True)
            except (ssl.SSLError, OSError):
                raw.close()
                continue
            outside = socket.create_connection(("127.0.0.1", port))
            # one request, and its answer until nothing more comes
            inside.settimeout(5)
            outside.settimeout(0.3)
            outside.sendall(inside.recv(65536))
            pump(outside, inside)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5)


@attack(
    "certificate-of-another-authority",
    tries="ends TLS with a certificate that another authority has signed, and reads along",
    stopped_by="a node trusts the one authority it was given with the invitation",
)
def test_another_authority(tmp_path: Path, stub: StubCore, switches: Switches) -> None:
    right, wrong = _certificate(tmp_path, "right"), _certificate(tmp_path, "wrong")

    def hello(url: str) -> str:
        with CoreClient(url, CONSORTIUM, KEY, ca=right, read_s=2) as client:
            return client.hello().consortium

    with _in_between(stub, right) as url:
        assert hello(url) == CONSORTIUM
    with _in_between(stub, wrong) as url:
        with pytest.raises(Unreachable, match="certificate"):
            hello(url)
        with switches.off("tapestry.transport.connection.tls", lambda _: _trusting()):
            assert hello(url) == CONSORTIUM


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@attack(
    "address-with-another-scheme",
    tries="has a node read a file of its own machine as the core's address",
    stopped_by="an address is http or https, a host and a port",
)
def test_another_scheme(stub: StubCore, switches: Switches) -> None:
    for url in ("file:///etc/passwd", "https://core@thief.example/", "ftp://core.example"):
        with pytest.raises(SettingsError, match="not the address of a core"):
            CoreClient(url, CONSORTIUM, KEY)
    with CoreClient(stub.url, CONSORTIUM, KEY) as client:
        assert client.hello().consortium == CONSORTIUM
    with switches.check_off(
        "tapestry.transport.connection._checked_url",
        'not good or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username',
    ):
        CoreClient("file:///etc/passwd", CONSORTIUM, KEY).close()


@attack(
    "object-store-without-tls",
    tries="names an object store without TLS to a node whose core has it, to read the weights",
    stopped_by="behind an https core only https stores are followed, and none with a user in its address",
)
def test_store_without_tls(tmp_path: Path, switches: Switches) -> None:
    from tapestry.transport.connection import Traffic
    from tapestry.transport.direct import Astray, Direct

    traffic = Traffic()
    direct = Direct(wanted=True, secure=True, ca=None, connections=1, connect_s=1, read_s=1, traffic=traffic)
    stub = StubCore()
    with served(stub):
        sha = stub.add(b"weights")
        url = f"{stub.url}/v1/blobs/{sha}"
        with pytest.raises(Astray), direct.get(url, 0):
            pass
        assert not stub.requests and direct.usable, "the core relays, and other blobs still go directly"
        with (
            switches.check_off(
                "tapestry.transport.direct.Direct._check", "not good or parts.scheme not in self._schemes"
            ),
            direct.get(url, 0) as response,
        ):
            assert b"".join(response.iter_raw()) == b"weights"
    direct.close()
