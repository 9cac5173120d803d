"""Model directories in the Hugging Face layout: opened, written, and addressed by what they hold."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from safetensors import SafetensorError, safe_open

from tapestry.errors import ModelError
from tapestry.host import files

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
ADAPTER: Final = "adapter_model.safetensors"
CONFIG: Final = "config.json"
ADAPTER_CONFIG: Final = "adapter_config.json"
_MAX_JSON: Final = 64 << 20
_BESIDE: Final = (".json", ".txt", ".jinja", ".model")
_SILENT: Final = ("lineage.json", "bom.cdx.json")
_KINDS: Final = {"F64": ("float64", 8), "F32": ("float32", 4), "BF16": ("bfloat16", 2), "F16": ("float16", 2)}
Make = Callable[[str], "Tensor"]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model or of an adapter. Raises `ModelError` where there are none."""
    for name in (WEIGHTS, ADAPTER):
        if (folder / name).is_file():
            return [folder / name]
    if (folder / INDEX).is_file():
        try:
            names = set(json.loads(files.read_limited(folder / INDEX, _MAX_JSON))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as e:
            raise ModelError(f"{folder / INDEX} is no index of safetensors") from e
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ModelError(f"{folder / INDEX} names files outside of its folder")
        return [folder / name for name in sorted(names)]
    raise ModelError(f"{folder} has no {WEIGHTS}", hint="give the directory of a model with safetensors")


def require_alone(folder: Path) -> None:
    """Raise `ModelError` for a model's folder that holds an adapter too: transformers adds it to what it
    opens, and neither the weights' hash nor a lineage would tell of it."""
    if (folder / CONFIG).is_file() and (folder / ADAPTER_CONFIG).exists():
        raise ModelError(
            f"{folder} holds both a model and an adapter ({ADAPTER_CONFIG})",
            hint="put the adapter into a folder of its own",
        )


class Tensors:
    """All tensors of a directory, by name; one in memory at a time. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._where: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Raises `ModelError`: no safetensors, a damaged one, or a tensor that two files hold."""
        with ExitStack() as stack:
            for path in weight_files(self.folder):
                try:
                    opened = stack.enter_context(safe_open(path, framework="pt"))
                except (OSError, SafetensorError) as e:
                    raise ModelError(f"{path} is not a whole safetensors file: {e}") from e
                for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                    if self._where.setdefault(name, opened) is not opened:
                        raise ModelError(f"{self.folder} holds the tensor {name} twice")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def __contains__(self, name: object) -> bool:
        return name in self._where

    @property
    def names(self) -> list[str]:
        """Sorted."""
        return sorted(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._where[name].get_slice(name).get_shape())

    def kind(self, name: str) -> str:
        """Its type as safetensors calls it: F32, BF16 and so on."""
        return str(self._where[name].get_slice(name).get_dtype())

    def read(self, name: str) -> Tensor:
        """Raises `ModelError` where there is none of that name."""
        if name not in self._where:
            raise ModelError(f"{self.folder} has no tensor {name}")
        tensor: Tensor = self._where[name].get_tensor(name)
        return tensor


def weights_digest(folder: Path) -> str:
    """SHA-256 of all tensors by name: name, type, shape and bytes, in name order. One tensor in memory.

    Raises:
        ModelError: no safetensors, a damaged one, or a tensor that two files hold.
    """
    digest = hashlib.sha256()
    with Tensors(folder) as tensors:
        for name in tensors.names:
            tensor = tensors.read(name).contiguous()
            head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
            digest.update(json.dumps(head, separators=(",", ":")).encode() + b"\n")
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def files_beside(folder: Path) -> dict[str, str]:
    """SHA-256 of what lies beside a model's weights and has a say in what it does, by path: configurations,
    tokenizer, chat templates. Its lineage, card and bill of materials have none."""
    every = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
    named = {path.relative_to(folder).as_posix(): path for path in every if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(named.items())
        if path.suffix in _BESIDE and name not in _SILENT and not name.endswith(".index.json")
    }


def require_beside(folder: Path, wanted: Mapping[str, str] | None) -> None:
    """Raise `ModelError` where a file beside the weights is another than the lineage has it, went or came; of
    an older lineage, which names none, nothing is known."""
    if wanted is None:
        return
    found = files_beside(folder)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = "was changed" if name in wanted else "came later"
            raise ModelError(
                f"the model in {folder} is not the one its lineage is of: {name} "
                f"{what if name in found else 'is missing'}",
                hint="build it again, or bring the files back",
            )


def write_weights(path: Path, described: Mapping[str, tuple[str, tuple[int, ...]]], make: Make) -> None:
    """One safetensors file, tensor by tensor; only one of them is in memory.

    Args:
        path: in a folder that no reader knows yet.
        described: type (as safetensors calls it) and shape of each tensor, by name.
        make: gives a tensor, fp32 or of that type, by its name.
    """
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, shape) in described.items():
        if kind not in _KINDS:
            raise ModelError(f"tensor {name} is of type {kind}, which is not written")
        size = math.prod(shape) * _KINDS[kind][1]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with files.full_disk(path), path.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name, (kind, shape) in described.items():
            tensor = make(name).to(getattr(torch, _KINDS[kind][0])).contiguous()
            if tuple(tensor.shape) != shape:
                raise ModelError(f"tensor {name} became {tuple(tensor.shape)}; it was to be {shape}")
            out.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    array: Any = tensor.flatten().view(torch.uint8).numpy()
    return memoryview(array)
