from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tapestry.training.bigrams import Bigrams
from tapestry.training.corpus import SplitTokens
from tapestry.training.evaluation import bits_per_byte

END = 256


class Table(nn.Module):
    """Logits depend on the last token alone, so a score can be worked out by hand."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table
        self.rows: list[tuple[int, ...]] = []

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> SimpleNamespace:
        self.rows.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=self.table[input_ids])


def split(*documents: bytes) -> SplitTokens:
    tokens = [token for document in documents for token in (*document, END)]
    sizes = [int(token != END) for token in tokens]
    return SplitTokens(np.array(tokens, np.uint16), np.array(sizes, np.uint16))


def test_uniform_guesses_cost_what_they_should() -> None:
    score = bits_per_byte(
        Table(torch.zeros(257, 257)), split(b"hello", b"you"), sequence_length=4, max_tokens=99
    )
    assert score.bytes == 8
    assert score.bits_per_byte == pytest.approx(math.log2(257), abs=1e-5)


def test_each_token_is_scored_once_and_ends_of_documents_never() -> None:
    torch.manual_seed(0)
    table = torch.randn(257, 257)
    text = split(b"hello", b"you are", b"x")
    logs = table.log_softmax(-1)
    pairs = zip([END, *text.tokens[:-1].tolist()], text.tokens.tolist(), strict=True)
    nats = -sum(float(logs[a, b]) for a, b in pairs if b != END)
    for length in (1, 3, 4, 16, 100):
        score = bits_per_byte(Table(table), text, sequence_length=length, max_tokens=1000)
        assert score.bits_per_byte == pytest.approx(nats / math.log(2) / 13, rel=1e-5)


def test_the_limit_counts_tokens_from_the_beginning() -> None:
    table = Table(torch.zeros(257, 257))
    assert bits_per_byte(table, split(b"hello", b"you"), sequence_length=4, max_tokens=3).bytes == 3
    assert bits_per_byte(table, split(b"hello", b"you"), sequence_length=4, max_tokens=7).bytes == 6


def test_bytes_not_tokens_are_the_measure() -> None:
    text = SplitTokens(np.array([5, 7, END], np.uint16), np.array([3, 4, 0], np.uint16))
    score = bits_per_byte(Table(torch.zeros(257, 257)), text, sequence_length=8, max_tokens=99)
    assert score.bytes == 7
    assert score.bits_per_byte == pytest.approx(2 * math.log2(257) / 7, abs=1e-5)


def test_a_model_comes_back_in_the_mode_it_was_in() -> None:
    model = Table(torch.zeros(257, 257)).train()
    bits_per_byte(model, split(b"hello"), sequence_length=2, max_tokens=9)
    assert model.training


def test_bigrams_score_the_same_text_by_the_same_convention() -> None:
    text = split(b"abab", b"ba")
    counts = Bigrams.count(text.tokens)
    assert counts.sum() == len(text.tokens) - 1
    model = Bigrams(counts, 0.1)
    table = torch.from_numpy(-model.bits() * math.log(2)).float()
    by_table = bits_per_byte(Table(table), text, sequence_length=3, max_tokens=99)
    score = model.score(text, max_tokens=99)
    assert score.bytes == by_table.bytes
    assert score.bits_per_byte == pytest.approx(by_table.bits_per_byte, rel=1e-5)
