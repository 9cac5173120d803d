"""Bits per byte of a model on text.

Convention. The valid text is the split's documents in order, each closed by the end-of-text token, and
one end-of-text token before the first. It is cut, from its beginning, to at most `max_tokens` tokens to
be predicted, and these into windows of `sequence_length`; a window sees nothing of the one before it.
Every token of text is predicted once. Ends of documents are context only: neither their loss nor a
byte for them is counted. Then

    bits per byte = Σ −ln p(token) / ln 2 / Σ UTF-8 bytes of the tokens

so models with other tokenizers compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tapestry.training.corpus import SplitTokens
from tapestry.training.island import ISLAND_OF_ONE, Island

ROW_TOKENS = 4096
"""Tokens of one forward pass, about."""


@dataclass(frozen=True)
class Scored:
    """A score and the text bytes it is over."""

    bits_per_byte: float
    bytes: int

    @property
    def finite(self) -> bool:
        return math.isfinite(self.bits_per_byte)


@torch.no_grad()
def bits_per_byte(
    model: nn.Module,
    split: SplitTokens,
    *,
    sequence_length: int,
    max_tokens: int,
    island: Island = ISLAND_OF_ONE,
) -> Scored:
    """Score a causal language model; see the module's convention.

    Args:
        model: gives `.logits` of shape (B, S, V) for `input_ids` of shape (B, S).
        split: tokens with their bytes.
        sequence_length: S, tokens a window.
        max_tokens: of the text, from its beginning.
        island: whose ranks share the windows; all get the same score.
    """
    if split.text_bytes is None:
        raise ValueError("only a split with text bytes can be scored")
    count = min(max_tokens, len(split.tokens))
    targets = torch.from_numpy(split.tokens[:count].astype(np.int64))
    text_bytes = torch.from_numpy(split.text_bytes[:count].astype(np.int64))
    end_of_text = int(split.tokens[-1])
    inputs = torch.cat([targets.new_tensor([end_of_text]), targets[:-1]])
    counted = targets != end_of_text
    passes = _passes(count, sequence_length)
    was_training = model.training
    model.eval()
    nats = 0.0
    try:
        for first in range(0, len(passes), island.ranks):
            mine = first + island.rank
            # Who has none left goes along with one that does not count: a sharded model needs all ranks.
            part, width = passes[min(mine, len(passes) - 1)]
            found = _nats(model, inputs[part].view(-1, width), targets[part], counted[part], island.device)
            nats += found if mine < len(passes) else 0.0
    finally:
        model.train(was_training)
    total = int(text_bytes[counted].sum())
    return Scored(bits_per_byte=island.sum(nats)[0] / math.log(2) / total, bytes=total)


@torch.no_grad()
def token_bits(
    model: nn.Module, split: SplitTokens, *, sequence_length: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """(T,) bits of each token of a split by the module's convention; 0 for ends of documents.

    Their sum over bytes is `bits_per_byte`; by document they tell how sure that is.
    """
    targets = torch.from_numpy(split.tokens.astype(np.int64))
    end_of_text = int(split.tokens[-1])
    inputs = torch.cat([targets.new_tensor([end_of_text]), targets[:-1]])
    was_training = model.training
    model.eval()
    try:
        found = [
            _losses(model, inputs[part].view(-1, width), targets[part], device).cpu()
            for part, width in _passes(len(targets), sequence_length)
        ]
    finally:
        model.train(was_training)
    bits = torch.cat(found).double() / math.log(2)
    return np.asarray(torch.where(targets != end_of_text, bits, 0.0).numpy())


def _passes(count: int, sequence_length: int) -> list[tuple[slice, int]]:
    """Which tokens go through the model at once, in windows of how many."""
    step = max(1, ROW_TOKENS // sequence_length) * sequence_length
    whole = count // sequence_length * sequence_length
    passes = [(slice(i, min(whole, i + step)), sequence_length) for i in range(0, whole, step)]
    if whole < count:
        passes.append((slice(whole, count), count - whole))
    return passes


def _nats(model: nn.Module, inputs: Tensor, targets: Tensor, counted: Tensor, device: torch.device) -> float:
    """Σ −ln p of the counted targets. inputs: (B, S); targets, counted: (B · S,)."""
    losses = _losses(model, inputs, targets, device)
    return float(losses[counted.to(device)].double().sum())


def _losses(model: nn.Module, inputs: Tensor, targets: Tensor, device: torch.device) -> Tensor:
    """(B · S,) −ln p of the targets. inputs: (B, S); targets: (B · S,)."""
    logits = model(input_ids=inputs.to(device), use_cache=False).logits.flatten(0, 1)
    return F.cross_entropy(logits.float(), targets.to(device), reduction="none")
