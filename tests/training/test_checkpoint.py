from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tapestry.errors import ArtifactError, DiskFull
from tapestry.training import checkpoint
from tapestry.training.checkpoint import InnerState

HEADER = InnerState(
    run="r", plan="1" * 64, layout="2" * 64, round=3, state="4" * 64, step=5, position=6, losses=(1.5,)
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {
        "parameter.w": torch.arange(6.0).reshape(2, 3).T,
        "optimizer.step": torch.tensor(3.0),
        "rng": torch.get_rng_state(),
        "none": torch.zeros(0),
    }


@pytest.fixture
def path(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "inner.safetensors"
    checkpoint.save(path, HEADER, tensors)
    return path


def test_what_was_saved_comes_back(path: Path, tensors: dict[str, Tensor]) -> None:
    found = checkpoint.load(path)
    assert found.header.model_copy(update={"tensors": HEADER.tensors}) == HEADER
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert list(found.under("parameter")) == ["w"]


def test_the_file_is_plain_safetensors_and_the_same_bytes_each_time(
    path: Path, tensors: dict[str, Tensor]
) -> None:
    assert torch.equal(load_file(path)["parameter.w"], tensors["parameter.w"])
    first = path.read_bytes()
    checkpoint.save(path, HEADER, dict(reversed(tensors.items())))
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_every_flipped_byte_and_every_cut_is_found(path: Path) -> None:
    data = path.read_bytes()
    for at in range(0, len(data), 41):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(ArtifactError, match=path.name):
            checkpoint.load(path)
    for length in (0, 7, 8, 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=path.name):
            checkpoint.load(path)


def test_a_broken_checkpoint_is_passed_over_for_an_older_one(
    path: Path, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    checkpoint.save(newer, HEADER.model_copy(update={"round": 4}), tensors)
    paths = [tmp_path / "missing", newer, path]
    found, passed = checkpoint.load_first(paths, run="r", layout="2" * 64)
    assert found is not None and found.header.round == 4 and not passed
    newer.write_bytes(newer.read_bytes()[:-3])
    found, passed = checkpoint.load_first(paths, run="r", layout="2" * 64)
    assert found is not None and found.header.round == 3
    assert len(passed) == 1 and "newer" in passed[0]
    found, passed = checkpoint.load_first(paths, run="other", layout="2" * 64)
    assert found is None and "another run" in passed[1]


def test_a_full_disk_keeps_the_old_checkpoint(
    path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_safetensors", full)
    with pytest.raises(DiskFull):
        checkpoint.save(path, HEADER, tensors)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
