"""Files in every form hold the same documents; damaged ones are said."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tapestry.errors import CorpusError, SettingsError
from tapestry.training.corpus import find_files
from tapestry.training.documents import documents, format_of

TEXTS = ["one", "zwei\nZeilen", "三", "x" * 3_000_000, "last"]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS).encode()


def zst(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}


def read(path: Path) -> list[str]:
    return ["".join(pieces) for pieces in documents(path)]


@pytest.mark.parametrize("ending", PACKED)
def test_compressed_text(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"train.jsonl{ending}"
    path.write_bytes(PACKED[ending](LINES))
    assert read(path) == TEXTS
    whole = tmp_path / f"train.TXT{ending.upper()}"
    whole.write_bytes(PACKED[ending]("ä\n".encode() * 700_000))
    assert read(whole) == ["ä\n" * 700_000]
    (tmp_path / f"valid.txt{ending}").write_bytes(PACKED[ending](b"v"))
    assert [file.path.name.lower() for file in find_files(tmp_path)] == [
        f"train.txt{ending}", f"train.jsonl{ending}", f"valid.txt{ending}"
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_damaged_files_are_said(tmp_path: Path, ending: str) -> None:
    whole = PACKED[ending](LINES)
    for number, data in enumerate((whole[:-20], whole[: len(whole) // 2], b"\0" * 100)):
        path = tmp_path / f"train-{number}.jsonl{ending}"
        path.write_bytes(data)
        with pytest.raises(CorpusError, match="cut short or damaged"):
            read(path)


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string()])
def test_parquet(tmp_path: Path, kind: pyarrow.DataType) -> None:
    path = tmp_path / "train.parquet"
    texts = pyarrow.array([*TEXTS, None], kind)
    parquet.write_table(pyarrow.table({"id": list(range(6)), "text": texts}), path, row_group_size=2)
    assert read(path) == TEXTS
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(CorpusError, match="damaged"):
        read(path)
    parquet.write_table(pyarrow.table({"text": [1]}), path)
    with pytest.raises(CorpusError, match="int64"):
        read(path)
    parquet.write_table(pyarrow.table({"body": ["x"]}), path)
    with pytest.raises(CorpusError, match="no column"):
        read(path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("train.parquet", "train.jsonl.zst"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(SettingsError, match="pyarrow"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gz", "a.parquet.gz", "a.md", "a.txt.zip", "a", ".txt", "a.jsonl.gz.gz"])
def test_other_files_are_no_text(name: str) -> None:
    assert format_of(Path(name)) is None
