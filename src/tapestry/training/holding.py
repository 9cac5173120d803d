"""A corpus folder held against a card: read as a stream, hashed and counted; what differs is named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.catalog import lineage
from tapestry.catalog.card import MAX_FILES, Card, Content, File
from tapestry.catalog.content import Tally
from tapestry.errors import CardError, CorpusError, TapestryError
from tapestry.host import files
from tapestry.training.corpus import TextFile, find_files
from tapestry.training.documents import documents

Tell = Callable[[int, int], None]
"""Takes bytes done, of how many."""
TELL_BYTES: Final = 4 << 20
NAMED: Final = 5
"""Files that one error names."""


@dataclass(frozen=True)
class Holding:
    """What a folder holds."""

    content: Content
    files: tuple[File, ...]

    def values(self, folder: Path, **described: Any) -> dict[str, Any]:
        """Of a card for it, with what somebody says of it."""
        return {
            "folder": str(folder.resolve()),
            "content": self.content.model_dump(),
            "files": [file.model_dump() for file in self.files],
            **described,
        }


@dataclass(frozen=True)
class Change:
    """A file that is not as a card has it."""

    path: str
    what: str
    """`changed`, `missing` or `new`."""


def hold(
    folder: Path,
    tell: Tell = lambda done, total: None,
    *,
    only: Callable[[str], bool] = lambda path: True,
) -> Holding:
    """All documents and files of a folder, as docs/formats/cards.md counts them; `only` some, by their paths.

    Each file is read twice at the same time: as it lies there, and as documents.

    Raises:
        CorpusError: as of `find_files` and `documents`; or a file that changes meanwhile.
    """
    found = [file for file in find_files(folder) if only(file.name)]
    if len(found) > MAX_FILES:
        raise CorpusError(
            f"{folder} has {len(found)} files; a card has at most {MAX_FILES}",
            hint="put many documents into one .jsonl file",
        )
    total, done = sum(file.path.stat().st_size for file in found), 0
    tally, held = Tally(), []
    with ThreadPoolExecutor(1, "hash") as pool:
        for file in found:
            before, size = identity(file.path), file.path.stat().st_size
            raw = pool.submit(_sha256, file.path)
            documents_before = tally.documents
            for read in _take(tally, file):
                tell(done + min(read, size), total)
            digest = raw.result()
            if identity(file.path) != before:
                raise CorpusError(
                    f"{file.path} changed while it was read", hint="start again when nothing writes there"
                )
            done += size
            tell(done, total)
            held.append(
                File(
                    path=file.name,
                    split=file.split,
                    bytes=size,
                    documents=tally.documents - documents_before,
                    sha256=digest,
                )
            )
    return Holding(tally.content(), tuple(held))


def lineage_of(folder: Path, holding: Holding) -> dict[str, Any] | None:
    """What curation wrote beside the text, None where it was not curated.

    Raises:
        CardError: it is wrong, or of other text.
    """
    path = folder / lineage.FILE
    try:
        data = files.read_limited(path, lineage.MAX_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, TapestryError) as e:
        raise CardError(f"{path} cannot be read: {e}") from e
    found = lineage.Lineage.from_bytes(data, str(path))
    content = holding.content
    found.require(
        lineage.State(documents=content.documents, bytes=content.bytes, root=content.root), str(path)
    )
    return found.model_dump(mode="json")


def identity(path: Path) -> list[int]:
    """Changes whenever a file's content does, unless somebody sets the machine's clock back for it."""
    info = path.stat()
    return [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def changes(card: Card, files: tuple[File, ...]) -> list[Change]:
    """Files that differ from those of a card, by path."""
    before, now = {file.path: file for file in card.files}, {file.path: file for file in files}
    found = []
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            found.append(Change(path, "missing"))
        elif path not in before:
            found.append(Change(path, "new"))
        elif before[path] != now[path]:
            found.append(Change(path, "changed"))
    return found


def in_words(found: list[Change]) -> str:
    """The first few of them."""
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(f"{each.path} ({each.what})" for each in found[:NAMED]) + more


def _take(tally: Tally, file: TextFile) -> Iterator[int]:
    """Takes a file's documents in; gives now and then the bytes of text so far."""
    read = told = 0
    for document in documents(file.path, examples=True):
        read += tally.take(document)
        if read - told >= TELL_BYTES:
            told = read
            yield read


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return hashlib.file_digest(file, "sha256").hexdigest()
