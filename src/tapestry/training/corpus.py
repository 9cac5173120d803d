"""A node's text: found, read as a stream, tokenized once into memory-mapped files in the node's cache.

A corpus is a folder with a train and a valid split, each of files that `documents` reads. See
docs/guides/corpora.md.

A split's tokens are its documents in order of file path, each closed by the end-of-text token.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tapestry.catalog.protected import MATCHING, Protected, Watch
from tapestry.errors import CorpusError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.training.batches import sequences
from tapestry.training.documents import documents, format_of
from tapestry.training.stale import TOKENS, WITHHELD
from tapestry.training.tokenizer import Tokenizer

Split = Literal["train", "valid"]
SPLITS: Final[tuple[Split, ...]] = ("train", "valid")
COUNTS: Final = "counts.json"
"""In a folder of tokens: how many each file has."""
AT_ONCE: Final = 1 << 24
"""Tokens that are looked at together."""
_HINT: Final = "a corpus folder holds train.txt or train.jsonl, and valid.txt or valid.jsonl"

Tokens = npt.NDArray[np.uint16 | np.uint32]


@dataclass(frozen=True)
class TextFile:
    """One file of a split."""

    split: Split
    path: Path
    name: str
    """Path below the corpus folder, with forward slashes."""


@dataclass(frozen=True)
class SplitTokens:
    """Tokens of a split, memory-mapped."""

    tokens: Tokens
    """(T,) ids."""
    text_bytes: npt.NDArray[np.uint16] | None
    """(T,) UTF-8 bytes each token stands for, 0 for the end of a document; only of the valid split."""


@dataclass(frozen=True)
class Withheld:
    """Documents of each split that are in the files and not in the tokens.

    Args:
        protected: digest of the file that says which.
    """

    protected: str
    train: int
    valid: int


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    Args:
        manifest: canonical JSON list of the files with bytes and SHA-256. Stays at the node.
        digest: its hash, which is all that leaves.
        withheld: what the node's protected.toml keeps out; None where it has none.
    """

    folder: Path
    train: SplitTokens
    valid: SplitTokens
    manifest: bytes
    withheld: Withheld | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    """Of each file, by its path; ends of documents count."""

    @property
    def digest(self) -> str:
        return canonical.sha256(self.manifest)

    @cached_property
    def present(self) -> npt.NDArray[np.int64]:
        """Ids of the tokens that the train text has, ascending; worked out once for all rounds."""
        tokens = self.train.tokens
        parts = [np.unique(tokens[at : at + AT_ONCE]) for at in range(0, len(tokens), AT_ONCE)]
        return np.unique(np.concatenate(parts)).astype(np.int64)

    def require(self, sequence_length: int) -> None:
        """Raise `CorpusError` unless training text fills one window and there is valid text to score."""
        if sequences(len(self.train.tokens), sequence_length) == 0:
            raise CorpusError(
                f"the train text in {self.folder} has {len(self.train.tokens)} tokens, "
                f"less than one window of {sequence_length + 1}",
                hint="add text, or train with a shorter sequence_length",
            )


