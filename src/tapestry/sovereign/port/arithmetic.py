"""The sum itself, tensor by tensor: at most three tensors are in memory, and for an adapter two.

Shape legend: V rows of a table of tokens, D values in a row, R rank of an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tapestry.errors import ModelError
from tapestry.sovereign.directory import Make, Tensors, write_weights
from tapestry.sovereign.port.rows import Rows

HINT = "run the recipe on the new base instead: tapestry build rebase DIR --to BASE"
Change = Callable[[str], Tensor | None]
"""What is added to a tensor, fp32; None where nothing is."""


@dataclass(frozen=True)
class Tables:
    """Tensors with a row for each token, and which rows are which.

    Args:
        names: of these tensors.
        rows: of the derivative's tokens in the new base's.
    """

    names: frozenset[str]
    rows: Rows

    def fit(self, name: str, values: Tensor, into: tuple[int, ...]) -> Tensor:
        """A change (V, D) of old rows as one of the new table, zero for rows that are new."""
        if name not in self.names:
            return values
        out = torch.zeros(into)
        out[self.rows.to] = values[self.rows.of]
        return out


def check_shapes(old: Tensors, new: Tensors, tables: Tables) -> None:
    """Raise `ModelError` unless two models have the same tensors; tables of tokens may have more rows."""
    if old.names != new.names:
        other = sorted(set(old.names) ^ set(new.names))[0]
        raise ModelError(
            f"{new.folder} is another architecture: only one of the two has tensor {other}", hint=HINT
        )
    for name in old.names:
        before, after = old.shape(name), new.shape(name)
        table = name in tables.names and before[1:] == after[1:]
        if before != after and not table:
            what = f"{name} is {list(after)}, and {list(before)} in {old.folder}"
            raise ModelError(f"{new.folder} has another shape: {what}", hint=HINT)


def carry(new: Tensors, change: Change, to: Path) -> None:
    """Write new + change. Types are the new base's."""

    def make(name: str) -> Tensor:
        values, added = new.read(name).float(), change(name)
        values = values if added is None else values + added
        if not torch.isfinite(values).all():
            raise ModelError(f"tensor {name} is not finite after the sum", hint=HINT)
        return values

    write_weights(to, {name: (new.kind(name), new.shape(name)) for name in new.names}, make)


def moved(old: Tensors, new: Tensors, tables: Tables) -> float:
    """How far a base has gone, ‖new − old‖ / ‖old‖, over the tensors and rows that both have."""
    way = length = 0.0
    for name in sorted(set(old.names) & set(new.names)):
        before, after = old.read(name).float(), new.read(name).float()
        if name in tables.names:
            before, after = before[tables.rows.of], after[tables.rows.to]
        way += float((after - before).square().sum())
        length += float(before.square().sum())
    return math.sqrt(way / length) if length else 0.0


def difference(old: Tensors, derivative: Tensors, new: Tensors, tables: Tables, scale: float = 1.0) -> Change:
    """derivative − old base, of every tensor, times `scale`."""

    def change(name: str) -> Tensor:
        made, before = derivative.read(name).float(), old.read(name).float()
        if name in tables.names and len(made) != len(before):  # rows beyond the tokens they share
            rows = min(len(made), len(before))
            made, before = made[:rows], before[:rows]
        return tables.fit(name, made.sub_(before).mul_(scale), new.shape(name))

    return change


def rewritten(adapter: Tensors, make: Make, shapes: dict[str, tuple[int, ...]], to: Path) -> None:
    """Write an adapter with tensors that `make` gives, of such shapes."""
    write_weights(to, {name: (adapter.kind(name), shapes[name]) for name in adapter.names}, make)
