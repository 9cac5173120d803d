"""Muon for a stage: what runs have with `inner.optimizer = "muon"`, as trl's trainers drive an optimizer.

The hidden matrices move by Muon, everything else by AdamW; both in one optimizer, since a trainer has one.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tapestry.errors import RecipeError
from tapestry.protocol.encoding import PLAIN

MOMENTUM: Final = 0.95
MARK: Final = "ns_steps"
"""A group of parameters that has this is Muon's."""


class MuonAndAdamW(Optimizer):
    """Groups and state are handed to the two that do the work before each step, so that whoever changes a
    rate, loads a state or puts a sharded parameter in the place of a whole one does it for them too.

    Args:
        parameters: by name.
        rate: of both: Muon's steps are made as large as AdamW's.
        weight_decay: on what has two axes.
        ranks: that share the model.

    Raises:
        RecipeError: a matrix has fewer rows than there are ranks.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], rate: float, weight_decay: float, ranks: int):
        matrices = {n: p for n, p in parameters.items() if p.ndim == 2 and not PLAIN.is_embedding(n)}
        for name, each in matrices.items():
            if each.shape[0] < ranks:
                raise RecipeError(
                    f"muon cannot train {name}, which has {each.shape[0]} rows, on {ranks} ranks",
                    hint='take fewer processes, or optimizer = "adamw"',
                )
        rest = [p for n, p in parameters.items() if n not in matrices]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        super().__init__(list(parameters.values()), {"lr": rate})
        muon = torch.optim.Muon(
            list(matrices.values()),
            lr=rate,
            weight_decay=weight_decay,
            momentum=MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = AdamW([group for group in groups if group["params"]], lr=rate)
        self._muon: Optimizer = muon
        self._adamw: Optimizer = adamw
        self.param_groups = [*muon.param_groups, *adamw.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One of each."""
        for each, by_muon in ((self._muon, True), (self._adamw, False)):
            each.param_groups = [group for group in self.param_groups if (MARK in group) is by_muon]
            each.state = self.state
            each.step()


def of_muon(optimizer: Any) -> set[int]:
    """Identities of the parameters that Muon moves: of AdamW alone, none."""
    groups = [group for group in optimizer.param_groups if MARK in group]
    return {id(parameter) for group in groups for parameter in group["params"]}


def unmoved(parameter: Tensor) -> dict[str, Tensor]:
    """What Muon keeps of a parameter that it has not changed yet."""
    zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
    return {"momentum_buffer": zeros}