def find_files(folder: Path, needed: Sequence[Split] = SPLITS) -> list[TextFile]:
    """Files of both splits, in the order in which they are read.

    At the top of the folder a file belongs to the split its name begins with; below `train/` and
    `valid/` every file does. Files with other endings are ignored.

    Raises:
        CorpusError: no such folder, a needed split without a usable file, or a name that is not UTF-8.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CorpusError(f"corpus {folder} {what}", hint=_HINT)
    found: list[TextFile] = []
    ignored = 0
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        split = _split_of(relative)
        if split is None or format_of(path) is None:
            ignored += 1
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in relative.as_posix()):
            raise CorpusError(f"the name of {path!r} is not UTF-8", hint="give the file another name")
        found.append(TextFile(split, path, relative.as_posix()))
    for split in needed:
        if not any(file.split == split for file in found):
            also = f"; {ignored} other files are ignored" if ignored else ""
            raise CorpusError(
                f"corpus {folder} has no {split} text: no {split}*.txt, {split}*.jsonl, {split}*.parquet or "
                f"{split}/ folder with such files{also}",
                hint=_HINT if split == "train" else "set some documents apart as valid.txt or valid.jsonl",
            )
    return found


def _split_of(relative: Path) -> Split | None:
    for split in SPLITS:
        first = relative.parts[0]
        if first == split if len(relative.parts) > 1 else first.lower().startswith(split):
            return split
    return None


def manifest_of(found: list[TextFile]) -> bytes:
    """The data manifest: canonical JSON, one entry a file."""
    entries: list[dict[str, Any]] = []
    for file in found:
        with file.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
            size = stream.tell()
        entries.append({"bytes": size, "path": file.name, "sha256": digest.hexdigest(), "split": file.split})
    return canonical.encode({"files": entries, "format": "tapestry.data-manifest", "version": 1})


def open_corpus(
    folder: Path,
    tokenizer: Tokenizer,
    cache: Path,
    *,
    manifest: bytes = b"",
    protected: Protected | None = None,
) -> Corpus:
    """The tokenized corpus, from the cache where these very files were tokenized before.

    Args:
        folder: the corpus.
        tokenizer: whose ids are wanted.
        cache: the node's cache; what is missing there is written, whole or not at all.
        manifest: of these files where somebody knows it; else they are read.
        protected: what is not to be among the tokens.

    Raises:
        CorpusError: see `find_files` and `documents`; also no text in a split, or a file that changes
            while it is read.
        DiskFull: no space for the cache.
    """
    found = [] if manifest else find_files(folder)
    manifest = manifest or manifest_of(found)
    without = f"{protected.digest} {MATCHING}" if protected is not None else ""
    key = canonical.sha256(manifest + tokenizer.digest.encode() + without.encode())
    place = cache / f"{TOKENS}{key[:32]}"
    if not _is_whole(place):
        _tokenize_once(_Reading(folder, found or find_files(folder), manifest, tokenizer, protected), place)
    dtype = _dtype(tokenizer)
    return Corpus(
        folder=folder,
        train=SplitTokens(np.memmap(place / "train.tokens", dtype, "r"), None),
        valid=SplitTokens(
            np.memmap(place / "valid.tokens", dtype, "r"), np.memmap(place / "valid.bytes", np.uint16, "r")
        ),
        manifest=manifest,
        withheld=_withheld(place, protected),
        tokens=json.loads((place / COUNTS).read_bytes()),
    )


def _is_whole(place: Path) -> bool:
    """Whether the tokens are there; those of releases that did not count by file are not taken."""
    return (place / "corpus.json").is_file() and (place / COUNTS).is_file()


def _withheld(place: Path, protected: Protected | None) -> Withheld | None:
    if protected is None:
        return None
    found = json.loads((place / WITHHELD).read_bytes())
    return Withheld(protected.digest, train=found["train"], valid=found["valid"])


def _dtype(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if tokenizer.size <= 1 << 16 else np.uint32


@dataclass(frozen=True)
class _Reading:
    """What is to be tokenized, and how."""

    folder: Path
    found: list[TextFile]
    manifest: bytes
    tokenizer: Tokenizer
    protected: Protected | None


def _tokenize_once(reading: _Reading, place: Path) -> None:
    """As `_tokenize`, while no other process does the same."""
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = files.Lock(place.parent)
    lock.wait()
    try:
        if not _is_whole(place):
            _tokenize(reading, place)
    finally:
        lock.release()


def _tokenize(reading: _Reading, place: Path) -> None:
    temporary = place.with_name(place.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    withheld: dict[str, int] = {}
    counts: dict[str, int] = {}
    with files.full_disk(place):
        temporary.mkdir()
        for split in SPLITS:
            written, withheld[split] = _write_split(temporary, split, reading, counts)
            if written == 0:
                what = f"{withheld[split]} documents are withheld, the rest is empty"
                raise CorpusError(
                    f"the {split} files in {reading.folder} hold no text",
                    hint=what if withheld[split] else "they are all empty",
                )
        if reading.protected is not None:
            said = {**withheld, "protected": reading.protected.digest}
            (temporary / WITHHELD).write_text(json.dumps(said))
        (temporary / COUNTS).write_text(json.dumps(counts))
        (temporary / "corpus.json").write_bytes(reading.manifest)
    if manifest_of(reading.found) != reading.manifest:
        raise CorpusError(
            f"a file in {reading.folder} changed while it was read",
            hint="start again when nothing writes there",
        )
    shutil.rmtree(place, ignore_errors=True)
    files.publish_dir(temporary, place)


def _write_split(place: Path, split: Split, reading: _Reading, counts: dict[str, int]) -> tuple[int, int]:
    """Tokens of text (ends of documents not counted) that were written, and documents that were withheld.
    `counts` gets the tokens of each file."""
    dtype, tokenizer, total, withheld = _dtype(reading.tokenizer), reading.tokenizer, 0, 0
    lengths_path = place / "valid.bytes" if split == "valid" else Path("/dev/null")
    with (place / f"{split}.tokens").open("wb") as out, lengths_path.open("wb") as lengths:
        written_to = (out, lengths) if split == "valid" else (out,)
        for file in (file for file in reading.found if file.split == split):
            before = out.tell()
            for document in documents(file.path):
                watch = Watch(reading.protected, file.name) if reading.protected is not None else None
                start, written = [stream.tell() for stream in written_to], 0
                for text in document if watch is None else watch.through(document):
                    ids, text_bytes = tokenizer.encode(text)
                    out.write(ids.astype(dtype).tobytes())
                    lengths.write(text_bytes.astype(np.uint16).tobytes())
                    written += len(ids)
                if watch is not None and watch.found() is not None:
                    withheld += watch.any
                    for stream, position in zip(written_to if written else (), start, strict=False):
                        stream.seek(position)
                        stream.truncate()
                elif written:
                    out.write(dtype(tokenizer.end_id).tobytes())
                    lengths.write(np.uint16(0).tobytes())
                    total += written
            counts[file.name] = (out.tell() - before) // np.dtype(dtype).itemsize
    return total, withheld
