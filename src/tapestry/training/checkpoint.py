"""Inner state of a trainer on disk: a folder of safetensors, one or more a rank, and `state.json`.

torch.distributed.checkpoint writes and reads the tensors, in its safetensors form: every rank writes the
rows it holds, and a state that many ranks wrote is read by any other number of them. Nothing is pickled on
disk. `state.json` is the last file to be written and names every other with its SHA-256, so a folder that
is not whole, or was changed, is passed over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from tapestry.errors import ArtifactError, FormatError, TapestryError
from tapestry.host import failpoints, files
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.training.island import ISLAND_OF_ONE, Island
from tapestry.training.spool import TextScore

STATE: Final = "state.json"
FILE_BYTES: Final = 64 << 20
"""About so much a rank puts into one file, since a file is held in memory while it is written."""

Began = Literal["kept", "reset"]
Loss = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class InnerFile(Part):
    """One file of tensors."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,80}\.safetensors$")]
    bytes: Annotated[int, Field(ge=0, le=1 << 50)]
    sha256: Sha256


class InnerState(Message):
    """Header of an inner state: where the trainer of one node stands in one run."""

    format: Literal["tapestry.inner-state"] = "tapestry.inner-state"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 20

    run: Name
    plan: Sha256
    layout: Sha256
    round: Annotated[int, Field(ge=1, le=1 << 40)]
    merges: Annotated[int, Field(ge=0, le=1 << 40)]
    """Of that round's base."""
    state: Sha256
    """The shared state this round was trained from."""
    step: Annotated[int, Field(ge=0, le=1 << 40)]
    """Steps of the round that are done."""
    of_steps: Annotated[int, Field(ge=1, le=1 << 40)]
    """Steps that the round was to have."""
    parameters: bool
    """Whether the node's own parameters are among the tensors."""
    position: Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
    """Sequences consumed over all rounds."""
    optimizer_steps: Annotated[int, Field(ge=0, le=1 << 50)]
    """Steps the inner optimizer has taken over all rounds."""
    ranks: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """That wrote it."""
    losses: tuple[Loss, ...] = ()
    """One a step of this round; only inside a round."""
    score: TextScore | None = None
    """Of the round's base; only inside a round."""
    began: Began | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of the first round of a run that repeats another; see `inner.Round`."""
    text: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    """Stands for the data manifests of which there is something in it; only inside a round."""
    files: tuple[InnerFile, ...] = ()


def save(
    folder: Path, header: InnerState, tensors: Mapping[str, Tensor], island: Island = ISLAND_OF_ONE
) -> None:
    """Write a state; the folder is made, and whole when its `state.json` is there. All ranks together.

    Args:
        folder: not there yet.
        header: of the state; ranks and files are filled in.
        tensors: by name; what the ranks share is a DTensor.
        island: who writes.

    Raises:
        DiskFull: no space.
    """
    every = save_tensors(folder, tensors, island)
    if island.lead:
        header = header.model_copy(update={"ranks": island.ranks, "files": every})
        with files.full_disk(folder):
            files.write_atomic(folder / STATE, header.to_bytes())
    island.barrier()
    failpoints.reach("trainer.inner.saved")


def save_tensors(
    folder: Path, tensors: Mapping[str, Tensor], island: Island = ISLAND_OF_ONE
) -> tuple[InnerFile, ...]:
    """Write tensors only; every rank learns of all files. The folder is made. All ranks together."""
    if island.lead:
        with files.full_disk(folder):
            folder.mkdir(parents=True)
    island.barrier()
    with _failures(folder):
        writer = HuggingFaceStorageWriter(
            str(folder), fqn_to_index_mapping=_places(tensors, island.ranks), save_distributed=True
        )
        save_distributed(dict(tensors), storage_writer=writer, no_dist=island.alone)
    mine = [_described(path) for path in sorted(folder.glob(f"shard-{island.rank + 1:05}-*"))]
    told = island.gather(json.dumps([file.model_dump() for file in mine]).encode())
    return tuple(InnerFile.model_validate(file) for rank in told for file in json.loads(rank))


def _places(tensors: Mapping[str, Tensor], ranks: int) -> dict[str, int]:
    """Which file, from 1, each tensor goes to."""
    places, file, used = {}, 1, 0
    for name in sorted(tensors):
        size = tensors[name].numel() * tensors[name].element_size() // ranks
        if used and used + size > FILE_BYTES:
            file, used = file + 1, 0
        places[name] = file
        used += size
    return places


def _described(path: Path) -> InnerFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return InnerFile(name=path.name, bytes=file.tell(), sha256=digest.hexdigest())


def read_header(folder: Path, island: Island = ISLAND_OF_ONE) -> InnerState:
    """The header of a state of which every file is there and unchanged. All ranks together.

    Raises:
        ArtifactError: names what is missing, cut off or changed.
    """
    data = b""
    if island.lead:
        try:
            data = files.read_limited(folder / STATE, InnerState.MAX_BYTES)
        except (OSError, TapestryError):
            data = b""
    data = island.share(data)
    if not data:
        raise ArtifactError(f"{folder} is not a whole checkpoint: it has no {STATE}")
    try:
        header = InnerState.from_bytes(data)
    except FormatError as e:
        raise ArtifactError(f"{folder / STATE} does not parse: {e.message}") from e
    require_files(folder, header.files, island)
    return header


def require_files(folder: Path, wanted: tuple[InnerFile, ...], island: Island = ISLAND_OF_ONE) -> None:
    """Raise `ArtifactError` where a file is missing, cut off or changed. All ranks together."""
    wrong = _wrong(folder, wanted[island.rank :: island.ranks])
    if island.any(wrong is not None):
        named = next(filter(None, (each.decode() for each in island.gather((wrong or "").encode()))))
        raise ArtifactError(f"{folder} is corrupt: {named} is not what was written")


def _wrong(folder: Path, wanted: tuple[InnerFile, ...]) -> str | None:
    for file in wanted:
        try:
            if _described(folder / file.name) != file:
                return file.name
        except OSError:
            return file.name
    return None


def load(folder: Path, into: Mapping[str, Tensor], island: Island = ISLAND_OF_ONE) -> None:
    """Fill tensors from a state whose header was read. All ranks together, as many as they may be.

    Raises:
        ArtifactError: a tensor is missing or of another shape.
    """
    try:
        # Translated first: that another rank died is no fault of the state.
        with island.translated(), _failures(folder):
            reader = HuggingFaceStorageReader(str(folder))
            load_distributed(dict(into), storage_reader=reader, no_dist=island.alone)
    except (ValueError, KeyError, AssertionError, RuntimeError) as e:
        raise ArtifactError(f"{folder} does not fit this model: {' '.join(str(e).split())[:200]}") from e


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """The reason inside the library's own exception; its remarks on a missing process group left out."""
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), files.full_disk(folder):
            warnings.simplefilter("ignore", UserWarning)
            try:
                yield
            except CheckpointException as e:
                raise next(iter(e.failures.values()))[0] from e
    finally:
        logging.getLogger("torch.distributed.checkpoint").setLevel(logging.NOTSET)
