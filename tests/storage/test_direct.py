"""Signed URLs of a real S3 service, and what may get a blob's name of what nodes put there."""

from __future__ import annotations

import base64
import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tapestry.errors import HashMismatch, NotFound, StoreError, TapestryError, TooLarge
from tapestry.protocol.artifact import Blob
from tapestry.protocol.canonical import sha256
from tapestry.storage.blobs import blob_name
from tapestry.storage.bucket import Bucket, Place
from tapestry.storage.direct import TAKING, Handover
from tapestry.storage.tiered import TieredStore
from tests import object_store
from tests.object_store import KEYS, Proxy, Server

DATA = os.urandom(300_000)
BLOB = Blob(sha256=sha256(DATA), bytes=len(DATA))
ARRIVAL = f"incoming/ada-1/{BLOB.sha256}"


class Fixture:
    """One bucket behind a proxy, and a store before it."""

    def __init__(self, s3: Server, proxy: Proxy, folder: Path) -> None:
        self.s3, self.proxy, self.folder = s3, proxy, folder
        self.url = f"{s3.bucket()}/p"
        self.store = self.other("one")
        self.handover = Handover(self.store, lifetime_s=600)

    def other(self, name: str) -> TieredStore:
        place = Place(url=self.url, endpoint=self.proxy.url, credentials=KEYS, patience_s=0.3)
        return TieredStore(Bucket(place), self.folder / name, cache_bytes=1 << 30)

    def put(self, data: bytes = DATA, **headers: str) -> None:
        """As a node does."""
        url = self.handover.write_url("ada-1", BLOB.sha256)
        httpx.put(url, content=data, headers=headers, trust_env=False).raise_for_status()

    def names(self) -> list[str]:
        return [name.removeprefix("p/") for name in self.s3.names(self.url)]


@pytest.fixture
def at(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fixture]:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    with Proxy(s3).running() as proxy:
        yield Fixture(s3, proxy, tmp_path)


def test_a_blob_goes_there_and_back_without_passing_here(at: Fixture) -> None:
    url = at.handover.write_url("ada-1", BLOB.sha256)
    parts = urlsplit(url)
    assert parts.path.endswith(f"/p/{ARRIVAL}")
    assert parse_qs(parts.query)["X-Amz-Expires"] == ["600"]
    at.put()
    assert at.names() == [ARRIVAL]
    assert not at.store.has(BLOB.sha256) and list(at.store.iterate()) == []
    at.handover.take("ada-1", BLOB)
    assert at.names() == [blob_name(BLOB.sha256)]
    assert at.store.read(BLOB.sha256) == at.other("two").read(BLOB.sha256) == DATA
    assert at.store.path(BLOB.sha256).stat().st_mode & 0o222 == 0  # a copy, which may be evicted
    gets = at.proxy.count("GET")
    got = httpx.get(at.handover.read_url(BLOB.sha256), headers={"Range": "bytes=1000-"}, trust_env=False)
    assert (got.status_code, got.content) == (206, DATA[1000:])
    assert at.proxy.count("GET") == gets + 1


@pytest.mark.parametrize(
    ("put", "kind"),
    [
        (b"?" + DATA[1:], HashMismatch),
        (DATA[:-1], HashMismatch),
        (b"", HashMismatch),
        (DATA + b"?", TooLarge),
    ],
)
def test_what_is_not_the_blob_is_removed(at: Fixture, put: bytes, kind: type[TapestryError]) -> None:
    at.put(put)
    with pytest.raises(kind):
        at.handover.take("ada-1", BLOB)
    assert at.names() == [] and not at.store.has(BLOB.sha256)
    assert list((at.store.root / "incoming").iterdir()) == []
    with pytest.raises(NotFound):
        at.handover.take("ada-1", BLOB)
    at.put()
    at.handover.take("ada-1", BLOB)
    assert at.store.read(BLOB.sha256) == DATA


def test_more_than_was_announced_is_not_read(at: Fixture) -> None:
    at.put(os.urandom(1 << 20))
    gets = at.proxy.count("GET")
    with pytest.raises(TooLarge):
        at.handover.take("ada-1", BLOB)
    assert at.proxy.count("GET") == gets


def test_what_is_marked_as_compressed_is_no_blob(at: Fixture) -> None:
    """A service that decodes (GCS does) would give readers other bytes than lie there."""
    at.put(gzip.compress(DATA), **{"Content-Encoding": "gzip"})
    with pytest.raises((HashMismatch, TooLarge)):
        at.handover.take("ada-1", BLOB)
    at.put(DATA, **{"Content-Encoding": "gzip"})
    with pytest.raises(HashMismatch, match="encoded"):
        at.handover.take("ada-1", BLOB)
    assert at.names() == []


def test_any_process_of_the_core_takes_it(at: Fixture) -> None:
    at.put()
    two = at.other("two")
    Handover(two, lifetime_s=600).take("ada-1", BLOB)
    assert two.read(BLOB.sha256) == at.store.read(BLOB.sha256) == DATA


