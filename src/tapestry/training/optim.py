"""The inner optimizer: AdamW or Muon, its schedule, clipping.

The learning rate is a function of the plan and of the step of the run: after so many merges, at step h of
the round (from 0), as a member at full pace counts steps. So a node that joins late, misses a round or takes
fewer steps trains at the rate that the others have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer

from tapestry.errors import ModelError
from tapestry.protocol.encoding import PLAIN
from tapestry.protocol.plan import Inner

ADAMW_STATE: Final = ("exp_avg", "exp_avg_sq")
MUON_STATE: Final = ("momentum_buffer",)


def learning_rate(inner: Inner, step: float, total_steps: int) -> float:
    """Rate at `step` (from 0): a linear warm-up times a cosine from the peak to `final_fraction` of it at
    the last step."""
    warm = min(1.0, (step + 1) / inner.warmup_steps) if inner.warmup_steps else 1.0
    progress = min(1.0, step / max(1, total_steps - 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return inner.learning_rate * warm * (inner.final_fraction + (1.0 - inner.final_fraction) * cosine)


class InnerOptimizer:
    """AdamW over named parameters, with weight decay on those with two axes or more; or Muon (K. Jordan 2024;
    as the inner optimizer of DiLoCo: MuLoCo, arXiv 2505.23725) for matrices and AdamW for the rest.

    Muon's steps are scaled to the size of AdamW's, so one learning rate does for both.

    Args:
        parameters: by name, in the canonical order.
        inner: the plan's numbers.
        is_embedding: whether a name is that of an embedding, which Muon leaves to AdamW.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        inner: Inner,
        is_embedding: Callable[[str], bool] = PLAIN.is_embedding,
    ) -> None:
        self.parameters = dict(parameters)
        self.inner = inner
        by_muon = {
            name
            for name, parameter in self.parameters.items()
            if inner.optimizer == "muon" and parameter.ndim == 2 and not is_embedding(name)
        }
        rest = [p for name, p in self.parameters.items() if name not in by_muon]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": inner.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        betas = (inner.beta1, inner.beta2)
        self._taken = 0
        self._state: dict[str, tuple[Optimizer, tuple[str, ...]]] = {}
        self._optimizers: list[Optimizer] = []
        if groups:
            adamw = AdamW(groups, lr=inner.learning_rate, betas=betas, fused=True)
            self._optimizers.append(adamw)
            self._state |= {name: (adamw, ADAMW_STATE) for name in self.parameters if name not in by_muon}
        if by_muon:
            for name in by_muon:
                _check_rows(name, self.parameters[name])
            muon = Muon(
                [self.parameters[name] for name in sorted(by_muon)],
                lr=inner.learning_rate,
                weight_decay=inner.weight_decay,
                momentum=inner.muon_momentum,
                adjust_lr_fn="match_rms_adamw",
            )
            self._optimizers.append(muon)
            self._state |= dict.fromkeys(by_muon, (muon, MUON_STATE))

    def step(self, rate: float) -> None:
        """Clip the gradients, move the parameters, forget the gradients."""
        nn.utils.clip_grad_norm_(self.parameters.values(), self.inner.clip_norm)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._taken += 1

    @property
    def steps(self) -> int:
        """Steps taken over all rounds."""
        return self._taken

    def state(self) -> dict[str, Tensor]:
        """Moments by `<moment>.<parameter>`; empty before the first step. Not copies."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            optimizer, moments = self._state[name]
            entry = optimizer.state.get(parameter)
            if entry:
                found.update({f"{moment}.{name}": entry[moment] for moment in moments})
        return found

    def begin_at(self, steps: int) -> dict[str, Tensor]:
        """Set the count of steps and make room for moments, which are zero; they are to be filled in place.
        Gives them as `state()` does."""
        self.forget()
        self._taken = steps
        for name, parameter in self.parameters.items():
            optimizer, moments = self._state[name]
            entry: dict[str, Any] = {moment: torch.zeros_like(parameter).detach() for moment in moments}
            if moments is ADAMW_STATE:
                where = parameter.device if parameter.device.type != "cpu" else None
                entry = {"step": torch.tensor(float(steps), dtype=torch.float32, device=where), **entry}
            optimizer.state[parameter] = entry
        return self.state()

    def forget(self) -> None:
        """As before the first step."""
        self._taken = 0
        for optimizer in self._optimizers:
            optimizer.state.clear()


def _check_rows(name: str, parameter: nn.Parameter) -> None:
    """Raise `ModelError` where some rank would hold no row of a matrix: Muon's products need each to have
    some."""
    ranks = parameter.device_mesh.size() if isinstance(parameter, DTensor) else 1
    if parameter.shape[0] < ranks:
        raise ModelError(
            f"muon cannot train {name}, which has {parameter.shape[0]} rows, on {ranks} ranks",
            hint="take fewer ranks, or inner.optimizer = adamw",
        )
