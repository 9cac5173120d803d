"""How many times what a derivative changed is best added to a new base: a line search on own text.

One number is found, from a few forward passes for each of a few candidates; no weight is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch

from tapestry.errors import ModelError
from tapestry.sovereign import models
from tapestry.sovereign.port.arithmetic import HINT
from tapestry.sovereign.port.measured import Text, scores

FACTORS: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Fitted:
    """Args:
    factor: the best.
    bits_per_byte: mean over the texts, by factor; 0 is the new base alone.
    """

    factor: float
    bits_per_byte: dict[float, float]


def fit(new_base: Path, ported: Path, texts: Sequence[Text]) -> Fitted:
    """The best of `FACTORS` for new base + factor · (ported − new base). Two models are in memory.

    Raises:
        ModelError: none of them is better than the new base alone.
        CorpusError: a text that is empty, or cannot be read.
    """
    base: dict[str, Any] = models.open_model(new_base).state_dict()
    model = models.open_model(ported)
    added = {name: values - base[name] for name, values in model.state_dict().items()}
    found = {}
    for factor in (0.0, *FACTORS):
        with torch.no_grad():
            for name, values in model.state_dict().items():
                values.copy_(base[name] + factor * added[name])
        found[factor] = fmean(scores(model, ported, texts))
    best = min(found, key=lambda factor: found[factor])
    if best == 0:
        raise ModelError(
            f"nothing of the derivative helps on {new_base}: the new base alone is better on the text, "
            f"{found[0.0]:.4f} bits per byte against {min(found[each] for each in FACTORS):.4f}",
            hint=HINT,
        )
    return Fitted(best, found)
