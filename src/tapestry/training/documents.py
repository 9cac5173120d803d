"""Documents out of files: `.txt` (one), `.jsonl` (one a line) and `.parquet` (one a row), read as a stream.

The first two may be compressed: `.gz`, `.bz2`, `.xz`, and `.zst` where pyarrow is installed, which
`.parquet` needs too. Lines of `.jsonl` that have no `text` may be examples (`training.examples`), where the
reader takes those.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from tapestry.errors import CorpusError, SettingsError
from tapestry.training.examples import SHAPES as EXAMPLES
from tapestry.training.examples import Example, NotAnExample, is_example
from tapestry.training.examples import parse as parse_example

T = TypeVar("T")
FORMATS: Final = (".txt", ".jsonl", ".parquet")
COMPRESSIONS: Final = (".gz", ".bz2", ".xz", ".zst")
MAX_LINE_BYTES: Final = 64 << 20
CHUNK_CHARACTERS: Final = 1 << 20
BATCH_ROWS: Final = 256
"""Rows of a parquet file that are in memory at once, beside the page they come from."""
_READ_BYTES: Final = 1 << 20
_ENDS: Final = frozenset(("", "\n", "\r\n"))
_OPEN: Final[dict[str, Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROKEN: Final = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


def format_of(path: Path) -> str | None:
    """Which of `FORMATS` a file is by its name; None for another."""
    endings = [suffix.lower() for suffix in path.suffixes[-2:]]
    if endings and endings[-1] in COMPRESSIONS:
        endings.pop()
        return endings[-1] if endings and endings[-1] in FORMATS[:2] else None
    return endings[-1] if endings and endings[-1] in FORMATS else None


def documents(path: Path, *, examples: bool = False) -> Iterator[Iterable[str]]:
    """Documents of a file, each as pieces of text, to be gone through once and before the next document.

    Args:
        path: of the file.
        examples: take lines that are examples too, each as its canonical JSON; for counting and hashing, not
            for training on text.

    Raises:
        CorpusError: names file and line of what is not UTF-8, not JSON, has no `text`, or is damaged.
        SettingsError: the file needs pyarrow, which is not installed.
    """
    kind = format_of(path)
    if kind == ".parquet":
        for text in _rows(path):
            yield (text,)
        return
    with _opened(path) as file:
        if kind == ".jsonl":
            for _, text in _json_lines(file, path, _text_or_example if examples else _text):
                yield (text,)
        else:
            yield _pieces(file, path)


def examples_of(path: Path) -> Iterator[tuple[int, Example]]:
    """Examples of a `.jsonl` file with their lines. Raises `CorpusError`, naming file and line."""
    with _opened(path) as file:
        yield from _json_lines(file, path, _example)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, unpacked as it is read."""
    try:
        ending = path.suffix.lower()
        if ending == ".zst":
            file: Any = _Lines(_arrow(path).CompressedInputStream(str(path), "zstd"))
        else:
            file = _OPEN.get(ending, open)(path, "rb")
        with file:
            yield file
    except _BROKEN as e:
        raise CorpusError(f"{path} is cut short or damaged: {e}", hint="copy or pack it again") from e
    except OSError as e:
        if path.suffix.lower() not in COMPRESSIONS or e.errno is not None:
            raise
        raise CorpusError(f"{path} is cut short or damaged: {e}", hint="copy or pack it again") from e


def _arrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as e:
        raise SettingsError(
            f"{path} can only be read with pyarrow, which is not installed",
            hint="install the extra: pip install 'tapestry[node,corpora]'",
        ) from e
    return pyarrow


class _Lines:
    """`readline` with a limit, which Arrow's streams lack."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._held = b""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        return bytes(self._stream.read(size))

    def readline(self, limit: int) -> bytes:
        searched = 0
        while (end := self._held.find(b"\n", searched) + 1) == 0 and len(self._held) < limit:
            searched = len(self._held)
            if not (data := self.read(_READ_BYTES)):
                break
            self._held += data
        cut = min(end or len(self._held), limit)
        line, self._held = self._held[:cut], self._held[cut:]
        return line


def _rows(path: Path) -> Iterator[str]:
    """The column `text`; rows without a value are passed over."""
    arrow = _arrow(path)
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            if "text" not in file.schema_arrow.names:
                raise CorpusError(
                    f"{path} has no column `text`", hint="name the column with the documents so"
                )
            kind = file.schema_arrow.field("text").type
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise CorpusError(f"{path}: the column `text` holds {kind}, not strings")
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["text"], use_threads=False):
                for value in batch.column(0):
                    if value.is_valid:
                        yield value.as_py()
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise CorpusError(f"{path} is cut short or damaged: {reason}", hint="copy it again") from e


def _pieces(file: IO[bytes], path: Path) -> Iterator[str]:
    """Text in pieces of about a million characters that end at the end of a line where there is one."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, held = 1, ""
    while True:
        data = file.read(_READ_BYTES)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as e:
            bad = line + e.object[: e.start].count(b"\n")
            raise CorpusError(f"{path}, line {bad}: not UTF-8", hint="convert the file to UTF-8") from e
        line += text.count("\n")
        held += text
        if not data:
            break
        if len(held) >= CHUNK_CHARACTERS:
            cut = held.rfind("\n") + 1 or len(held)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _text(value: Any, data: bytes) -> str:
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise _Line("no field `text` with a string", 'write {"text": "..."}')
    if b"\\u" in data:  # bytes that are UTF-8 hold no surrogate
        text.encode()
    return text


def _text_or_example(value: Any, data: bytes) -> str:
    return _example(value, data).document if is_example(value) else _text(value, data)


def _example(value: Any, data: bytes) -> Example:
    try:
        return parse_example(value)
    except NotAnExample as e:
        raise _Line(str(e), EXAMPLES) from None


def _json_lines(file: IO[bytes], path: Path, read: Callable[[Any, bytes], T]) -> Iterator[tuple[int, T]]:
    """What `read` makes of each line's value and bytes, with the line's number."""
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        try:
            if len(data) > MAX_LINE_BYTES:
                raise _Line(f"longer than {MAX_LINE_BYTES} bytes", "split the document")
            line = data.decode("utf-8-sig") if number == 1 else data.decode()
            if line.isspace() or not line:
                continue
            found = read(_parse(line), data)
        except _Line as e:
            raise CorpusError(f"{path}, line {number}: {e.args[0]}", hint=e.args[1]) from None
        except UnicodeDecodeError as e:
            raise CorpusError(f"{path}, line {number}: not UTF-8", hint="convert the file to UTF-8") from e
        except UnicodeEncodeError as e:
            raise CorpusError(f"{path}, line {number}: `text` holds half a surrogate pair") from e
        except (ValueError, RecursionError) as e:
            raise CorpusError(f"{path}, line {number}: not JSON", hint="each line is one JSON object") from e
        yield number, found


_DECODER: Final[Any] = json.JSONDecoder()


def _parse(line: str) -> Any:
    """As `json.loads`, in a third less time for a line as programs write it: an object, then its end."""
    if line[0] == "{":
        try:
            value, end = _DECODER.scan_once(line, 0)
        except StopIteration:  # a value lacks inside of it
            raise ValueError("expecting a value") from None
        if line[end:] in _ENDS:
            return value
    return _DECODER.decode(line)


class _Line(Exception):
    """What is wrong with a line, and what to do."""
