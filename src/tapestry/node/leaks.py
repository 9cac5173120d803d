"""The search for canaries in whatever leaves: in bytes as they are, and inside of gzip, zlib and zip streams.

At memory speed, and the same for one canary and for millions. It finds what was copied by mistake or without
care; who encrypts, or spreads letters over many numbers, is not found.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from tapestry.errors import Leak, TapestryError
from tapestry.node import canaries, child
from tapestry.node.home import Home, identity
from tapestry.protocol.artifact import Model
from tapestry.storage.blobs import BlobStore

BLOCK_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 2
"""Streams inside of streams that are opened."""
MAX_INFLATED_BYTES: Final = 64 << 20
"""Of all streams of one file."""
MAX_STREAMS: Final = 200_000
"""Places of one file where a stream may begin: weights have one in 16,000 bytes by chance."""
SAMPLE_STEP: Final = 997
PROBE_BYTES: Final = 64
FEED_BYTES: Final = 64 << 10
TOKENIZER_S: Final = 60.0
_HEADERS: Final = {
    "zlib": re.compile(rb"x[\x01\x5e\x9c\xda]"),
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zip": re.compile(rb"PK\x03\x04"),
}
_ZIP_HEADER: Final = 30

Read = Callable[[int, int], bytes]
"""(offset, most bytes) → bytes; fewer only at the end."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A canary, without its text."""

    where: str
    offset: int
    """In what it was found in: in the stream's content where `inside` says so."""
    encoding: str
    inside: str = ""
    """`gzip`, `zlib > zlib`: streams that were opened to find it."""

    def __str__(self) -> str:
        return f"{self.encoding} at byte {self.offset}" + (f" inside of {self.inside}" if self.inside else "")


class Searcher:
    """Looks for one marker.

    Attributes:
        unsearched: streams, or rests of them, that were not opened for their number or size.
    """

    def __init__(self, marker: str, ids: Sequence[int] = ()) -> None:
        self._patterns = canaries.patterns(marker, ids)
        self._overlap = max(len(pattern) for _, pattern in self._patterns) - 1
        self.unsearched = 0

    def data(self, data: bytes, where: str = "") -> list[Hit]:
        """The first place of each encoding."""
        return self.source(lambda offset, size: data[offset : offset + size], where)

    def file(self, fd: int, where: str = "") -> list[Hit]:
        """In an open file."""
        return self.source(lambda offset, size: os.pread(fd, size, offset), where)

    def source(self, read: Read, where: str = "") -> list[Hit]:
        return list(_Search(self, self._patterns, self._overlap, where).look(read, ()))


class _Search:
    """Of one file."""

    def __init__(
        self, owner: Searcher, patterns: Sequence[tuple[str, bytes]], overlap: int, where: str
    ) -> None:
        self._owner, self._patterns, self._overlap, self._where = owner, patterns, overlap, where
        self._streams, self._inflated = MAX_STREAMS, MAX_INFLATED_BYTES

    def look(self, read: Read, inside: tuple[str, ...]) -> Iterator[Hit]:
        found: set[str] = set()
        offset, kept, opened = 0, b"", 0
        while block := read(offset, BLOCK_BYTES):
            data, start = kept + block, offset - len(kept)
            sample = data[::SAMPLE_STEP]
            empty = sample.count(0) * 4 > len(sample)
            for name, pattern in self._patterns:
                if name not in found and (at := _find(data, pattern, empty=empty)) >= 0:
                    found.add(name)
                    yield self._hit(name, start + at, inside)
            if len(inside) < MAX_DEPTH:
                for at, kind in self._headers(data):
                    if start + at >= opened:
                        content, end = self._inflate(read, kind, start + at)
                        opened = max(end, start + at + 1)
                        if content:
                            yield from self.look(_reader(content), (*inside, kind))
            offset += len(block)
            kept = data[-self._overlap :]

    def _headers(self, data: bytes) -> list[tuple[int, str]]:
        """Where a compressed stream may begin, in order of place."""
        found = []
        for kind, header in _HEADERS.items():
            found += [(match.start(), kind) for match in islice(header.finditer(data), self._streams)]
        self._streams -= len(found)
        if self._streams <= 0:
            self._owner.unsearched += 1
            self._streams = 0
        return sorted(found)

    def _hit(self, name: str, offset: int, inside: tuple[str, ...]) -> Hit:
        return Hit(where=self._where, offset=offset, encoding=name, inside=" > ".join(inside))

    def _inflate(self, read: Read, kind: str, offset: int) -> tuple[bytes, int]:
        """What a stream holds, as far as it can be read, and where it ends, or begins if it does not end."""
        at, wbits = offset, {"gzip": 31, "zlib": 15, "zip": -15}[kind]
        if kind == "zip":
            head = read(offset, _ZIP_HEADER)
            if head[8:10] != b"\x08\x00":
                return b"", offset
            at += _ZIP_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        stream, content, size = zlib.decompressobj(wbits), bytearray(), PROBE_BYTES
        try:
            while not stream.eof and (data := read(at, size)):
                content += stream.decompress(data, max(1, self._inflated - len(content)))
                if stream.unconsumed_tail:
                    self._owner.unsearched += 1
                    break
                at, size = at + len(data), FEED_BYTES
        except zlib.error:
            pass  # no stream, or a damaged one: what came out counts
        self._inflated = max(0, self._inflated - len(content))
        return bytes(content), at - len(stream.unused_data) if stream.eof else offset


