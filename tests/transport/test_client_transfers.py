from __future__ import annotations

import os

import pytest

from tapestry.errors import HashMismatch, NotFound, TooLarge, Unreachable
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient
from tests.transport.stub import StubCore, altered, proof_of, truncated

DATA = os.urandom(300_000)


def blob(data: bytes = DATA) -> Blob:
    return Blob(sha256=canonical.sha256(data), bytes=len(data))


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


def test_a_download_refused_for_its_time_is_signed_anew(
    core: StubCore, client: CoreClient, store: BlobStore
) -> None:
    """The core's clock was set; without a new signature that would end the node."""
    core.add(DATA)
    client.missing([blob().sha256])
    core.time = "2026-05-01T13:00:00.000Z"
    refusal = {"error": {"code": "signature", "message": "ill-timed", "hint": None}}
    path = f"/v1/blobs/{blob().sha256}"

    def once() -> tuple[int, dict[str, str], bytes]:
        del core.answers[path]
        return 401, {}, canonical.encode(refusal)

    core.answers[path] = once
    client.download_blobs([blob()], store)
    assert store.read(blob().sha256) == DATA
    assert proof_of(core.requests[-1][2]).at >= core.time


def test_a_late_answer_to_somebody_else_does_not_hide_that_a_request_was_ill_timed(
    core: StubCore, client: CoreClient, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread's answer, on its way since before the core's clock was set, comes right behind the
    refusal and puts the reckoned time back to what the request was signed for."""
    core.add(DATA)
    client.missing([blob().sha256])
    old, core.time = core.time, "2026-05-01T13:00:00.000Z"
    refusal = {"error": {"code": "signature", "message": "ill-timed", "hint": None}}
    path, clock = f"/v1/blobs/{blob().sha256}", client.connection.clock
    tell = clock.set

    def late(stated: str) -> None:
        tell(stated)
        if path in core.answers:
            tell(old)

    def once() -> tuple[int, dict[str, str], bytes]:
        answered.append(1)
        if len(answered) == 2:
            del core.answers[path]
        return 401, {}, canonical.encode(refusal)

    answered: list[int] = []
    core.answers[path] = once
    monkeypatch.setattr(clock, "set", late)
    client.download_blobs([blob()], store)
    assert store.read(blob().sha256) == DATA and len(answered) == 2
    assert proof_of(core.requests[-1][2]).at >= core.time


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


def test_an_upload_that_breaks_often_goes_on_while_it_gets_further(
    core: StubCore, client: CoreClient, store: BlobStore
) -> None:
    store.put(DATA, durable=False)
    core.faults = [20_000] * 8
    client.upload_blobs([blob()], store)
    assert core.blobs[blob().sha256] == DATA
    core.blobs.clear()
    core.faults = [0] * 8  # no further
    with pytest.raises(Unreachable):
        client.upload_blobs([blob()], store)


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
