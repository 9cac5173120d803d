"""What a model is trained for: the plug between text, loss and score.

B: sequences of a batch. S: tokens a sequence. V: vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tapestry.errors import PlanError
from tapestry.protocol.plan import Plan
from tapestry.training.batches import Order
from tapestry.training.corpus import Corpus
from tapestry.training.evaluation import Scored, bits_per_byte
from tapestry.training.island import ISLAND_OF_ONE, Island


class Task(Protocol):
    """Loss, batches and evaluation of one kind of training. Holds the node's text, not the model."""

    @property
    def corpus(self) -> Corpus:
        """The node's text."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Tokens of one batch, as they are counted in a contribution."""
        ...

    @property
    def batch_sequences(self) -> int:
        """Sequences by which one batch moves the position."""
        ...

    def batch(self, position: int) -> Tensor:
        """The batch at a position: the same one each time it is asked for."""
        ...

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Mean loss of a batch, or of some of its rows: a scalar to differentiate. Rows weigh the same."""
        ...

    def evaluate(self, model: nn.Module, island: Island = ISLAND_OF_ONE) -> Scored:
        """Score of the model on the node's valid text; the ranks of an island share the work."""
        ...


class CausalLM:
    """Predict the next token. Loss is the mean cross entropy in nats a token.

    Args:
        plan: sequence length, batch size, seed and how much valid text is scored.
        corpus: the node's text.
        node: its name, which with the plan's seed orders the batches.
    """

    def __init__(self, plan: Plan, corpus: Corpus, node: str) -> None:
        inner = plan.inner
        corpus.require(inner.sequence_length)
        self.corpus = corpus
        self.sequence_length = inner.sequence_length
        self.batch_sequences = inner.batch_sequences
        self.max_tokens = plan.evaluation.max_tokens
        self.order = Order(corpus.train.tokens, inner.sequence_length, seed=inner.seed, node=node)

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    def batch(self, position: int) -> Tensor:
        """(B, S + 1) token ids."""
        return torch.from_numpy(self.order.batch(position, self.batch_sequences))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    def evaluate(self, model: nn.Module, island: Island = ISLAND_OF_ONE) -> Scored:
        return bits_per_byte(
            model,
            self.corpus.valid,
            sequence_length=self.sequence_length,
            max_tokens=self.max_tokens,
            island=island,
        )


def make_task(plan: Plan, corpus: Corpus, node: str) -> Task:
    """The task that a plan names."""
    if plan.task == "causal-lm":
        return CausalLM(plan, corpus, node)
    raise PlanError(f"this release trains no task {plan.task}")
