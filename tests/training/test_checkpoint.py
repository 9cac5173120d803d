from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tapestry.errors import ArtifactError
from tapestry.training import checkpoint
from tapestry.training.checkpoint import InnerState

from ..full_disk import FILL, run_on_small_disk
from .support import inner_tensors

HEADER = InnerState(
    run="r",
    plan="1" * 64,
    layout="2" * 64,
    merges=0,
    round=3,
    state="4" * 64,
    step=5,
    of_steps=6,
    parameters=False,
    position=6,
    optimizer_steps=7,
    losses=(1.5,),
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"parameter.w": torch.arange(6.0).reshape(2, 3), "optimizer.m.w": torch.full((5,), 3.0)}


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    folder = tmp_path / "inner"
    checkpoint.save(folder, HEADER, tensors)
    return folder


def test_what_was_saved_comes_back(folder: Path, tensors: dict[str, Tensor]) -> None:
    header = checkpoint.read_header(folder)
    assert header.model_copy(update={"files": ()}) == HEADER
    into = {name: torch.zeros_like(value) for name, value in tensors.items()}
    checkpoint.load(folder, into)
    assert all(torch.equal(into[name], value) for name, value in tensors.items())
    some = {"parameter.w": torch.zeros(2, 3)}
    checkpoint.load(folder, some)
    assert torch.equal(some["parameter.w"], tensors["parameter.w"])


def test_the_files_are_plain_safetensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    header = checkpoint.read_header(folder)
    assert [path.name for path in sorted(folder.iterdir())] == [*(f.name for f in header.files), "state.json"]
    found = inner_tensors(folder)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_many_tensors_go_to_files_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 4000)
    many = {f"t{i:02}": torch.full((250,), float(i)) for i in range(12)}
    checkpoint.save(tmp_path / "many", HEADER, many)
    header = checkpoint.read_header(tmp_path / "many")
    assert len(header.files) == 3 and all(
        len(load_file(tmp_path / "many" / f.name)) == 4 for f in header.files
    )
    into = {name: torch.zeros(250) for name in many}
    checkpoint.load(tmp_path / "many", into)
    assert all(torch.equal(into[name], value) for name, value in many.items())


def test_every_flipped_byte_and_every_cut_is_found(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for at in range(0, len(data), 41):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            changed = True
            try:
                changed = checkpoint.read_header(folder) != HEADER
            except ArtifactError as e:
                assert folder.name in e.message
            else:
                assert path.name == "state.json" and changed, "only what state.json says of itself may differ"
        for length in (0, 7, 8, 100, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(ArtifactError, match=folder.name):
                checkpoint.read_header(folder)
        path.write_bytes(data)
    checkpoint.read_header(folder)


def test_a_missing_file_or_folder_is_said(folder: Path) -> None:
    name = checkpoint.read_header(folder).files[0].name
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        checkpoint.read_header(folder)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactError, match="has no state"):
        checkpoint.read_header(folder)


@pytest.mark.parametrize("wanted", [{"parameter.w": torch.zeros(3, 3)}, {"parameter.v": torch.zeros(2, 3)}])
def test_tensors_of_another_model_are_refused(folder: Path, wanted: dict[str, Tensor]) -> None:
    with pytest.raises(ArtifactError, match="does not fit this model"):
        checkpoint.load(folder, wanted)


def test_a_full_disk_is_said_and_a_later_state_can_be_written(tmp_path: Path) -> None:
    code = """
import torch
from tapestry.errors import DiskFull
from tapestry.training import checkpoint
from tests.training.test_checkpoint import HEADER
tensors = {'a': torch.ones(200_000)}
fill()
try:
    checkpoint.save(disk / 'inner', HEADER, tensors)
except DiskFull as e:
    print('full', 'inner' in e.message)
free()
checkpoint.save(disk / 'again', HEADER, tensors)
print(len(checkpoint.read_header(disk / 'again').files))
"""
    assert run_on_small_disk(tmp_path, FILL + code, kib=4096).split() == ["full", "True", "1"]
