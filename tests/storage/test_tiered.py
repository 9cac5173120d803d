"""Blobs in an object store behind a folder: what is durable, fetched, evicted, and what fails how."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import DiskFull, HashMismatch, NotFound, SettingsError, StoreError, TapestryError
from tapestry.protocol.artifact import Blob
from tapestry.storage import bucket as bucket_module
from tapestry.storage.blobs import BlobStore, blob_name
from tapestry.storage.bucket import Bucket, Place
from tapestry.storage.tiered import TieredStore
from tests import object_store
from tests.object_store import KEYS, Proxy, Server

MIB = 1 << 20


class Fixture:
    """One bucket behind a proxy, and stores before it."""

    def __init__(self, s3: Server, proxy: Proxy, folder: Path) -> None:
        self.s3, self.proxy, self.folder = s3, proxy, folder
        self.url = f"{s3.bucket()}/p"

    def store(self, name: str = "one", *, cache_bytes: int = 1 << 30, patience_s: float = 1.0) -> TieredStore:
        place = Place(url=self.url, endpoint=self.proxy.url, credentials=KEYS, patience_s=patience_s)
        return TieredStore(Bucket(place), self.folder / name, cache_bytes=cache_bytes)


@pytest.fixture
def at(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fixture]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with Proxy(s3).running() as proxy:
        yield Fixture(s3, proxy, tmp_path)


def blob_of(data: bytes) -> Blob:
    return Blob(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def here(store: TieredStore) -> list[str]:
    return sorted(blob.sha256 for blob in BlobStore.open(store.root).iterate())


def mode(store: TieredStore, sha: str) -> int:
    return stat.S_IMODE(store.path(sha).stat().st_mode)


# -- what is durable -----------------------------------------------------------------------------


def test_durable_means_in_the_object_store(at: Fixture) -> None:
    one = at.store()
    durable, staged = one.put(b"durable"), one.put(b"staged", durable=False)
    assert at.s3.names(at.url) == [f"p/{blob_name(durable)}"]
    assert (mode(one, durable), mode(one, staged)) == (0o444, 0o644)
    two = at.store("two")  # as on another machine
    assert two.lacking([durable, staged, "0" * 64]) == [staged, "0" * 64]
    assert two.read(durable) == b"durable" and mode(two, durable) == 0o444
    with pytest.raises(NotFound):
        two.read(staged)
    one.sync([durable, staged])
    assert two.read(staged) == b"staged"
    with pytest.raises(NotFound):
        one.sync(["0" * 64])


def test_what_is_there_is_not_sent_again(at: Fixture) -> None:
    one = at.store()
    sha = one.put(b"once")
    with at.store("two").receive(blob_of(b"once")) as receiver:
        assert receiver.complete
    at.store("three").put(b"once")
    one.sync([sha])
    assert at.proxy.count("PUT") == 1
    at.s3.delete(at.url, blob_name(sha))  # positive control; and what is remembered is not believed
    one.sync([sha])
    assert at.proxy.count("PUT") == 2


def test_a_large_blob_goes_in_parts(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 * MIB)
    data = os.urandom(12 * MIB)
    sha = at.store().put(data)
    assert at.proxy.count("PUT") == 3
    assert at.store("two").read(sha) == data


def test_no_more_large_blobs_are_in_memory_than_may_be(
    at: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = at.store()
    shas = [one.put(os.urandom(MIB), durable=False) for _ in range(8)]
    small = one.put(b"small", durable=False)
    now, most, counting = 0, 0, threading.Lock()
    send = Bucket._send

    def counted(self: Bucket, path: Path, name: str, size: int) -> None:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        try:
            time.sleep(0.02)
            send(self, path, name, size)
        finally:
            with counting:
                now -= 1

    monkeypatch.setattr(Bucket, "_send", counted)
    threads = [threading.Thread(target=one.sync, args=(shas[start::2],)) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == bucket_module.SENDING
    with contextlib.ExitStack() as stack:
        for _ in range(bucket_module.SENDING):
            stack.enter_context(one.bucket._sending)
        one.sync([small])  # waits for none of them
        monkeypatch.setattr(bucket_module, "STALLED_S", 0.2)
        (tmp_path / "large").write_bytes(bytes(bucket_module.SMALL_BYTES))
        with pytest.raises(StoreError, match="has taken none of 2 objects"):  # and nobody waits for ever
            one.bucket.upload(tmp_path / "large", "large")
    assert len(at.s3.names(at.url)) == 9


def test_received_adopted_and_deleted(at: Fixture, tmp_path: Path) -> None:
    one, two = at.store(), at.store("two")
    with one.receive(blob_of(b"sent")) as receiver:
        receiver.write(b"sent")
        receiver.finish()
    (tmp_path / "made").write_bytes(b"made")
    one.adopt(tmp_path / "made", blob_of(b"made").sha256)
    sent, made = blob_of(b"sent").sha256, blob_of(b"made").sha256
    assert (two.size(sent), two.read(made)) == (4, b"made")
    assert {blob.sha256 for blob in two.iterate()} == {sent, made}
    one.delete_all([sent, made, "0" * 64])
    assert at.s3.names(at.url) == [] and here(one) == []
    assert not two.has(sent) and two.has(made)  # its copy is good, and is not evidence of durability
    two.sync([made])
    assert at.s3.names(at.url) == [f"p/{blob_name(made)}"]


def test_acknowledged_only_when_it_is_there(at: Fixture) -> None:
    one = at.store(patience_s=0.3)
    at.proxy.spoil("PUT", None)
    with one.receive(blob_of(b"sent")) as receiver:
        receiver.write(b"sent")
        with pytest.raises(StoreError, match="cannot be reached"):
            receiver.finish()
    with pytest.raises(StoreError), one.receive(blob_of(b"sent")):
        pass
    at.proxy.heal()
    with one.receive(blob_of(b"sent")) as receiver:  # not sent by the node again
        assert receiver.complete
    assert at.store("two").read(blob_of(b"sent").sha256) == b"sent"


# -- what comes back -----------------------------------------------------------------------------


def test_a_damaged_copy_is_fetched_again(at: Fixture) -> None:
    data = os.urandom(10_000)
    sha = at.store().put(data)
    for changed in (b"?" + data[1:], data[:-1], data + b"?", b""):
        for look in (
            lambda s: s.read(sha),
            lambda s: s.read_into(sha, bytearray(20_000)) == len(data) and data,
            lambda s: s.verify(blob_of(data)) and data,
        ):
            path = at.folder / "one" / blob_name(sha)
            path.unlink()
            path.write_bytes(changed)
            store = at.store()
            assert look(store) == data
            assert path.read_bytes() == data


@pytest.mark.parametrize("change", [object_store.flipped, object_store.shortened, object_store.truncated])
def test_wrong_bytes_on_the_way_are_fetched_again_and_never_believed(at: Fixture, change: Any) -> None:
    data = os.urandom(300_000)
    sha = at.store().put(data)
    two = at.store("two")
    at.proxy.spoil("GET", change, times=1)
    assert two.read(sha) == data
    three = at.store("three")
    at.proxy.spoil("GET", change)
    for look in (lambda: three.read(sha), lambda: three.fetch(sha), lambda: three.holding([sha]).__enter__()):
        with pytest.raises((HashMismatch, StoreError)):
            look()
    assert here(three) == []
    assert list((three.root / "incoming").iterdir()) == []
    at.proxy.heal()
    assert three.read(sha) == data


def test_an_object_with_other_bytes_is_replaced_by_who_has_the_right_ones(at: Fixture) -> None:
    sha = at.store().put(b"right")
    at.s3.replace(at.url, blob_name(sha), b"wrong")
    two = at.store("two")
    assert two.has(sha)  # nobody has looked inside yet
    with pytest.raises(HashMismatch, match="other bytes"):
        two.read(sha)
    assert here(two) == [] and not two.has(sha) and not two.verify(blob_of(b"right"))
    with two.receive(blob_of(b"right")) as receiver:
        assert not receiver.complete
        receiver.write(b"right")
        receiver.finish()
    assert two.has(sha) and at.store("three").read(sha) == b"right"


def test_a_blob_that_is_damaged_here_is_not_sent(at: Fixture) -> None:
    one = at.store()
    sha = one.put(b"whole", durable=False)
    one.path(sha).write_bytes(b"whole"[::-1])
    with pytest.raises(HashMismatch, match="damaged"):
        at.store().sync([sha])
    assert at.s3.names(at.url) == []


def test_many_who_ask_at_once_fetch_once(at: Fixture) -> None:
    sha = at.store().put(os.urandom(2 * MIB))
    two = at.store("two")
    threads = [threading.Thread(target=two.fetch, args=(sha,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at.proxy.count("GET") == 1


# -- how it fails --------------------------------------------------------------------------------


def test_a_passing_failure_is_waited_out(at: Fixture) -> None:
    one, two = at.store(patience_s=20), at.store("two", patience_s=20)
    at.proxy.spoil("PUT", object_store.answers(503, "SlowDown"), times=2)
    sha = one.put(b"patient")
    at.proxy.spoil("GET", None, times=2)
    assert two.read(sha) == b"patient"
    at.proxy.spoil("GET", None, times=2)  # positive control: without patience it fails
    with pytest.raises(StoreError):
        at.store("three", patience_s=0).read(sha)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (object_store.answers(403, "SignatureDoesNotMatch"), StoreError, "refuses these credentials"),
        (object_store.answers(401, "Unauthorized"), StoreError, "refuses these credentials"),
        (object_store.answers(404, "NoSuchBucket"), StoreError, "no such bucket"),
        (object_store.answers(507, "XMinioStorageFull"), DiskFull, "is full"),
        (object_store.answers(403, "QuotaExceeded"), DiskFull, "is full"),
        (object_store.answers(500, "InternalError"), StoreError, "cannot be reached"),
        (None, StoreError, "cannot be reached"),
    ],
)
def test_each_failure_has_its_error_and_a_way_out(
    at: Fixture, answer: Any, kind: type[TapestryError], text: str
) -> None:
    one = at.store(patience_s=0.2)
    at.proxy.spoil("PUT", answer)
    for action in (lambda: one.put(b"x"), one.check):
        with pytest.raises(kind, match=text) as caught:
            action()
        assert type(caught.value) is kind and caught.value.hint and at.url in caught.value.message
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in caught.value.message.replace(at.url, "")
    at.proxy.heal()
    one.check()
    assert one.read(one.put(b"x")) == b"x"


def test_a_bucket_that_is_not_there(at: Fixture) -> None:
    at.url = "s3://nobody-made-this"
    one = at.store()
    for action in (one.check, lambda: one.put(b"x"), lambda: one.read("0" * 64)):
        with pytest.raises(StoreError, match="no such bucket") as caught:
            action()
        assert "core.toml" in str(caught.value.hint)


def test_nobody_listens(at: Fixture, s3: Server) -> None:
    place = Place(url=at.url, endpoint="http://127.0.0.1:1", credentials=KEYS, patience_s=0.5)
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached"):
        Bucket(place).check()
    assert time.monotonic() - began < 20


def test_wrong_credentials_at_a_real_service(at: Fixture) -> None:
    one = at.store()
    sha = one.put(b"x")
    with at.s3.guarded():
        for action in (one.check, lambda: one.put(b"y"), lambda: at.store("two").read(sha)):
            with pytest.raises(StoreError, match="refuses these credentials"):
                action()
    one.check()


def test_a_store_that_says_it_took_the_bytes_and_did_not(at: Fixture) -> None:
    one = at.store()
    at.proxy.spoil("HEAD", object_store.answers(404, "NoSuchKey"))
    with pytest.raises(StoreError, match="0 of 1 bytes"):
        one.put(b"x")
    at.proxy.heal()
    one.put(b"x")


def test_without_credentials_no_request_is_made(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (at.url, "gs://bucket/p", "az://container/p"):
        for name in [n for n in os.environ if n.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
            monkeypatch.delenv(name)
        with pytest.raises(SettingsError, match="no credentials"):
            Bucket(Place(url=url, endpoint=at.proxy.url))
    assert at.proxy.seen == []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    with pytest.raises(SettingsError, match="cannot be used"):  # half of them
        Bucket(Place(url=at.url, endpoint=at.proxy.url))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    Bucket(Place(url=at.url, endpoint=at.proxy.url)).check()
    for wrong in ("s3://", "s3://user:password@bucket/x", "s3://bucket/x?y", "ftp://bucket"):
        with pytest.raises(SettingsError, match="no object store"):
            Bucket(Place(url=wrong))
    with pytest.raises(SettingsError, match="nonsense"):
        Bucket(Place(url=at.url, credentials={**KEYS, "nonsense": "x"}))


# -- the cache -----------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_what_was_used_last_stays(at: Fixture) -> None:
    one = at.store(cache_bytes=8 * MIB)
    shas = [one.put(os.urandom(MIB)) for _ in range(6)]
    one.read(shas[0])
    shas += [one.put(os.urandom(MIB)) for _ in range(5)]
    used = sum(blob.bytes for blob in BlobStore.open(one.root).iterate())
    assert 5 * MIB <= used <= 8 * MIB
    left = here(one)
    assert shas[0] in left and shas[-1] in left and shas[1] not in left
    assert one.lacking(shas) == []
    for sha in shas:
        assert len(one.read(sha)) == MIB
    assert sum(blob.bytes for blob in BlobStore.open(one.root).iterate()) <= 8 * MIB
    unbounded = at.store("two")  # positive control
    for sha in shas:
        unbounded.fetch(sha)
    assert len(here(unbounded)) == len(shas)


def test_what_lies_only_here_or_is_in_use_is_never_evicted(at: Fixture) -> None:
    one = at.store(cache_bytes=2 * MIB)
    only_here = [one.put(os.urandom(MIB), durable=False) for _ in range(3)]
    pinned = one.put(os.urandom(MIB))
    fd = one.open_for_reading(pinned)
    with one.holding([pinned]):
        for _ in range(4):
            one.put(os.urandom(MIB))
        assert set(here(one)) >= {*only_here, pinned}
    for _ in range(4):
        one.put(os.urandom(MIB))
    assert pinned not in here(one)  # positive control
    assert set(here(one)) >= set(only_here)
    assert len(os.pread(fd, 2 * MIB, 0)) == MIB  # whoever sends it on is not disturbed
    os.close(fd)
    one.sync(only_here)
    one.put(os.urandom(MIB))
    assert len(here(one)) <= 2
    assert one._pins == {}


def test_nothing_is_evicted_while_another_process_has_the_store_open(at: Fixture) -> None:
    one, command = at.store(cache_bytes=2 * MIB), at.store()  # flock sees two open files, as of processes
    for _ in range(6):
        one.put(os.urandom(MIB))
    assert len(here(one)) == 6
    del command
    one.put(os.urandom(MIB))
    assert len(here(one)) <= 2


def test_a_lost_cache_loses_nothing_that_was_durable(at: Fixture) -> None:
    one = at.store()
    data = {one.put(d): d for d in (os.urandom(n) for n in (0, 1, 70_000, 2 * MIB))}
    two = at.store("elsewhere")
    with two.holding(data):
        assert {sha: BlobStore.open(two.root).read(sha) for sha in data} == data
    with pytest.raises(NotFound), two.holding([*data, "0" * 64]):
        pass
