"""Inner state of a trainer on disk: safetensors with a JSON header, no pickle.

File: a safetensors file whose `__metadata__` has one key, `tapestry`: canonical JSON with format,
version, what the file is of, and the SHA-256 over name, type, shape and bytes of all tensors in name
order. So a flipped bit anywhere is found, and two files of the same state are the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, ClassVar, Final, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tapestry.errors import ArtifactError, FormatError, TapestryError
from tapestry.host import failpoints, files
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message
from tapestry.training.spool import TextScore

_TYPES: Final = {torch.float32: "F32", torch.uint8: "U8", torch.int64: "I64", torch.bfloat16: "BF16"}

Loss = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class InnerState(Message):
    """Header of an inner state: where the trainer of one node stands in one run."""

    format: Literal["tapestry.inner-state"] = "tapestry.inner-state"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 20

    run: Name
    plan: Sha256
    layout: Sha256
    round: Annotated[int, Field(ge=1, le=1 << 40)]
    state: Sha256
    """The shared state this round was trained from."""
    step: Annotated[int, Field(ge=0, le=1 << 40)]
    """Steps of the round that are done."""
    position: Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
    """Sequences consumed over all rounds."""
    losses: tuple[Loss, ...] = ()
    """One a step of this round; only inside a round."""
    score: TextScore | None = None
    """Of the round's base; only inside a round."""
    tensors: Sha256 = "0" * 64


@dataclass(frozen=True)
class Checkpoint:
    """A header and its tensors: `optimizer.*`, `rng`, and inside a round `parameter.*`."""

    header: InnerState
    tensors: dict[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name begins with `prefix.`, named by the rest."""
        start = prefix + "."
        return {name[len(start) :]: t for name, t in self.tensors.items() if name.startswith(start)}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of all tensors in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def save(path: Path, header: InnerState, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, atomically and durably; the one that was there stays until then.

    Raises:
        DiskFull: no space; the old one is still there.
    """
    header = header.model_copy(update={"tensors": fingerprint(tensors)})
    temporary = path.with_name(path.name + ".tmp")
    try:
        with files.full_disk(path):
            with temporary.open("wb") as file:
                write_safetensors(file, tensors, {"tapestry": header.to_bytes().decode()})
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            files.fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    failpoints.reach("trainer.inner.saved")


def write_safetensors(file: IO[bytes], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, tensor by tensor in name order; the library's own writer holds all of it in
    memory or hides that the disk is full."""
    table: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in sorted(tensors):
        file.write(_bytes(tensors[name]))


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's memory, little-endian on every machine that torch runs on."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Raises:
        ArtifactError: missing, cut off, changed, or not a checkpoint; names the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tapestry", "")
            header = InnerState.from_bytes(text.encode())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise ArtifactError(f"{path} is not a whole checkpoint: {e}") from e
    except FormatError as e:
        raise ArtifactError(f"{path} has a header that does not parse: {e.message}") from e
    if fingerprint(tensors) != header.tensors:
        raise ArtifactError(f"{path} is corrupt: its tensors are not those that were written")
    return Checkpoint(header, tensors)


def load_first(paths: list[Path], *, run: str, layout: str) -> tuple[Checkpoint | None, list[str]]:
    """The first of `paths` that is whole and belongs to the run, and why those before it were passed over."""
    passed: list[str] = []
    for path in paths:
        if not path.exists():
            continue
        try:
            checkpoint = load(path)
        except TapestryError as e:
            passed.append(e.message)
            continue
        if checkpoint.header.run == run and checkpoint.header.layout == layout:
            return checkpoint, passed
        passed.append(f"{path} belongs to another run or layout")
    return None, passed
