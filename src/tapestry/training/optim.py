"""The inner optimizer: AdamW, its schedule, clipping.

The learning rate is a function of the plan and of the step of the run: round r (from 1), step h of the
round (from 0) are step (r − 1) · steps + h. So a node that joins late or misses a round trains at the
rate that the others have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tapestry.protocol.plan import Inner

MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate(inner: Inner, step: int, total_steps: int) -> float:
    """Rate at `step` (from 0): a linear warm-up times a cosine from the peak to `final_fraction` of it at
    the last step."""
    warm = min(1.0, (step + 1) / inner.warmup_steps) if inner.warmup_steps else 1.0
    progress = min(1.0, step / max(1, total_steps - 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return inner.learning_rate * warm * (inner.final_fraction + (1.0 - inner.final_fraction) * cosine)


class InnerOptimizer:
    """AdamW over named parameters; weight decay on those with two axes or more.

    Args:
        parameters: by name, in the canonical order.
        inner: the plan's numbers.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], inner: Inner) -> None:
        self.parameters = dict(parameters)
        self.inner = inner
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        others = [p for p in self.parameters.values() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": inner.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.adamw = AdamW(
            [group for group in groups if group["params"]],
            lr=inner.learning_rate,
            betas=(inner.beta1, inner.beta2),
            fused=True,
        )

    def step(self, rate: float) -> None:
        """Clip the gradients, move the parameters, forget the gradients."""
        nn.utils.clip_grad_norm_(self.parameters.values(), self.inner.clip_norm)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    @property
    def steps(self) -> int:
        """Steps taken over all rounds."""
        entry = next(iter(self.adamw.state.values()), None)
        return int(entry["step"].item()) if entry else 0

    def state(self) -> dict[str, Tensor]:
        """Moments by `<moment>.<parameter>`; empty before the first step. Not copies."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            entry = self.adamw.state.get(parameter)
            if entry:
                found.update({f"{moment}.{name}": entry[moment] for moment in MOMENTS})
        return found

    def begin_at(self, steps: int) -> dict[str, Tensor]:
        """Set the count of steps and make room for moments, which are zero; they are to be filled in place.
        Gives them as `state()` does."""
        self.adamw.state.clear()
        for parameter in self.parameters.values():
            entry: dict[str, Any] = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            where = parameter.device if parameter.device.type != "cpu" else None
            self.adamw.state[parameter] = {
                "step": torch.tensor(float(steps), dtype=torch.float32, device=where),
                **{moment: value.detach() for moment, value in entry.items()},
            }
        return self.state()

    def forget(self) -> None:
        """As before the first step."""
        self.adamw.state.clear()
