"""A bucket of an object store (S3, GCS, Azure) through obstore: whole objects, and errors made ours.

Nothing here relies on a listing being complete or fresh. Requests are repeated with backoff for
`patience_s`; what still fails then is a `StoreError` that names the store and the way out. Messages
carry the store's own error code, never its whole answer, which may quote parts of a credential.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from tapestry.errors import DiskFull, HashMismatch, NotFound, SettingsError, StoreError, TooLarge
from tapestry.storage.medium import guard, read_mapped, write_all

PATIENCE_S: Final = 20.0
"""A request is repeated for so long; then whoever asked the core is told, and tries again later."""
CONNECT_S: Final = 5
STALLED_S: Final = 30
"""A part that is sent, or a read, may take so long."""
WHOLE_BYTES: Final = 9 << 20
"""An object up to this size is sent by one request: a shard of the default size with its header."""
PART_BYTES: Final = 5 << 20
"""The least S3 takes."""
PARTS: Final = 2
"""Parts of a larger object in flight; with the one that is being read, an upload takes about 16 MiB."""
SMALL_BYTES: Final = 1 << 20
"""A smaller object waits for no other."""
SENDING: Final = 2
"""Larger objects sent at once, whoever asks: each lies in memory whole or by parts, and a core has up to 36
threads that would send one. Memory of sending is SENDING × 16 MiB at most; with shards of the default size
SENDING × 9 MiB."""
MARKER: Final = "tapestry"
_MARKER_TEXT: Final = b"Blobs of a Tapestry core, each under its SHA-256.\n"

_CREDENTIALS: Final[dict[str, tuple[str, ...]]] = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "gs": (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
    ),
}
"""Variables of which one must be given. Without any, obstore would ask the machine's metadata service,
and whoever merely forgot to set them would wait for that and be told of an address he never heard of."""

_FULL: Final = {"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "InsufficientCapacity", "507"}
_NO_BUCKET: Final = {"NoSuchBucket", "ContainerNotFound", "InvalidBucketName"}
_DENIED: Final = {"401", "403"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a bucket is.

    Args:
        url: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`, or without a prefix.
        endpoint: URL of the service, where it is not the provider's own.
        region: of S3.
        credentials: named as the environment's variables are; those of the environment win.
        patience_s: how long a request is repeated.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    credentials: Mapping[str, str] | None = None
    patience_s: float = PATIENCE_S


def is_bucket(where: str) -> bool:
    """Whether a blob store's address is that of an object store rather than a folder."""
    return urlsplit(where).scheme in _CREDENTIALS


