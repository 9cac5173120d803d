"""A LoRA adapter: what it adds to its base, and the same adapter on another base.

Read from the format of peft, without it: a base may have billions of values: one tensor is read at a time.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from tapestry.errors import ModelError
from tapestry.host import files
from tapestry.sovereign.directory import Tensors
from tapestry.sovereign.port.arithmetic import HINT, Change, Tables

CONFIG: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."
_FROZEN: Final = ".base_layer.weight"
"""peft keeps a copy of a table of tokens beside its product; it is the base's."""
_MAX_JSON: Final = 4 << 20
MERGED: Final = "port the merged weights: --full, with --from and the base they were made from"
_PLAIN: Final = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "megatron_config",
    "layer_replication",
    "alora_invocation_tokens",
)
"""Kinds of adapters that are more than a product of two matrices."""


@dataclass(frozen=True)
class Adapter:
    """Args:
    folder: of the adapter, as peft writes it.
    config: its `adapter_config.json`.
    """

    folder: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Raises `ModelError` for one that is no plain LoRA."""
        try:
            config = json.loads(files.read_limited(folder / CONFIG, _MAX_JSON))
            kind = config["peft_type"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
            raise ModelError(f"{folder} has no readable {CONFIG}", hint="give a LoRA adapter of peft") from e
        odd = next((key for key in _PLAIN if config.get(key)), None)
        if kind != "LORA" or odd is not None or config.get("bias", "none") != "none":
            raise ModelError(f"{folder} is no plain LoRA adapter, but {odd or str(kind)[:40]}", hint=MERGED)
        return cls(folder, config)

    def scale(self, module: str) -> float:
        """By which its product counts in a module."""
        rank = _of(self.config.get("rank_pattern"), module, self.config["r"])
        alpha = _of(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def modules(self, tensors: Tensors) -> dict[str, tuple[str, str]]:
        """A and B by the tensor of the base to which they add.

        Raises:
            ModelError: it holds something else, which is not ported.
        """
        found: dict[str, dict[str, str]] = {}
        for name in tensors.names:
            if name.endswith(_FROZEN):
                continue
            module, _, part = name.removeprefix(_PREFIX).rpartition(".lora_")
            part = part.removesuffix(".weight")
            if not module or part not in ("A", "B", "embedding_A", "embedding_B"):
                raise ModelError(
                    f"the adapter in {self.folder} holds {name}, which is no part of a LoRA product",
                    hint=MERGED,
                )
            found.setdefault(f"{module}.weight", {})[part[-1]] = name
        for module, parts in found.items():
            if set(parts) != {"A", "B"}:
                raise ModelError(f"the adapter in {self.folder} has half a product for {module}")
        return {module: (parts["A"], parts["B"]) for module, parts in found.items()}

    def check(self, tensors: Tensors, base: Tensors, tables: Tables) -> None:
        """Raise `ModelError` unless it fits a base; a table of tokens may have more rows there."""
        for module, (a, b) in self.modules(tensors).items():
            if module not in base:
                raise ModelError(f"the adapter is for another base: {base.folder} has no {module}", hint=HINT)
            out, inner = base.shape(module)[0], base.shape(module)[-1]
            embedding = a.endswith("embedding_A")
            first, second = tensors.shape(a), tensors.shape(b)
            fits = second[0] == inner if embedding else first[1] == inner
            rows = first[1] if embedding else second[0]
            if not fits or (rows > out if module in tables.names else rows != out):
                what = f"{module} is {list(base.shape(module))} in {base.folder}"
                raise ModelError(f"the adapter is for another base: {what}", hint=HINT)

    def change(self, tensors: Tensors, new: Tensors, tables: Tables, factor: float = 1.0) -> Change:
        """What it adds to each tensor of the base: scale · B A, or (scale · B A)ᵀ for an embedding; times
        `factor`."""
        modules = self.modules(tensors)

        def change(name: str) -> Tensor | None:
            if name not in modules:
                return None
            a, b = (tensors.read(each).float() for each in modules[name])
            product = (b @ a).mul_(factor * self.scale(name.removesuffix(".weight")))
            if modules[name][0].endswith("embedding_A"):
                product = product.T
            return tables.fit(name, product, new.shape(name))

        return change

    def moved(self, tensors: Tensors, new: Tensors, tables: Tables) -> dict[str, Tensor]:
        """Its tensors that have a row or column for each token, for the new base's tokens; and copies of what
        is the base's."""
        copies = [name for name in tensors.names if name.endswith(_FROZEN)]
        found = {n: new.read(n.removeprefix(_PREFIX).removesuffix(_FROZEN) + ".weight") for n in copies}
        for module, (a, b) in self.modules(tensors).items():
            if module not in tables.names or tables.rows.same:
                continue
            rows, values = new.shape(module)[0], tensors.read(a if a.endswith("embedding_A") else b)
            if a.endswith("embedding_A"):
                found[a] = tables.fit(module, values.T, (rows, values.shape[0])).T.contiguous()
            else:
                found[b] = tables.fit(module, values, (rows, values.shape[1]))
        return found

    def times(self, tensors: Tensors, factor: float) -> dict[str, float]:
        """By what each of its tensors is multiplied, so that all it adds is `factor` times as much."""
        return {b: factor for _, b in self.modules(tensors).values()}

    def config_for(self, base: str) -> bytes:
        """`adapter_config.json` that names another base, or with "" none, as those of a build do."""
        value = {**self.config, "base_model_name_or_path": base, "revision": None}
        return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def _of(pattern: Any, module: str, default: float) -> float:
    """peft's way: a key of the pattern is the end of a module's name."""
    for key, value in (pattern or {}).items():
        if module == key or module.endswith(f".{key}"):
            return float(value)
    return default
