"""Checkpoints of a stage, in place of those of transformers, which pickle.

    checkpoints/00000120/state.json            header, with every file's SHA-256
    checkpoints/00000120/trainer_state.json    as transformers keeps it
    checkpoints/00000120/shard-*.safetensors   trained parameters, and moments of the optimizer

A folder gets its name when all of it is on the disk, so one that is there is whole; of two, the older is kept
until the newer is. There is no state of random numbers in it: each step draws its own from seed and number
(`draw`), and which rows it takes follows from them too, so a step is the same whoever takes it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tapestry.errors import ArtifactError, FormatError, TapestryError
from tapestry.host import failpoints, files
from tapestry.protocol.canonical import Sha256, sha256
from tapestry.protocol.message import Message
from tapestry.sovereign import muon
from tapestry.sovereign.lineage import Count, Finite
from tapestry.training import checkpoint
from tapestry.training.checkpoint import InnerFile
from tapestry.training.island import Island

STATE: Final = "state.json"
KEPT: Final = 2
STEPS: Final = "steps"
"""Tensor with the number of AdamW's updates of each parameter, in name order."""
MOMENTS: Final = {"first": "exp_avg", "second": "exp_avg_sq", "momentum": "momentum_buffer"}
"""As a checkpoint and as the optimizers call them; AdamW has the first two, Muon the last."""


class StageState(Message):
    """Header of a checkpoint."""

    format: Literal["tapestry.stage-state"] = "tapestry.stage-state"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 20

    settings: Sha256
    """Of the stage."""
    start: Sha256
    """Weights that the stage began from."""
    data: Sha256
    """Of the header of the data it trains on: what was trained on other data is not gone on from."""
    step: Count
    first: Finite | None
    """Loss of the first step."""
    recent: Annotated[tuple[Finite, ...], Field(max_length=100)]
    """Of the last ones."""
    files: tuple[InnerFile, ...] = ()


def draw(seed: int, number: int, step: int, rank: int) -> None:
    """Begin the random numbers of one step of a stage at one rank."""
    key = int(sha256(f"step {seed} {number} {step} {rank}".encode())[:8], 16)
    random.seed(key)
    np.random.seed(key)
    torch.manual_seed(key)


class Checkpoints:
    """Of one stage.

    Args:
        folder: that they lie in.
        island: the ranks.
        settings: of the stage.
        start: weights that it began from.
        data: stands for what it trains on.
    """

    def __init__(self, folder: Path, island: Island, settings: str, start: str, data: str) -> None:
        self.folder, self._island = folder, island
        self._settings, self._start, self._data = settings, start, data

    def newest(self) -> tuple[Path, StageState] | None:
        """The newest that is whole and of this stage; others are passed over. All ranks together."""
        names = sorted(path.name for path in self.folder.glob("[0-9]*")) if self._island.lead else []
        for name in reversed(self._island.share(" ".join(names).encode()).decode().split()):
            try:
                return self.folder / name, self._read(self.folder / name)
            except (ArtifactError, FormatError):
                continue
        return None

    def _read(self, folder: Path) -> StageState:
        data = b""
        if self._island.lead:
            try:
                data = files.read_limited(folder / STATE, StageState.MAX_BYTES)
            except (OSError, TapestryError):
                data = b""
        header = StageState.from_bytes(self._island.share(data))
        if (header.settings, header.start, header.data) != (self._settings, self._start, self._data):
            raise ArtifactError(f"{folder} is of another stage")
        checkpoint.require_files(folder, header.files, self._island)
        return header

    def save(
        self,
        step: int,
        losses: tuple[float | None, tuple[float, ...]],
        tensors: dict[str, Tensor],
        beside: dict[str, bytes],
    ) -> None:
        """Write one, and remove those before the last. All ranks together.

        Args:
            step: that is done.
            losses: of the first step, and of the last ones.
            tensors: by name.
            beside: other files.
        """
        island, final = self._island, self.folder / f"{step:08}"
        temporary = self.folder / f".{step:08}.tmp"
        if island.lead:
            shutil.rmtree(temporary, ignore_errors=True)
        island.barrier()
        written = checkpoint.save_tensors(temporary, tensors, island)
        if island.lead:
            header = StageState(
                settings=self._settings,
                start=self._start,
                data=self._data,
                step=step,
                first=losses[0],
                recent=losses[1],
                files=written,
            )
            with files.full_disk(temporary):
                for name, data in beside.items():
                    (temporary / name).write_bytes(data)
                (temporary / STATE).write_bytes(header.to_bytes())
            failpoints.reach("build.checkpoint.written")
            shutil.rmtree(final, ignore_errors=True)  # damaged, else the stage had gone on from it
            files.publish_dir(temporary, final)
            failpoints.reach("build.checkpoint.published")
            for old in sorted(self.folder.glob("[0-9]*"))[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        island.barrier()

    def load(self, folder: Path, into: dict[str, Tensor]) -> None:
        """Fill tensors. All ranks together, as many as they may be."""
        checkpoint.load(folder, into, self._island)


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What a stage changes, by name."""
    found = ((name, each) for name, each in model.named_parameters() if each.requires_grad)
    return sorted((name, each) for name, each in found if ".ref." not in name)


def tensors_of(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Parameters and moments as a checkpoint has them; what the ranks share is a DTensor."""
    found: dict[str, Tensor] = {}
    steps, by_muon = [], muon.of_muon(optimizer)
    for name, parameter in trained(model):
        state = optimizer.state.get(parameter) or _unmoved(parameter, by_muon)
        found[f"parameter.{name}"] = parameter.detach()
        found |= {f"{kind}.{name}": state[moment] for kind, moment in MOMENTS.items() if moment in state}
        steps.append(float(state.get("step", 0)))
    found[STEPS] = torch.tensor(steps, dtype=torch.float64)
    return found


def restore(checkpoints: Checkpoints, folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Give a model and its optimizer what they had."""
    found, by_muon = trained(model), muon.of_muon(optimizer)
    for _, parameter in found:
        optimizer.state[parameter] = _unmoved(parameter, by_muon)
    into = tensors_of(model, optimizer)
    checkpoints.load(folder, into)
    for (_, parameter), steps in zip(found, _list(into[STEPS]), strict=True):
        if "step" in optimizer.state[parameter]:
            optimizer.state[parameter]["step"] = torch.tensor(steps, dtype=torch.float32)


def _list(values: Tensor) -> Iterator[float]:
    return iter(values.tolist())


def _unmoved(parameter: nn.Parameter, by_muon: set[int]) -> dict[str, Tensor]:
    """What its optimizer keeps of a parameter that it has not changed yet."""
    if id(parameter) in by_muon:
        return muon.unmoved(parameter)
    zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
    return {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
