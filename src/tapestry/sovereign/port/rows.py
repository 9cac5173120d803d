"""Which row of a table of tokens is which, where two tokenizers differ by added tokens only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tapestry.errors import ModelError
from tapestry.host import files
from tapestry.training.model import TOKENIZER
from tapestry.training.tokenizer import MAX_TOKENIZER_BYTES, Tokenizer

_NEVER_DIFFERENT: Final = ("type", "merges", "byte_fallback", "ignore_merges", "continuing_subword_prefix")
_CUT: Final = ("normalizer", "pre_tokenizer")
"""How a text is changed and cut before it is looked up: the same tokens stand for other text else."""
_HINT: Final = "run the recipe on the new base instead: tapestry build rebase DIR --to BASE"


@dataclass(frozen=True)
class Rows:
    """Of one tokenizer in another: (to, from) for every token that both have.

    Args:
        to: rows of the new table.
        of: rows of the old ones, in the same order.
        added: tokens that only the new one has.
    """

    to: Tensor
    of: Tensor
    added: int

    @property
    def same(self) -> bool:
        """Whether every row keeps its place, and none is new."""
        return not self.added and bool(torch.equal(self.to, self.of))

    @classmethod
    def of_tokens(cls, old: Mapping[str, int], new: Mapping[str, int]) -> Rows:
        both = sorted((new[token], number) for token, number in old.items() if token in new)
        to, of = (torch.tensor([pair[i] for pair in both], dtype=torch.long) for i in (0, 1))
        return cls(to, of, len(set(new) - set(old)))


def vocabulary(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Content of a model's `tokenizer.json`, and its tokens with ids. Raises `ModelError`."""
    try:
        data = files.read_limited(folder / TOKENIZER, MAX_TOKENIZER_BYTES)
    except OSError as e:
        raise ModelError(f"{folder} has no {TOKENIZER}", hint="give the directory of a model") from e
    tokenizer = Tokenizer.from_json(data, end_id=0)
    return json.loads(data), dict(tokenizer.fast.get_vocab(with_added_tokens=True))


def matched(old: Path, new: Path, base: Path | None = None) -> Rows:
    """Rows of the tokens of `old` in the table of `new`.

    Args:
        base: what `old` was made from; tokens that it lacks have no row to compare with, and are left out.

    Raises:
        ModelError: the tokenizers differ by more than tokens that the new one has added.
    """
    (before, tokens), (after, others) = vocabulary(old), vocabulary(new)
    if base is not None:
        known = vocabulary(base)[1]
        if set(tokens) <= set(others):  # else the error below names one that is lost
            tokens = {token: number for token, number in tokens.items() if known.get(token) == number}
    first, second = before["model"], after["model"]
    pairs = [(key, first, second) for key in _NEVER_DIFFERENT] + [(key, before, after) for key in _CUT]
    different = next((key for key, one, other in pairs if one.get(key) != other.get(key)), None)
    lost = sorted(set(tokens) - set(others))
    if different is None and not lost and set(_pieces(first)) <= set(_pieces(second)):
        return Rows.of_tokens(tokens, others)
    what = f"other {different}" if different else f"no token {lost[0][:40]!r}" if lost else "other pieces"
    raise ModelError(
        f"the tokenizer of {new} is not that of {old} with added tokens: it has {what}", hint=_HINT
    )


def _pieces(model: dict[str, Any]) -> list[str]:
    """Tokens that the model itself can make; those of a unigram model are pairs."""
    vocab = model["vocab"]
    return list(vocab) if isinstance(vocab, dict) else [each[0] for each in vocab]