def _find(data: bytes, pattern: bytes, *, empty: bool) -> int:
    """Where the pattern is; -1 for nowhere. `bytes.find` looks at each zero of a block that is full of them
    when the pattern has some as well; an expression looks for its first letter, four times as fast there."""
    if empty and 0 in pattern:
        match = re.search(re.escape(pattern), data)
        return match.start() if match is not None else -1
    return data.find(pattern)


def _reader(content: bytes) -> Read:
    return lambda offset, size: content[offset : offset + size]


class Leaks:
    """What the gate asks about each thing that is to leave a home. Without canaries it lets all pass.

    Args:
        home: the node's; `canaries.json` is read again when it changes.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._seen: tuple[int, int] | None = None
        self._searcher: Searcher | None = None
        self._canaries: canaries.Canaries | None = None
        self._ids_of: tuple[str, str] | None = None
        """Marker and model whose tokenizer is looked for."""
        self.planted: int | None = None
        self.refresh()

    @property
    def unsearched(self) -> int | None:
        """Compressed streams that were not opened for their number or size; None for none."""
        return (self._searcher.unsearched or None) if self._searcher is not None else None

    def refresh(self) -> None:
        """Raises `SettingsError` where the file is damaged: nothing leaves unsearched then."""
        if (found := identity(str(self._home.canaries))) == self._seen:
            return
        said = self._canaries = canaries.load(self._home)
        self._searcher = Searcher(said.marker) if said is not None else None
        self.planted = said.planted if said is not None else None
        self._seen, self._ids_of = found, None

    def of_model(self, store: BlobStore, model: str) -> None:
        """Look for the ids of this model's tokenizer as well; said in the log where they cannot be had."""
        said = self._canaries
        if said is None or (wanted := (said.marker, model)) == self._ids_of:
            return
        self._ids_of = wanted
        ids = token_ids(store, model, said.marker)
        if ids is None or len(ids) < canaries.MIN_IDS:
            child.log("token-ids-not-searched", model=model)
        self._searcher = Searcher(said.marker, ids or ())

    def check(self, what: str, data: bytes) -> None:
        """Raise `Leak` where a canary is in it."""
        if self._searcher is not None:
            _refuse(what, self._searcher.data(data))

    def check_file(self, what: str, fd: int) -> None:
        """The same of an open file."""
        if self._searcher is not None:
            _refuse(what, self._searcher.file(fd))


def token_ids(store: BlobStore, model: str, marker: str) -> list[int] | None:
    """Of the marker in a model's tokenizer, found by a process that ends with it: the gate loads none, and
    the file is the core's. None where they cannot be had."""
    try:
        said = Model.from_bytes(store.read(model, Model.MAX_BYTES))
        blob = next(file.blob for file in said.files if file.path == "tokenizer.json")
    except (TapestryError, StopIteration):
        return None
    asked = json.dumps({"tokenizer": str(store.path(blob.sha256)), "text": marker})
    command = [sys.executable, "-P", "-m", "tapestry.training.marks"]
    try:
        done = subprocess.run(
            command, input=asked.encode(), capture_output=True, timeout=TOKENIZER_S, check=True
        )
        return [int(number) for number in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _refuse(what: str, hits: list[Hit]) -> None:
    if hits:
        raise Leak(
            f"{what} holds a canary of this node's text: {hits[0]}",
            hint="text got into what was to leave; find out how before you go on: docs/concepts/airlock.md",
        )


def search(searcher: Searcher, path: Path, skip: Path | None = None) -> Iterator[Hit]:
    """In a file, or in all regular files below a folder, and in their names. Links are not followed.

    Raises:
        OSError: it cannot be read, so nothing can be said of it.
    """
    skipped = _inode(skip) if skip is not None else None
    for each in _below(path):
        name = os.fsencode(each if each == path else each.name)
        yield from searcher.data(name, "the name given" if each == path else f"a name in {each.parent}")
        try:
            info = each.lstat()
            if not stat.S_ISREG(info.st_mode) or (info.st_dev, info.st_ino) == skipped:
                continue
            fd = os.open(each, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if each == path:
                raise
            continue  # gone since the folder was listed, as in the folder of a core that runs
        try:
            yield from searcher.file(fd, str(each))
        finally:
            os.close(fd)


def _below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for each in sorted(path.iterdir()):
            yield from _below(each)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino
