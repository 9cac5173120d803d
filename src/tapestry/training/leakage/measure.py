"""The attacks: what a model that is attacked says of windows and canaries, beside what a reference says.

The score of a window is its loss under the reference less its loss under the target: the reference tells how
hard the window is anyway (Watson et al., arXiv 2111.08440; the offline attack of Carlini et al., arXiv
2112.03570, with one reference). Of an update the reference is the base it starts from, and the target that
base less the update: what whoever sees an update can compute, with no model of their own.

N: windows. P, L: as in `windows`. C: canaries. K: candidates beside each.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tapestry.codec.shards import ShardCodec, add_
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import Shard
from tapestry.tensors import shards
from tapestry.training.blobs import BlobSource
from tapestry.training.leakage import figures
from tapestry.training.leakage.figures import Figure, Scores
from tapestry.training.leakage.windows import Numbers
from tapestry.training.loaded import Loaded
from tapestry.training.tokenizer import Tokenizer

PASS_TOKENS: Final = 4096
"""Tokens of one forward pass, about."""
BITS_A_NAT: Final = 1 / math.log(2)

Told = Callable[[int], None]
"""Hears of windows or candidates that are done."""


def nobody(_: int) -> None:
    """Where no progress is shown."""


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """How well members are told from non-members."""

    members: int
    non_members: int
    true_positives: Figure
    area: Figure
    blind: Figure
    """The area of the reference's own loss, which has seen neither: away from one half, the two samples are
    different texts, and a figure may tell of that."""
    gain_members: float
    """Bits a window by which the target is better than the reference, in the mean."""
    gain_non_members: float


def infer(
    target: tuple[Scores, Scores], reference: tuple[Scores, Scores], *, bytes: float | None = None
) -> Inferred:
    """The attack on losses in nats a window, of members and of non-members each.

    Args:
        target: of the model that is attacked.
        reference: of one that tells how hard each window is.
        bytes: of a window; the gains are bits per byte then.

    Raises:
        InputError: too few windows.
    """
    gains = [before - after for before, after in zip(reference, target, strict=True)]
    unit = BITS_A_NAT / (bytes or 1.0)
    return Inferred(
        members=len(gains[0]),
        non_members=len(gains[1]),
        true_positives=figures.true_positive_rate(gains[0], gains[1]),
        area=figures.area(gains[0], gains[1]),
        blind=figures.area(-reference[0], -reference[1]),
        gain_members=float(gains[0].mean()) * unit,
        gain_non_members=float(gains[1].mean()) * unit,
    )


def losses(model: nn.Module, rows: Numbers, parts: int = 1, *, told: Told = nobody) -> Scores:
    """(N,) −ln p of all predicted tokens of each window. rows: (N · P, L + 1)."""
    if not len(rows):
        return np.empty(0)
    found = _of_rows(model, torch.from_numpy(rows), rows.shape[1] - 1, lambda n: told(n // parts))
    return np.asarray(found.reshape(-1, parts).sum(axis=1))


@torch.no_grad()
def _of_rows(model: nn.Module, rows: Tensor, last: int, told: Told) -> Scores:
    """(B,) −ln p of the `last` tokens of each row, each after those before it. rows: (B, L + 1)."""
    at_once = max(1, PASS_TOKENS // rows.shape[1])
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    found = []
    try:
        for part in torch.split(rows, at_once):
            batch = part.to(device)
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits[:, -last:]
            each = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, -last:].flatten(), reduction="none")
            found.append(each.view(len(part), -1).double().sum(dim=1).cpu())
            told(len(part))
    finally:
        model.train(was_training)
    return np.asarray(torch.cat(found).numpy())


# -- canaries ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canary:
    """A line of the text: what all of its kind could begin with, and what it alone has."""

    prefix: str
    secret: str


def exposure(
    model: nn.Module,
    tokenizer: Tokenizer,
    canaries: Sequence[Canary],
    alphabet: str,
    candidates: int,
    *,
    seed: int = 0,
    told: Told = nobody,
) -> Scores:
    """(C,) bits; see `figures.exposures`. A candidate has the same beginning and another secret, as long, of
    the same letters.

    Args:
        model: that is attacked.
        tokenizer: its.
        canaries: that were planted.
        alphabet: letters of a secret.
        candidates: K.
        seed: of the candidates.
        told: hears of each canary.
    """
    draw = random.Random(seed)  # noqa: S311 - candidates are no secret
    found = []
    for canary in canaries:
        others = ["".join(draw.choices(alphabet, k=len(canary.secret))) for _ in range(candidates)]
        texts = [canary.prefix + secret for secret in (canary.secret, *others)]
        each = _lines(model, tokenizer, texts, len(tokenizer.encode(canary.prefix)[0]))
        found.append(figures.exposures(each[:1], each[None, 1:]))
        told(1)
    return np.concatenate(found)


def _lines(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], shared: int) -> Scores:
    """−ln p of each line behind the tokens that all begin with. Lines of one length go through together."""
    ids = [tokenizer.encode(text)[0] for text in texts]
    start = min([shared, *(_common(ids[0], each) for each in ids[1:])])
    found = np.empty(len(ids))
    for length in sorted({len(each) for each in ids}):
        places = [i for i, each in enumerate(ids) if len(each) == length]
        rows = np.stack([np.concatenate([[tokenizer.end_id], ids[i]]) for i in places]).astype(np.int64)
        found[places] = _of_rows(model, torch.from_numpy(rows), length - start, nobody)
    return found


def _common(a: Numbers, b: Numbers) -> int:
    """Tokens that two lines begin with alike."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


# -- targets ----------------------------------------------------------------------------------------------


def take_local(
    loaded: Loaded, source: BlobSource, base: Artifact, delta: Artifact, codec: Codec, fragment: int = 0
) -> None:
    """Set the model to base − delta: the member's own model at the end of the round, as far as the encoding
    shows it. What is not of the delta's fragment stays the base's.

    Raises:
        ArtifactError: the delta is not of this fragment of the layout.
        IntegrityError, NotFound: a blob is missing or not what it should be.
    """
    changed = loaded.layout.fragment(fragment)
    delta.check_against(changed, kind="delta", codec=codec)
    loaded.take(source, base)
    loaded.rows.fill(lambda shard: _read_local(shard, source, base, delta, codec), changed.shards)


def _read_local(shard: Shard, source: BlobSource, base: Artifact, delta: Artifact, codec: Codec) -> bytearray:
    """The bytes of one shard of base − delta."""
    old, new = base.shards[shard.index], delta.shards[shard.place]
    data = bytearray(source.read(old.sha256, old.bytes))
    values = shards.values(shard, data)
    sent = source.read(new.sha256, new.bytes)
    if codec.plain:
        values.sub_(shards.values(shard, sent))
        return data
    moved = torch.zeros_like(values)
    add_(ShardCodec(codec).decode(shard, sent), moved)
    values.sub_(moved)
    return data
