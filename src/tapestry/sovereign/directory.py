"""Model directories in the Hugging Face layout: opened, written, and addressed by what they hold."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from tapestry.errors import ModelError
from tapestry.host import files

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
ADAPTER: Final = "adapter_model.safetensors"
_MAX_JSON: Final = 64 << 20


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


def weights_digest(folder: Path) -> str:
    """SHA-256 of all tensors by name: name, type, shape and bytes, in name order. One tensor in memory.

    Raises:
        ModelError: no safetensors, a damaged one, or a tensor that two files hold.
    """
    digest = hashlib.sha256()
    with ExitStack() as stack:
        where: dict[str, Any] = {}
        for path in weight_files(folder):
            try:
                opened = stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as e:
                raise ModelError(f"{path} is not a whole safetensors file: {e}") from e
            for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                if where.setdefault(name, opened) is not opened:
                    raise ModelError(f"{folder} holds the tensor {name} twice")
        for name in sorted(where):
            tensor = where[name].get_tensor(name).contiguous()
            head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
            digest.update(json.dumps(head, separators=(",", ":")).encode() + b"\n")
            digest.update(memoryview(tensor.flatten().view(_bytes()).numpy()))
    return digest.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8