def test_what_another_node_put_is_not_taken(at: Fixture) -> None:
    at.put()
    with pytest.raises(NotFound):
        at.handover.take("bob-1", BLOB)
    assert at.names() == [ARRIVAL]


def swap_after_reading(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's URL is still good: it puts other bytes when the right ones were just read."""
    download = Bucket.download

    def slow(self: Bucket, name: str, path: Path, max_bytes: int) -> str:
        found = download(self, name, path, max_bytes)
        at.put(b"?" * len(DATA))
        return found

    monkeypatch.setattr(Bucket, "download", slow)


def test_bytes_that_change_after_they_were_read(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    at.put()
    with monkeypatch.context() as patched:
        swap_after_reading(at, patched)
        at.handover.take("ada-1", BLOB)
    assert at.names() == [blob_name(BLOB.sha256)]
    assert at.other("two").read(BLOB.sha256) == DATA


def test_without_a_name_of_its_own_they_would_get_through(
    at: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    at.put()
    with monkeypatch.context() as patched:
        swap_after_reading(at, patched)
        at.store.accept(ARRIVAL, BLOB)
    with pytest.raises(HashMismatch):
        at.other("two").read(BLOB.sha256)


@pytest.mark.parametrize("after", range(3))
def test_a_store_that_fails_in_between(at: Fixture, after: int) -> None:
    """Copy, copy, and what was put is still there to be taken another time."""
    at.put()
    method = "PUT" if after < 2 else "GET"
    at.proxy.spoil(method, object_store.answers(500, "InternalError"), after=after % 2)
    with pytest.raises(StoreError):
        at.handover.take("ada-1", BLOB)
    assert ARRIVAL in at.names() and not at.store.has(BLOB.sha256)
    at.proxy.heal()
    at.handover.take("ada-1", BLOB)
    assert at.other("two").read(BLOB.sha256) == DATA


def test_bytes_altered_between_store_and_core_are_refused(at: Fixture) -> None:
    at.put()
    at.proxy.spoil("GET", object_store.flipped, times=1)
    with pytest.raises(HashMismatch):
        at.handover.take("ada-1", BLOB)
    assert at.names() == []


def test_what_was_abandoned_is_cleaned(at: Fixture) -> None:
    at.put()
    at.s3.replace(at.url, f"{TAKING}/{'0' * 32}", b"of a process that was killed")
    kept = at.store.put(b"a blob")
    assert (at.handover.clean(), at.store.clean(older_than_s=3600.0)) == (0, 0)
    time.sleep(1.1)  # the store's times are whole seconds
    assert at.store.clean(older_than_s=0.0, suffix=".tmp") == 0  # what `open` does makes no request
    assert at.store.clean(older_than_s=0.0) == 2
    assert at.names() == [blob_name(kept)]


def test_an_object_stored_as_compressed_is_replaced_by_who_has_the_bytes(at: Fixture) -> None:
    url = at.store.bucket.sign("PUT", blob_name(BLOB.sha256), 600)  # which no node ever gets
    httpx.put(url, content=DATA, headers={"Content-Encoding": "gzip"}, trust_env=False)
    with pytest.raises(HashMismatch, match="compressed"):
        at.store.read(BLOB.sha256)
    assert not at.store.has(BLOB.sha256) and at.store.sound_there(BLOB.sha256) is None
    at.store.put(DATA)
    assert at.other("two").read(BLOB.sha256) == DATA


def gcs_key(_tmp_path: Path) -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"private_key": pem, "private_key_id": "1", "client_email": "core@example.org"}
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps({**account, "type": "service_account"})}


def azure_key(_tmp_path: Path) -> dict[str, str]:
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"k" * 32).decode(),
    }


@pytest.mark.parametrize(
    ("url", "keys", "host", "signature"),
    [
        ("gs://bucket/p", gcs_key, "storage.googleapis.com", "X-Goog-Signature"),
        ("az://container/p", azure_key, "account.blob.core.windows.net", "sig"),
    ],
)
def test_the_other_providers_sign_without_a_request(
    url: str,
    keys: Callable[[Path], dict[str, str]],
    host: str,
    signature: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in os.environ if n.startswith(("GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    bucket = Bucket(Place(url=url, credentials=keys(tmp_path)))
    signed = urlsplit(bucket.sign("PUT", ARRIVAL, 600))
    assert (signed.scheme, signed.hostname) == ("https", host)
    assert signed.path.endswith(f"/p/{ARRIVAL}") and signature in parse_qs(signed.query)


def test_credentials_that_cannot_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    keys = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_SAS_KEY": "sv=1&sig=secret"}
    bucket = Bucket(Place(url="az://container/p", credentials=keys))
    store = TieredStore(bucket, tmp_path / "cache", cache_bytes=1 << 20)
    with pytest.raises(StoreError, match="no signed addresses") as caught:
        Handover(store, lifetime_s=600).check()
    assert "direct = false" in str(caught.value.hint) and "secret" not in caught.value.message
