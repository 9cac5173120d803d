"""A `tokenizer.json` in the words of GGUF, as far as llama.cpp can follow it; else an error that says why.

llama.cpp knows two kinds that models of ours have: BPE over bytes, spelled as GPT-2 does, cut by one of a few
patterns that it knows by name; and SentencePiece's BPE, which joins the pair of the best score first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from gguf import TokenType

from tapestry.errors import ModelError
from tapestry.training.tokenizer import BLANK, Tokenizer

_TAIL: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_CUTS: Final = {
    _HEAD + r"\p{N}{1,3}" + _TAIL: "llama-bpe",
    _HEAD + r"\p{N}" + _TAIL: "qwen2",
}
"""Patterns that llama.cpp knows, with its names for them."""
_HINT: Final = "take --format hf, which opens in transformers and vLLM"


@dataclass(frozen=True)
class Words:
    """Args:
    model: `gpt2` (BPE over bytes) or `llama` (SentencePiece).
    pre: llama.cpp's name of how text is cut first.
    tokens: spelling by id, one for every row of the model.
    kinds: of each.
    merges: pairs in order, BPE over bytes only.
    scores: of each token, SentencePiece only.
    blank_first: whether a blank goes before a text.
    begin: whether the token that begins a text is put before it.
    """

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    blank_first: bool
    begin: bool


def words(tokenizer: Tokenizer, rows: int, begin_id: int | None) -> Words:
    """Args:
        tokenizer: of the model.
        rows: of the model's embedding; ids without a token are filled up.
        begin_id: the model's `bos_token_id`.

    Raises:
        ModelError: llama.cpp would give a text other ids.
    """
    value = json.loads(tokenizer.data)
    model = value["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ModelError(f"a tokenizer of type {model['type']} cannot be written as GGUF", hint=_HINT)
    tokens, kinds = _spelled(value, rows)
    begin = begin_id is not None and _begins(tokenizer, begin_id)
    if model.get("byte_fallback"):
        scores = _scores(model, tokens)
        for number, token in enumerate(tokens):
            if len(token) == 6 and token.startswith("<0x"):
                kinds[number] = TokenType.BYTE
        return Words("llama", "default", tokens, kinds, [], scores, _blank_first(value), begin)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return Words("gpt2", _cut(value, bool(merges)), tokens, kinds, merges, [], False, begin)


def _spelled(value: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    by_id = {number: token for token, number in value["model"]["vocab"].items()}
    kinds: dict[int, int] = {}
    for added in value.get("added_tokens") or ():
        by_id[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        if added.get("lstrip") or added.get("rstrip") or added.get("single_word"):
            raise ModelError(f"GGUF cannot say how token {added['content']!r} takes blanks", hint=_HINT)
    if max(by_id) >= rows:
        raise ModelError(f"the tokenizer has token {max(by_id)}, the model only {rows} rows")
    unknown = value["model"].get("unk_token")
    if unknown is not None and (number := value["model"]["vocab"].get(unknown)) is not None:
        kinds[number] = TokenType.UNKNOWN
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(rows)]
    if len(set(tokens)) != rows:
        raise ModelError("two ids of the tokenizer have the same token, which GGUF cannot say", hint=_HINT)
    return tokens, [
        int(kinds.get(number, TokenType.NORMAL if number in by_id else TokenType.UNUSED))
        for number in range(rows)
    ]


def _cut(value: dict[str, Any], merges: bool) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts text before it joins bytes."""
    if value.get("normalizer") is not None:
        raise ModelError("GGUF cannot say how the tokenizer normalizes text", hint=_HINT)
    before = value.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    last = parts[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise ModelError(
            "the tokenizer is neither SentencePiece's nor over bytes; GGUF needs that", hint=_HINT
        )
    if not merges:
        return "gpt-2"  # nothing is joined, so it does not matter where text is cut
    found: str | None = None
    split = parts[0] if len(parts) == 2 and not last.get("use_regex", True) else {}
    if len(parts) == 1 and last.get("use_regex", True):
        found = "gpt-2"
    elif split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert"):
        found = _CUTS.get(split["pattern"].get("Regex", ""))
    if found is None or bool(value["model"].get("ignore_merges")) != (found == "llama-bpe"):
        raise ModelError("llama.cpp has no name for how the tokenizer cuts text", hint=_HINT)
    return found


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """Of each token: the earlier it is joined, the better. Raises `ModelError` where no score says that."""
    first: dict[str, int] = {}
    last = ""
    for rank, each in enumerate(model["merges"]):
        made = "".join(each.split(" ", 1) if isinstance(each, str) else each)
        if made != last and made in first:
            raise ModelError("llama.cpp would join the tokenizer's pieces in another order", hint=_HINT)
        first.setdefault(made, rank)
        last = made
    worst = -float(len(model["merges"]) + 1)
    return [-float(first[token]) if token in first else worst for token in tokens]


def _blank_first(value: dict[str, Any]) -> bool:
    """Whether SentencePiece's blank is put before a text."""
    normalizer, before = value.get("normalizer"), value.get("pre_tokenizer")
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    prepended = {"type": "Prepend", "prepend": BLANK}
    if before is None and steps == [prepended, replaced]:
        return True
    if (before is None or before.get("type") == "Split") and steps == [replaced]:
        return False
    if not steps and before is not None and before.get("type") == "Metaspace":
        return str(before.get("prepend_scheme")) != "never"
    raise ModelError("GGUF cannot say how the tokenizer normalizes text", hint=_HINT)


def _begins(tokenizer: Tokenizer, begin_id: int) -> bool:
    """Whether the tokenizer itself puts that token before a text."""
    from tokenizers import Tokenizer as Fast

    ids = Fast.from_str(tokenizer.data.decode()).encode("a", add_special_tokens=True).ids
    return ids[:1] == [begin_id]
