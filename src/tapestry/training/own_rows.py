"""Which rows of embeddings a node tells of: with `inner.rows = "own"`, those of tokens that its text has.

Every optimizer that divides a gradient by its own size moves the row of a token that never comes, down, as
fast as any other: an output layer, or an embedding tied to one, learns that the token is not next. Where one
member writes a script and seven do not, the seven win. A row that is not sent is exactly zero in the delta,
so `merge.embedding_rows = "users"` averages over those who have the token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tapestry.protocol.layout import Shard
from tapestry.protocol.plan import Plan
from tapestry.training.corpus import Corpus


@dataclass(frozen=True, slots=True)
class OwnRows:
    """Args:
    tokens: ids, in ascending order.
    is_embedding: whether a tensor of this name has a row for each token.
    """

    tokens: Tensor
    is_embedding: Callable[[str], bool]

    @classmethod
    def of(cls, plan: Plan, corpus: Corpus) -> OwnRows | None:
        """As the plan says, of the text that a node trains on; None where all rows are told of."""
        if plan.inner.rows == "all":
            return None
        return cls(torch.from_numpy(corpus.present), plan.codec.is_embedding)

    def keep(self, shard: Shard, values: Tensor) -> None:
        """Set what a shard's delta has of other rows to zero, in place."""
        for piece in shard.pieces:
            if len(piece.tensor.shape) < 2 or not self.is_embedding(piece.tensor.name):
                continue
            inside = (self.tokens >= piece.row_start) & (self.tokens < piece.row_stop)
            others = torch.ones(piece.row_stop - piece.row_start, dtype=torch.bool)
            others[self.tokens[inside] - piece.row_start] = False
            values[piece.values].view(len(others), -1)[others] = 0.0