class Bucket:
    """Objects by name. Safe to use from several threads and processes at once. No request is made before
    the first call."""

    def __init__(self, place: Place) -> None:
        self.url = place.url
        self._sending = threading.BoundedSemaphore(SENDING)
        try:
            self._objects = _open(place)
        except (obstore.exceptions.BaseError, OSError, ValueError) as e:
            raise SettingsError(
                f"object store {place.url} cannot be used: {_reason(e)}",
                hint="correct `blobs` and [object_store] in core.toml, and the credentials",
            ) from e

    def check(self) -> None:
        """Write and read a marker, so that what is wrong for good is found at once.

        Raises:
            StoreError: it cannot be reached, the bucket is missing, or the credentials do not suffice.
            DiskFull: it takes nothing more.
        """
        with self._guard(MARKER):
            self._objects.put(MARKER, _MARKER_TEXT)
            read = self._objects.get(MARKER).bytes().to_bytes()
        if read != _MARKER_TEXT:
            raise StoreError(
                f"object store {self.url} returns other bytes than were written to it",
                hint="check what stands between this machine and the store",
            )

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where there is none."""
        try:
            with self._guard(name):
                return int(self._objects.head(name)["size"])
        except NotFound:
            return None

    def upload(self, path: Path, name: str) -> None:
        """Store a file as an object, atomically, over one that may be there; `StoreError` unless the store
        then has as many bytes."""
        with guard(f"blob {path.name}"):
            size = path.stat().st_size
        with self._turn() if size >= SMALL_BYTES else contextlib.nullcontext():
            self._send(path, name, size)
        if (stored := self.size(name)) != size:
            raise StoreError(
                f"object store {self.url} has {stored or 0} of {size} bytes of {name} after it took them",
                hint="it is sent again; if this repeats, the store is not fit for use",
            )

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One of the few that send at once. Raises `StoreError` where those do not get on."""
        if not self._sending.acquire(timeout=STALLED_S):
            raise StoreError(
                f"object store {self.url} has taken none of {SENDING} objects for {STALLED_S} s",
                hint="what waits is sent again",
            )
        try:
            yield
        finally:
            self._sending.release()

    def _send(self, path: Path, name: str, size: int) -> None:
        if size > WHOLE_BYTES:
            with self._guard(name, missing=StoreError):
                self._objects.put(name, path, chunk_size=PART_BYTES, max_concurrency=PARTS)
            return
        with guard(f"blob {path.name}"):
            whole = read_mapped(path) if size >= SMALL_BYTES else path.read_bytes()
        with self._guard(name, missing=StoreError):
            self._objects.put(name, whole, use_multipart=False)

    def download(self, name: str, path: Path, max_bytes: int) -> str:
        """Write an object to a new file; its SHA-256, which is not compared with anything here.

        Raises:
            NotFound: there is none.
            TooLarge: it has more than `max_bytes`; nothing was read.
            HashMismatch: it is stored as if compressed; nothing was read.
        """
        digest = hashlib.sha256()
        with self._guard(name):
            found = self._objects.get(name)
            if found.attributes.get("Content-Encoding", "identity") != "identity":
                # its sender said so; whoever gets it through a service that decodes would get other bytes
                raise HashMismatch(f"{name} in object store {self.url} is marked as encoded")
            if (size := int(found.meta["size"])) > max_bytes:
                raise TooLarge(f"blob {path.name} has {size} bytes; at most {max_bytes} are expected")
            pieces = iter(found.stream(min_chunk_size=1 << 20))
        with guard(f"blob {name}"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            while True:
                with self._guard(name):
                    piece = next(pieces, None)
                if piece is None:
                    return digest.hexdigest()
                view = memoryview(piece)
                digest.update(view)
                with guard(f"blob {name}"):
                    write_all(fd, view)
        finally:
            os.close(fd)

    def copy(self, source: str, name: str) -> None:
        """Give an object a second name, over one that may be there; the bytes stay in the store.

        Raises:
            NotFound: there is none of the name `source`.
            StoreError: also where the store then has another number of bytes.
        """
        with self._guard(source):
            size = int(self._objects.head(source)["size"])
            self._objects.copy(source, name)
        if (stored := self.size(name)) != size:
            raise StoreError(
                f"object store {self.url} has {stored or 0} of {size} bytes of {name} after copying it",
                hint="it is done again; if this repeats, the store is not fit for use",
            )

    def sign(self, method: Literal["GET", "PUT"], name: str, lifetime_s: int) -> str:
        """A URL with which anybody may read or write this one object for so long.

        It is a credential: it must be in no log and no error. Raises `StoreError` where these credentials
        cannot sign.
        """
        try:
            return str(obstore.sign(self._objects, method, name, timedelta(seconds=lifetime_s)))
        except (obstore.exceptions.BaseError, OSError, ValueError) as e:
            raise StoreError(
                f"object store {self.url} gives no signed addresses with these credentials ({_reason(e)})",
                hint="use an access key, or set `direct = false` in [object_store] of core.toml",
            ) from None

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with contextlib.suppress(NotFound), self._guard(name):
            self._objects.delete(name)

    def names(self) -> Iterator[tuple[str, int]]:
        """Name and bytes of every object, as the store lists them now."""
        with self._guard("its list"):
            for chunk in self._objects.list():
                for entry in chunk:
                    yield str(entry["path"]), int(entry["size"])

    def clean(self, prefix: str, *, older_than_s: float) -> int:
        """Remove what was written below a prefix so long ago; how many objects that were."""
        oldest = time.time() - older_than_s
        with self._guard("its list"):
            found = [entry for chunk in self._objects.list(prefix=prefix) for entry in chunk]
        old = [str(entry["path"]) for entry in found if entry["last_modified"].timestamp() < oldest]
        for name in old:
            self.delete(name)
        return len(old)

    @contextlib.contextmanager
    def _guard(self, name: str, *, missing: type[NotFound | StoreError] = NotFound) -> Iterator[None]:
        try:
            yield
        except (obstore.exceptions.BaseError, OSError) as e:
            codes = _codes(e)
            reason = _reason(e)
            if codes & _NO_BUCKET:
                raise StoreError(
                    f"object store {self.url}: there is no such bucket ({reason})",
                    hint="make it, or correct `blobs` in core.toml",
                ) from e
            if codes & _FULL:
                raise DiskFull(
                    f"object store {self.url} is full ({reason})",
                    hint="make room or raise its quota; nothing was lost",
                ) from e
            if "404" in codes:
                raise missing(f"{name} is not in object store {self.url}") from e
            if codes & _DENIED or isinstance(
                e, obstore.exceptions.UnauthenticatedError | obstore.exceptions.PermissionDeniedError
            ):
                raise StoreError(
                    f"object store {self.url} refuses these credentials ({reason})",
                    hint="they need to read, write and delete there; see docs/guides/run-a-core.md",
                ) from e
            raise StoreError(
                f"object store {self.url} cannot be reached ({reason})",
                hint="nothing was lost; see that the store runs, and that `endpoint` in core.toml is right",
            ) from e


def _open(place: Place) -> Any:
    url = urlsplit(place.url)
    if url.scheme not in _CREDENTIALS or not url.netloc or url.query or url.fragment or "@" in url.netloc:
        raise SettingsError(
            f"{place.url} is no object store",
            hint="write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX, without a password",
        )
    config: Any = {k.lower(): v for k, v in (place.credentials or {}).items() if k.upper() not in os.environ}
    known = {name for name in _CREDENTIALS[url.scheme] if os.environ.get(name) or name.lower() in config}
    if not known:
        raise SettingsError(
            f"object store {place.url}: no credentials are given",
            hint=f"set {_CREDENTIALS[url.scheme][0]} and what belongs to it in the environment, "
            "or in keys/object_store.toml with mode 0600",
        )
    common: dict[str, Any] = {
        "prefix": url.path.strip("/") or None,
        "client_options": {
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=STALLED_S),
            "timeout": timedelta(seconds=20 * STALLED_S),
            "allow_http": (place.endpoint or "").startswith("http://"),
        },
        "retry_config": {
            "max_retries": 10,
            "retry_timeout": timedelta(seconds=place.patience_s),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)},
        },
    }
    if url.scheme == "s3":
        if place.region:
            config["aws_region"] = place.region
        if place.endpoint:
            config["aws_endpoint"] = place.endpoint
        return S3Store(url.netloc, config=config, **common)
    if url.scheme == "gs":
        if place.endpoint:
            config["google_base_url"] = place.endpoint
        return GCSStore(url.netloc, config=config, **common)
    if place.endpoint:
        config["azure_storage_endpoint"] = place.endpoint
    return AzureStore(url.netloc, config=config, **common)


def _codes(error: Exception) -> set[str]:
    """HTTP status and the store's own code, wherever the error's text has them."""
    text = str(error)
    found = set(re.findall(r"(?:status code: |status: )(\d{3})\b", text))
    found.update(re.findall(r"<Code>(\w{1,64})</Code>", text))
    if isinstance(error, FileNotFoundError | obstore.exceptions.NotFoundError):
        found.add("404")
    if "specified bucket does not exist" in text:
        found.add("NoSuchBucket")
    return found


def _reason(error: Exception) -> str:
    codes = sorted(_codes(error))
    if codes:
        return " ".join(codes)
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition(" - ")[2][:200]
