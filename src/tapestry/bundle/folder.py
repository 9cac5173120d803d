"""The files of a bundle: those of its list, each with its size and hash, and nothing that leads away."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from tapestry.bundle.manifest import (
    BUNDLE,
    LIST,
    MAX_DEPTH,
    MAX_FILES,
    MAX_LIST_BYTES,
    Bundle,
    Listed,
    parse_list,
)
from tapestry.errors import BundleError, InputError, TapestryError
from tapestry.host import files
from tapestry.identity.envelope import Envelope
from tapestry.protocol.canonical import MAX_INTEGER

CHUNK_BYTES: Final = 1 << 20
Progress = Callable[[int, int], None]


class Folder:
    """A bundle on disk. Reads below its root only, follows no link.

    Raises:
        InputError: there is no bundle.
        BundleError: `bundle.json` or the list is not what the format says.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / BUNDLE).is_file():
            raise InputError(
                f"{root} is no bundle: it has no {BUNDLE}", hint="make one: tapestry node export"
            )
        with as_bundle_error(BUNDLE):
            data = files.read_limited(root / BUNDLE, Envelope.MAX_BYTES, follow_symlinks=False)
            self.envelope = Envelope.from_bytes(data)
            self.said = self.envelope.unverified(Bundle)
        self.files = self._list()

    def _list(self) -> dict[str, Listed]:
        found = _hash(self.root, LIST, None)
        if found.sha256 != self.said.list:
            raise BundleError(f"{LIST} is not the list that {BUNDLE} was signed with", hint=_HINT)
        with as_bundle_error(LIST), opened(self.root, LIST) as file:
            listed = parse_list(iter(lambda: file.readline(4096), b""), self.said.kind)
        total = sum(each.bytes for each in listed.values())
        if (len(listed), total) != (self.said.files, self.said.bytes):
            raise BundleError(f"{LIST} does not have as many files or bytes as {BUNDLE} says")
        return listed

    def below(self, place: str) -> list[str]:
        """Paths in a folder of the bundle, ascending."""
        return [path for path in self.files if path.startswith(place + "/")]

    def check_names(self) -> None:
        """Raise `BundleError` unless the folder holds just the listed files, with their sizes."""
        folders = {path.rsplit("/", n)[0] for path in self.files for n in range(1, path.count("/") + 1)}
        seen = 0
        for path, info in _walk(self.root, "", 0):
            if stat.S_ISDIR(info.st_mode):
                if path not in folders:
                    raise BundleError(f"{path}/ is a folder that does not belong to the bundle", hint=_HINT)
                continue
            if not stat.S_ISREG(info.st_mode):
                raise BundleError(f"{path} is no regular file", hint=_HINT)
            if path in (BUNDLE, LIST):
                continue
            if (listed := self.files.get(path)) is None:
                raise BundleError(f"{path} does not belong to the bundle", hint=_HINT)
            if info.st_size != listed.bytes:
                raise BundleError(f"{path} has {info.st_size} bytes, not {listed.bytes}", hint=_HINT)
            seen += 1
        if seen != len(self.files):
            lost = next(path for path in self.files if not (self.root / path).is_file())
            raise BundleError(f"{lost} is missing", hint=_HINT)

    def check_hashes(self, progress: Progress = lambda _done, _all: None) -> None:
        """Raise `BundleError` unless every file has its hash; `progress` is told bytes."""
        done = 0
        for path, listed in self.files.items():
            if _hash(self.root, path, listed.bytes).sha256 != listed.sha256:
                raise BundleError(f"{path} was changed: it has not the hash it was signed with", hint=_HINT)
            done += listed.bytes
            progress(done, self.said.bytes)

    def read(self, path: str, max_bytes: int) -> bytes:
        """A small file that is listed. Raises `BundleError`."""
        listed = self.files.get(path)
        if listed is None:
            raise BundleError(f"{path} is missing", hint=_HINT)
        if listed.bytes > max_bytes:
            raise BundleError(f"{path} has {listed.bytes} bytes; at most {max_bytes} are allowed")
        with as_bundle_error(path):
            return files.read_limited(self.root / path, max_bytes, follow_symlinks=False)


_HINT: Final = "do not rely on it; ask for the bundle anew, or take another copy"


@contextmanager
def as_bundle_error(path: str) -> Iterator[None]:
    """Whatever is wrong with a file becomes a `BundleError` that names it."""
    try:
        yield
    except TapestryError as e:
        if isinstance(e, BundleError) and path in e.message:
            raise
        raise BundleError(f"{path}: {e.message}", hint=e.hint) from e
    except OSError as e:
        raise BundleError(f"{path} cannot be read: {e.strerror}", hint=_HINT) from e


@contextmanager
def opened(root: Path, path: str) -> Iterator[BinaryIO]:
    """A regular file of the bundle, to be read from its first byte on."""
    with as_bundle_error(path):
        fd = os.open(root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BundleError(f"{path} is no regular file", hint=_HINT)
        yield file


def hashed(file: BinaryIO, most: int = MAX_INTEGER) -> Listed:
    """Hash and size of what follows in a file, read up to `most` bytes and one more."""
    digest, size = hashlib.sha256(), 0
    while size <= most and (data := file.read(min(CHUNK_BYTES, most + 1 - size))):
        digest.update(data)
        size += len(data)
    return Listed(digest.hexdigest(), size)


def _hash(root: Path, path: str, size: int | None) -> Listed:
    with opened(root, path) as file:
        found = hashed(file, MAX_LIST_BYTES if size is None else size)
    if size is None and found.bytes > MAX_LIST_BYTES:
        raise BundleError(f"{path} is too long")
    return found


def _walk(root: Path, below: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder, as it lies there; names not decoded are shown escaped."""
    if depth > MAX_DEPTH:
        raise BundleError(f"{below} lies too deep", hint=_HINT)
    count = 0
    with os.scandir(root / below) as entries:
        for entry in entries:
            count += 1
            if count > MAX_FILES:
                raise BundleError(f"{below or 'the bundle'} holds too many files", hint=_HINT)
            path = f"{below}/{entry.name}" if below else entry.name
            info = entry.stat(follow_symlinks=False)
            yield path, info
            if stat.S_ISDIR(info.st_mode):
                yield from _walk(root, path, depth + 1)
