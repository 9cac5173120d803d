from __future__ import annotations

import os
from pathlib import Path

import pytest

from tapestry.errors import DiskFull, FormatError
from tapestry.node import lines


@pytest.mark.parametrize("torn", [b"", b"{", b'{"a": 5}', b"x" * 10_000])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    lines.append(path, [{"a": 1}, {"a": 2}], durable=True)
    with path.open("ab") as file:
        file.write(torn)
    assert [line["a"] for line in lines.read(path)] == [1, 2]
    lines.append(path, [{"a": 3}], durable=False)
    assert [line["a"] for line in lines.read(path)] == [1, 2, 3]


def test_nothing_there(tmp_path: Path) -> None:
    assert list(lines.read(tmp_path / "log")) == []
    lines.append(tmp_path / "log", [], durable=True)
    assert not (tmp_path / "log").exists()
    (tmp_path / "log").write_bytes(b"torn from the start")
    lines.append(tmp_path / "log", [{"a": 1}], durable=True)
    assert (tmp_path / "log").read_bytes() == b'{"a": 1}\n'


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(FormatError, match="line 2"):
        list(lines.read(tmp_path / "log"))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    lines.append(path, [{"a": 1}], durable=True)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull):
            lines.append(path, [{"a": 2}], durable=True)
    lines.append(path, [{"a": 3}], durable=True)
    assert [line["a"] for line in lines.read(path)] == [1, 3]
