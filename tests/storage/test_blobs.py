from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import (
    Busy,
    Conflict,
    DiskFull,
    HashMismatch,
    NotFound,
    SettingsError,
    StoreError,
    TooLarge,
)
from tapestry.protocol.artifact import Blob
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.storage import medium
from tapestry.storage.blobs import BlobStore
from tapestry.storage.bucket import Bucket, Place
from tapestry.storage.tiered import LOCK, TieredStore
from tests import object_store


@pytest.fixture(params=["folder", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """One contract, two kinds of store."""
    if request.param == "folder":
        return BlobStore.open(tmp_path / "blobs")
    s3 = request.getfixturevalue("s3")
    place = Place(url=f"{s3.bucket()}/a/b", endpoint=s3.url, credentials=object_store.KEYS, patience_s=1)
    return TieredStore(Bucket(place), tmp_path / "cache", cache_bytes=1 << 30)


def opened_again(store: BlobStore) -> BlobStore:
    """As after a restart, or in another process."""
    if isinstance(store, TieredStore):
        return TieredStore(store.bucket, store.root, cache_bytes=store.cache_bytes)
    return BlobStore.open(store.root)


def blob_of(data: bytes) -> Blob:
    return Blob(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def files(store: BlobStore) -> list[str]:
    found = (p.relative_to(store.root) for p in store.root.rglob("*") if p.is_file())
    return sorted(str(path) for path in found if path.name != LOCK)


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3 << 20)])
@pytest.mark.parametrize("durable", [True, False])
def test_put_and_read(store: BlobStore, data: bytes, durable: bool) -> None:
    sha = store.put(memoryview(data), durable=durable)
    assert sha == hashlib.sha256(data).hexdigest()
    assert store.put(bytearray(data), durable=durable) == sha
    assert (store.has(sha), store.size(sha), store.read(sha)) == (True, len(data), data)
    assert store.path(sha).read_bytes() == data and store.path(sha).parent.name == sha[:2]
    buffer = bytearray(len(data) + 5)
    assert store.read_into(sha, buffer) == len(data)
    assert buffer[: len(data)] == data
    assert list(store.iterate()) == [Blob(sha256=sha, bytes=len(data))]
    store.sync([sha, sha])
    store.delete(sha)
    store.delete(sha)
    assert not store.has(sha) and files(store) == []
    with pytest.raises(NotFound):
        store.sync([sha])


def test_what_is_not_there(store: BlobStore) -> None:
    for sha in ("0" * 64, "../../etc/passwd", "A" * 64, ""):
        assert not store.has(sha)
        for action in (store.read, store.size, lambda s: store.read_into(s, bytearray(1))):
            with pytest.raises(NotFound):
                action(sha)
        assert not store.verify(Blob.model_construct(sha256=sha, bytes=0))


def test_limits(store: BlobStore) -> None:
    sha = store.put(b"12345")
    with pytest.raises(TooLarge):
        store.read(sha, 4)
    with pytest.raises(TooLarge):
        store.read_into(sha, bytearray(4))
    with pytest.raises(TooLarge):
        store.put(bytes(MAX_BLOB_BYTES + 1))
    assert store.read(sha) == b"12345"


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend"])
def test_damage_is_found_and_removed(store: BlobStore, damage: str) -> None:
    """Of what lies nowhere else; see test_tiered for what does."""
    data = os.urandom(10_000)
    changed = {"flip": bytes([data[0] ^ 1]) + data[1:], "truncate": data[:-1], "extend": data + b"?"}[damage]
    sha = hashlib.sha256(data).hexdigest()
    for look in (
        lambda s: s.read(sha),
        lambda s: s.read_into(sha, bytearray(20_000)),
        lambda s: s.verify(blob_of(data)) and pytest.fail("a damaged blob passed"),
    ):
        opened_again(store).put(data, durable=False)
        store.path(sha).write_bytes(changed)
        fresh = opened_again(store)
        with contextlib.suppress(HashMismatch):
            look(fresh)
        assert not fresh.has(sha)
    store.path(sha).write_bytes(changed)
    assert opened_again(store).put(data) == sha
    assert store.read(sha) == data


def test_a_wrong_claim_of_size_removes_nothing(store: BlobStore) -> None:
    sha = store.put(b"whole")
    assert not store.verify(Blob(sha256=sha, bytes=4))
    with store.receive(Blob(sha256=sha, bytes=4)) as receiver:
        assert not receiver.complete
        receiver.write(b"whol")
        with pytest.raises(HashMismatch):
            receiver.finish()
    assert store.read(sha) == b"whole"


def test_receive_in_pieces(store: BlobStore) -> None:
    data = os.urandom(100_000)
    blob = blob_of(data)
    with store.receive(blob) as receiver:
        receiver.write(data[:30_000])
        with pytest.raises(Conflict, match="30000 of 100000"):
            receiver.finish()
    assert store.partial(blob.sha256) == 30_000 and not store.has(blob.sha256)
    again = opened_again(store)  # as after a restart
    with again.receive(blob, durable=False) as receiver:
        assert receiver.offset == 30_000
        receiver.write(memoryview(data)[30_000:])
        receiver.finish()
        assert receiver.complete
        receiver.finish()
    assert again.read(blob.sha256) == data
    assert store.partial(blob.sha256) == 0
    with store.receive(blob) as receiver:
        assert receiver.complete and receiver.offset == len(data)


