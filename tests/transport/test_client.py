from __future__ import annotations

import base64
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import (
    AuthError,
    Conflict,
    FormatError,
    HashMismatch,
    NotFound,
    PeerError,
    SettingsError,
    TooLarge,
    Unreachable,
    VersionError,
)
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.protocol.messages import RequestProof
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient
from tapestry.transport.core_time import CoreClock
from tapestry.transport.patience import Pauses, patiently
from tests.transport.stub import CONSORTIUM, TIME, StubCore, altered, served, truncated

DATA = os.urandom(300_000)
KEY = KeyPair.generate()


@pytest.fixture(scope="module")
def server() -> Iterator[StubCore]:
    with served(StubCore()) as core:
        yield core


@pytest.fixture
def core(server: StubCore) -> StubCore:
    url = server.url
    StubCore.__init__(server)
    server.url = url
    return server


@pytest.fixture
def client(core: StubCore) -> Iterator[CoreClient]:
    with CoreClient(core.url, CONSORTIUM, KEY, parallel=3, chunk_bytes=100_000, read_s=5) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")


def blob(data: bytes = DATA) -> Blob:
    return Blob(sha256=canonical.sha256(data), bytes=len(data))


def proof_of(headers: dict[str, str]) -> RequestProof:
    token = headers["authorization"].removeprefix("Tapestry ")
    envelope = Envelope.from_bytes(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return envelope.open_as(RequestProof, KEY.public_key)


# -- signatures and time ------------------------------------------------------------------------


def test_each_request_is_signed_over_what_is_sent(core: StubCore, client: CoreClient) -> None:
    core.answers["/v1/members"] = lambda: (200, {}, b'{"members":[]}')
    assert client.members() == {"members": []}
    client.missing(["0" * 64])
    signed = [(m, t, proof_of(h)) for m, t, h in core.requests if "authorization" in h]
    assert [(p.method, p.target) for _, _, p in signed] == [(m, t) for m, t, _ in signed]
    assert [p.consortium for *_, p in signed] == [CONSORTIUM] * 2
    assert signed[0][2].body == canonical.sha256(b"")
    assert signed[1][2].body == canonical.sha256(canonical.encode({"blobs": ["0" * 64]}))


def test_the_target_is_signed_as_it_is_sent(core: StubCore, client: CoreClient) -> None:
    with pytest.raises(NotFound):
        client.run("a/../b?c d", after=3, wait_s=0.5)
    method, _, headers = core.requests[-1]
    assert method == "GET"
    assert proof_of(headers).target == "/v1/runs/a%2F..%2Fb%3Fc%20d?after=3&wait_s=0.5"


@pytest.mark.parametrize("wrong_s", [-3e8, 0, 3e8])
def test_a_wrong_local_clock_changes_nothing(
    core: StubCore, client: CoreClient, monkeypatch: pytest.MonkeyPatch, wrong_s: float
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + wrong_s)
    core.answers["/v1/members"] = lambda: (200, {}, b"{}")
    client.members()
    at = proof_of(core.requests[-1][2]).at
    assert TIME <= at < "2026-05-01T12:00:05.000Z"


def test_time_goes_on_between_answers() -> None:
    now = [100.0]
    clock = CoreClock(lambda: now[0])
    with pytest.raises(Unreachable):
        clock.now()
    clock.set("2026-05-01T12:00:00.000Z")
    now[0] += 61.5
    assert clock.now() == "2026-05-01T12:01:01.500Z"
    clock.set("yesterday")
    assert clock.now() == "2026-05-01T12:01:01.500Z"


def test_a_request_refused_for_its_time_is_signed_anew(core: StubCore, client: CoreClient) -> None:
    client.hello()
    core.time = "2026-05-02T12:00:00.000Z"
    seen: list[str] = []

    def answer() -> Any:
        seen.append(proof_of(core.requests[-1][2]).at)
        if seen[-1] < core.time:
            error = {"error": {"code": "signature", "hint": None, "message": "wrong time"}}
            return 401, {}, canonical.encode(error)
        return 200, {}, b"{}"

    core.answers["/v1/members"] = answer
    assert client.members() == {}
    assert len(seen) == 2


def test_without_a_key_nothing_signed_is_sent(core: StubCore) -> None:
    with CoreClient(core.url, None, None) as client:
        assert client.hello().consortium == CONSORTIUM
        with pytest.raises(SettingsError, match="key"):
            client.members()
    assert [t for _, t, _ in core.requests] == ["/v1/hello"] * len(core.requests)


def test_another_consortium_is_found_out(core: StubCore) -> None:
    with CoreClient(core.url, "e" * 64, KEY) as client, pytest.raises(AuthError, match="consortium"):
        client.members()


# -- answers ------------------------------------------------------------------------------------


def test_errors_are_typed(core: StubCore, client: CoreClient) -> None:
    for status, code, kind in (
        (409, "conflict", Conflict),
        (400, "version", VersionError),
        (401, "key", AuthError),
        (418, "unheard-of", PeerError),
        (503, "disk-full", Unreachable),
        (500, "error", Unreachable),
    ):
        body = canonical.encode({"error": {"code": code, "hint": "do this", "message": "it is so"}})
        core.answers["/v1/members"] = lambda status=status, body=body: (status, {}, body)
        with pytest.raises(kind, match="it is so") as caught:
            client.members()
        assert caught.value.hint == "do this"
    core.answers["/v1/members"] = lambda: (502, {}, b"<html>bad gateway</html>")
    with pytest.raises(Unreachable, match="502"):
        client.members()


def test_what_is_no_message_is_refused(core: StubCore, client: CoreClient) -> None:
    for body in (b"{", b'{"a":1, "b":2}', b'{"a":NaN}', b"\xff"):
        core.answers["/v1/members"] = lambda body=body: (200, {}, body)
        with pytest.raises(FormatError):
            client.members()
    core.answers["/v1/runs/r"] = lambda: (200, {}, b'{"format":"tapestry.run-view","version":7}')
    with pytest.raises(VersionError):
        client.run("r")


def test_a_large_answer_is_refused_before_it_is_read(core: StubCore, client: CoreClient) -> None:
    body = b'"' + b"a" * (2 << 20) + b'"'
    core.answers["/v1/runs/r/progress"] = lambda: (200, {}, body)
    from tapestry.protocol.messages import Progress

    before = client.traffic.received_bytes
    with pytest.raises(TooLarge, match=str(len(body))):
        client.progress("r", Progress(round=1, step=1, steps=1))
    assert client.traffic.received_bytes - before < 10_000


def test_a_compressed_answer_is_refused(core: StubCore, client: CoreClient) -> None:
    core.answers["/v1/members"] = lambda: (200, {"content-encoding": "gzip"}, b"x" * 100)
    with pytest.raises(PeerError, match="compressed"):
        client.members()


def test_a_redirect_is_not_followed(core: StubCore, client: CoreClient) -> None:
    core.answers["/v1/members"] = lambda: (307, {"location": "/v1/hello"}, b"")
    client.hello()
    before = len(core.requests)
    client.members()
    assert len(core.requests) == before + 1


def test_missing_blobs_of_a_contribution(core: StubCore, client: CoreClient) -> None:
    lacking = {"error": {"code": "conflict", "hint": None, "message": "m"}, "missing": ["a" * 64]}
    core.answers["/v1/runs/r/contributions"] = lambda: (409, {}, canonical.encode(lacking))
    answer = client.contribute("r", b"{}")
    assert (answer.receipt, answer.missing) == (None, ("a" * 64,))
    core.answers["/v1/runs/r/contributions"] = lambda: (200, {}, b"receipt")
    assert client.contribute("r", b"{}").receipt == b"receipt"
    lacking.pop("missing")
    core.answers["/v1/runs/r/contributions"] = lambda: (409, {}, canonical.encode(lacking))
    with pytest.raises(Conflict):
        client.contribute("r", b"{}")


# -- a core that is away ------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_nobody_there_is_unreachable() -> None:
    with CoreClient(f"http://127.0.0.1:{free_port()}", CONSORTIUM, KEY) as client:
        with pytest.raises(Unreachable, match="cannot be reached") as caught:
            client.members()
        assert "core serve" in (caught.value.hint or "")


def test_a_reset_connection_is_made_anew_once() -> None:
    """The first connection is reset (RST) in the middle; the second is served."""
    listener = socket.create_server(("127.0.0.1", 0))
    body = b'{"members":[]}'
    reset: list[int] = []

    def serve() -> None:
        for number in range(3):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                if number == 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    reset.append(number)
                    continue
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nTapestry-Time: {TIME}\r\n\r\n"
                connection.sendall(head.encode() + body)
                connection.recv(65536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    clock = CoreClock()
    clock.set(TIME)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with CoreClient(url, CONSORTIUM, KEY, core_clock=clock) as client:
        assert client.members() == {"members": []}
    assert reset == [0]
    listener.close()
    thread.join(10)


@pytest.mark.parametrize(
    "url", ["core.example.org", "ftp://x", "http://", "http://a/path", "http://u:p@h", "http://h:99999"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="address"):
        CoreClient(url, None, None)


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for name in ("ca.pem", "absent.pem"):
        with pytest.raises(SettingsError, match=name):
            CoreClient("https://localhost:1", None, None, ca=tmp_path / name)


def test_patience() -> None:
    waits: list[float] = []
    calls = iter([Unreachable("a"), Unreachable("b"), None])

    def action() -> str:
        error = next(calls)
        if error is not None:
            raise error
        return "there"

    assert patiently(action, waiting=lambda e, s: waits.append(s), sleep=lambda s: None) == "there"
    assert 0.1 <= waits[0] <= 0.2 <= waits[1] <= 0.4

    def away() -> None:
        raise Unreachable("away")

    with pytest.raises(Unreachable):
        patiently(away, give_up_s=0.0, sleep=lambda s: None)
    with pytest.raises(NotFound):
        patiently(lambda: (_ for _ in ()).throw(NotFound("x")))


def test_pauses_double_up_to_the_longest() -> None:
    pauses = Pauses(first_s=1, most_s=4)
    drawn = [pauses.next() for _ in range(5)]
    for pause, most in zip(drawn, (1, 2, 4, 4, 4), strict=True):
        assert most / 2 <= pause <= most
    pauses.reset()
    assert pauses.next() <= 1


# -- downloads ----------------------------------------------------------------------------------


def test_blobs_are_fetched_several_at_once(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    datas = [os.urandom(5000 + n) for n in range(8)]
    blobs = [blob(data) for data in datas]
    for data in datas:
        core.add(data)
    assert client.download_blobs([*blobs, blobs[0]], store) == sum(b.bytes for b in blobs)
    assert [store.read(b.sha256) for b in blobs] == datas
    assert core.most_at_once == 3
    before = len(core.requests)
    assert client.download_blobs(blobs, store) == 0
    assert len(core.requests) == before


def test_a_truncated_download_goes_on(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    core.add(DATA)
    core.faults = [truncated(100_000), truncated(50_000)]
    client.download_blobs([blob()], store)
    assert store.read(blob().sha256) == DATA
    ranges = [h.get("range") for m, t, h in core.requests if t.startswith("/v1/blobs/")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_download_that_makes_no_headway_is_unreachable_and_keeps_what_came(
    core: StubCore, client: CoreClient, store: BlobStore
) -> None:
    core.add(DATA)
    core.faults = [truncated(100_000), truncated(0), truncated(0), truncated(0)]
    with pytest.raises(Unreachable):
        client.download_blobs([blob()], store)
    assert not store.has(blob().sha256)
    core.faults = []
    client.download_blobs([blob()], store)
    assert store.read(blob().sha256) == DATA
    assert core.requests[-1][2]["range"] == "bytes=100000-"


def test_an_altered_download_is_fetched_again(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    core.add(DATA)
    core.faults = [altered(5), altered(250_000)]
    client.download_blobs([blob()], store)
    assert store.read(blob().sha256) == DATA


def test_a_blob_that_stays_altered_is_never_taken(
    core: StubCore, client: CoreClient, store: BlobStore
) -> None:
    core.add(DATA)
    other = os.urandom(1000)
    core.add(other)
    core.faults = [altered(n) for n in range(3)]
    with pytest.raises(HashMismatch):
        client.download_blobs([blob()], store)
    assert not store.has(blob().sha256)
    client.download_blobs([blob(other)], store)  # nothing else is disturbed
    assert store.has(blob(other).sha256)


def test_another_size_than_announced_is_refused(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    sha = canonical.sha256(DATA)
    core.blobs[sha] = DATA + b"more"
    with pytest.raises(TooLarge):
        client.download_blobs([blob()], store)
    core.blobs[sha] = DATA[:-1]
    with pytest.raises(TooLarge):
        client.download_blobs([blob()], store)
    assert not store.has(sha)


def test_an_unknown_blob(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    with pytest.raises(NotFound):
        client.download_blobs([blob()], store)


def test_a_blob_of_unknown_size(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    sha = core.add(DATA)
    core.faults = [truncated(1000), altered(3)]
    client.download(sha, store, max_bytes=len(DATA))
    assert store.read(sha) == DATA
    big = core.add(DATA + b"x")
    with pytest.raises(TooLarge):
        client.download(big, store, max_bytes=len(DATA))
    assert not store.has(big)


# -- uploads ------------------------------------------------------------------------------------


def test_blobs_are_sent_in_chunks(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    store.put(DATA, durable=False)
    assert client.upload_blobs([blob()], store) == len(DATA)
    assert core.blobs[blob().sha256] == DATA
    puts = [t for m, t, _ in core.requests if m == "PUT"]
    assert [t.split("offset=")[1] for t in puts] == ["0", "100000", "200000"]
    assert proof_of(core.requests[-1][2]).body == blob().sha256
    assert client.upload_blobs([blob()], store) == 0


def test_a_broken_upload_goes_on(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    store.put(DATA, durable=False)
    core.partial[blob().sha256] = DATA[:70_000]
    core.faults = [20_000, 50_000]
    client.upload_blobs([blob()], store)
    assert core.blobs[blob().sha256] == DATA
    offsets = [int(t.split("offset=")[1]) for m, t, _ in core.requests if m == "PUT"]
    assert offsets[0] == 70_000
    assert 0 not in offsets


def test_an_upload_that_arrives_altered_is_sent_again(
    core: StubCore, client: CoreClient, store: BlobStore
) -> None:
    store.put(DATA, durable=False)
    core.partial[blob().sha256] = b"\0" + DATA[1:70_000]
    client.upload_blobs([blob()], store)
    assert core.blobs[blob().sha256] == DATA


def test_an_upload_that_fails_for_good(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    store.put(DATA, durable=False)
    core.faults = [lambda: (413, "too-large")]
    with pytest.raises(TooLarge):
        client.upload_blobs([blob()], store)
    core.faults = [lambda: (503, "disk-full")] * 3
    with pytest.raises(Unreachable, match="cannot serve"):
        client.upload_blobs([blob()], store)
    client.upload_blobs([blob()], store)
    assert core.blobs[blob().sha256] == DATA


def test_traffic_is_counted_to_the_byte(core: StubCore, client: CoreClient, store: BlobStore) -> None:
    client.hello()
    before = client.traffic.as_json()
    store.put(DATA, durable=False)
    client.upload_blobs([blob()], store)
    after = client.traffic.as_json()
    assert after["requests"] - before["requests"] == 4
    sent = after["sent_bytes"] - before["sent_bytes"]
    assert len(DATA) + 4 * 900 < sent < len(DATA) + 4 * 2000
    assert 0 < after["proof_bytes"] - before["proof_bytes"] < sent - len(DATA)