def test_a_damaged_part_is_dropped_and_begun_again(store: BlobStore) -> None:
    data = os.urandom(1000)
    blob = blob_of(data)
    part = store.root / "incoming" / f"{blob.sha256}.part"
    part.write_bytes(b"?" * 500)
    with store.receive(blob) as receiver:
        assert receiver.offset == 500
        receiver.write(data[500:])
        with pytest.raises(HashMismatch):
            receiver.finish()
    assert files(store) == []
    part.write_bytes(b"?" * 5000)  # longer than the blob
    with store.receive(blob) as receiver:
        assert receiver.offset == 0
        receiver.write(data)
        receiver.finish()
    assert store.read(blob.sha256) == data


def test_more_than_expected_is_refused(store: BlobStore) -> None:
    with store.receive(blob_of(b"12345")) as receiver:
        receiver.write(b"1234")
        with pytest.raises(TooLarge):
            receiver.write(b"56")
    assert files(store) == []


def test_the_newest_receiver_wins(store: BlobStore) -> None:
    data = os.urandom(1000)
    older = store.receive(blob_of(data))
    older.write(data[:100])
    newer = store.receive(blob_of(data))
    assert newer.offset == 100
    for action in (lambda: older.write(data[100:]), older.finish):
        with pytest.raises(Conflict, match="newer connection"):
            action()
    older.close()
    newer.write(data[100:])
    newer.finish()
    assert store.read(blob_of(data).sha256) == data
    assert store._receivers == {}


def test_another_process_is_busy(store: BlobStore) -> None:
    data = os.urandom(1000)
    other = opened_again(store)  # flock sees two open files, as between processes
    with other.receive(blob_of(data)), pytest.raises(Busy):
        store.receive(blob_of(data))


def test_concurrent_receivers_do_not_corrupt(store: BlobStore) -> None:
    data = os.urandom(400_000)
    blob = blob_of(data)
    finished: list[int] = []

    def receive(step: int) -> None:
        while True:
            try:
                with store.receive(blob) as receiver:
                    while not receiver.complete and receiver.offset < len(data):
                        receiver.write(data[receiver.offset : receiver.offset + step])
                    receiver.finish()
                    finished.append(step)
                    return
            except (Conflict, Busy):
                time.sleep(0.001 * (step % 7))

    threads = [threading.Thread(target=receive, args=(step,)) for step in (1009, 20_011, 70_001, 400_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(finished) == 4
    assert store.read(blob.sha256) == data
    assert files(store) == [f"{blob.sha256[:2]}/{blob.sha256}"]


def test_adopt(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "made"
    source.write_bytes(b"made elsewhere")
    sha = blob_of(b"made elsewhere").sha256
    with pytest.raises(HashMismatch):
        store.adopt(source, "0" * 64)
    store.adopt(source, sha)
    store.adopt(source, sha)
    assert store.read(sha) == b"made elsewhere"
    assert os.path.samestat(store.path(sha).stat(), source.stat())
    with pytest.raises(NotFound):
        store.adopt(tmp_path / "none", sha)
    assert source.exists() and len(files(store)) == 1


def test_adopt_from_another_file_system(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "made").write_bytes(b"abc")
    store.adopt(tmp_path / "made", blob_of(b"abc").sha256)
    assert store.read(blob_of(b"abc").sha256) == b"abc"


def test_full_disk(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(1 << 20)
    blob = blob_of(data)
    real = os.write
    room = 300_000

    def write(fd: int, view: Any) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(fd, bytes(view[:room]))
        room -= done
        return done

    monkeypatch.setattr(medium.os, "write", write)
    with pytest.raises(DiskFull):
        store.put(data)
    assert files(store) == []
    room = 300_000
    receiver = store.receive(blob)
    receiver.write(data[:200_000])
    with pytest.raises(DiskFull):
        receiver.write(data[200_000:])
    assert receiver.offset == 200_000 == store.partial(blob.sha256)
    room = 2 << 20
    receiver.write(data[200_000:])
    receiver.finish()
    assert store.read(blob.sha256) == data


def test_foreign_errors_are_wrapped(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    sha = store.put(b"abc")
    monkeypatch.setattr(medium.os, "fsync", fail)
    with pytest.raises(StoreError, match="Input/output"):
        store.put(b"other")
    if not isinstance(store, TieredStore):
        with pytest.raises(StoreError):
            store.sync([sha])


def test_leftovers_are_cleaned(store: BlobStore) -> None:
    incoming = store.root / "incoming"
    for name, age_s in (("a.tmp", 7200), ("b.tmp", 10), ("c.part", 7200), ("d.part", 10)):
        (incoming / name).write_bytes(b"x")
        os.utime(incoming / name, (time.time() - age_s,) * 2)
    again = opened_again(store)
    assert files(again) == ["incoming/b.tmp", "incoming/c.part", "incoming/d.part"]
    assert again.clean(older_than_s=3600) == 1
    assert files(again) == ["incoming/b.tmp", "incoming/d.part"]
    assert list(again.iterate()) == []


def test_where_a_store_may_be(tmp_path: Path) -> None:
    store = BlobStore.open(f"file://{tmp_path}/a%20b")
    store.put(b"x")
    assert (tmp_path / "a b").is_dir()
    for url in ("s3://bucket/x", "file://other-host/x", "https://x"):
        with pytest.raises(SettingsError, match="not supported"):
            BlobStore.open(url)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        BlobStore.open(tmp_path / "file")


def test_two_stores_in_two_processes_see_each_other(store: BlobStore) -> None:
    other = opened_again(store)
    sha = other.put(b"seen")
    assert store.has(sha) and store.verify(blob_of(b"seen"))
    with store.receive(blob_of(b"seen")) as receiver:
        assert receiver.complete
