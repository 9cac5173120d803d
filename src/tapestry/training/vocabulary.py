"""Tokens that an operator adds to a tokenizer, and the rows with which a trained model starts them.

A new token's row, in the input embedding and in an output head of its own, is the mean of the rows of the
pieces into which the tokenizer split that text before: the model begins by reading the new token much as it
read those pieces. The method is that of Gee et al., "Fast Vocabulary Transfer for Language Model Compression"
(EMNLP 2022, Industry Track; arXiv:2402.09977). Random rows can do harm: where the logits of trained rows are
far below zero, theirs, near zero, take nearly all probability (Hewitt, "Initializing New Word Embeddings for
Pretrained Language Models", 2021).

Shape legend: V tokens of the old tokenizer and unused rows, R rows of the new table, D values in a row.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tapestry.errors import ArtifactError, ModelError, TooLarge
from tapestry.host import files
from tapestry.training.model import TOKENIZER, read_tokenizer
from tapestry.training.tokenizer import Tokenizer

MAX_FILE_BYTES: Final = 64 << 20
MAX_TOKENS: Final = 200_000
MAX_TOKEN_BYTES: Final = 256
_SPECIAL: Final = re.compile(r"<{1,2}[^<>\s]+>{1,2}|\[/?[A-Z][A-Z0-9_]*\]")
"""How special tokens are spelled: `<s>`, `<|im_start|>`, `<0x0A>`, `[INST]`."""
_PROBE: Final = "a"
"""Text beside a token, to see that the token leaves it alone."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A token of the operator's file."""

    place: str
    """The file, and the line or entry in it."""
    text: str

    def refuse(self, why: str, *, hint: str | None = None) -> ModelError:
        shown = repr(self.text if len(self.text) <= 60 else self.text[:60] + "…")
        return ModelError(f"{self.place}: {shown} {why}", hint=hint)


@dataclass(frozen=True)
class Extension:
    """A tokenizer with added tokens.

    Args:
        tokenizer: the new one.
        first: id of the first added token, which is the old tokenizer's size.
        pieces: of each added token, the old ids of its text, one at least.
        present: how many tokens of the file the old tokenizer had already.
    """

    tokenizer: Tokenizer
    first: int
    pieces: tuple[tuple[int, ...], ...]
    present: int

    @property
    def added(self) -> int:
        return len(self.pieces)

    def __str__(self) -> str:
        return f"{self.added} tokens added to the tokenizer, {self.present} were there already"

    def has_id(self, number: int) -> bool:
        """Whether it is that of an added token."""
        return self.first <= number < self.first + self.added

    def fill(self, table: Any, row_start: int, rows: Tensor) -> None:
        """Give the rows of added tokens their values and leave the others alone.

        Args:
            table: (V, D), the old rows: a slice of a safetensors file, of which single rows are read.
            row_start: which row of the new table is the first of `rows`.
            rows: (R, D), fp32.
        """
        start = max(row_start, self.first)
        for row in range(start, min(row_start + len(rows), self.first + self.added)):
            pieces = self.pieces[row - self.first]
            total = torch.zeros(rows.shape[1], dtype=torch.float64)
            for piece in pieces:
                total += table[piece : piece + 1][0]
            rows[row - row_start] = total / len(pieces)


Told = Callable[[Extension], None]
"""Learns what became of a file of tokens."""


def extend(tokenizer: Tokenizer, path: Path, *, told: Told | None = None) -> Extension:
    """Add the tokens of a file, in its order, to a tokenizer.

    Args:
        tokenizer: the old one.
        path: text in UTF-8 with a token a line, or a `.json` list of strings. Tokens are plain text, as it
            stands in a corpus, with a space in front where one belongs to the token. They are taken as the
            tokenizer's normalizer leaves them.
        told: called with the result.

    Raises:
        ModelError: names the file, the line and what is wrong there; or the tokenizer cannot be extended.
    """
    listed = read_tokens(path)
    base = tokenizer.extensible
    new = _new_ones(base, listed)
    made = tokenizer
    if new:
        made = base.with_added([one.text for one in new])
        _check(base, made, new)
    pieces = tuple(tuple(_ids(base, one.text)) for one in new)
    found = Extension(made, base.size, pieces, present=len(listed) - len(new))
    if told is not None:
        told(found)
    return found


@contextmanager
def extended(
    tokenizer: str | Path, path: Path | None, *, end_id: int | None = None, told: Told | None = None
) -> Iterator[str | Path]:
    """A folder with the `tokenizer.json` of an extended tokenizer, which is there as long as the body runs.

    Args:
        tokenizer: `byte`, or the folder or file of one.
        path: tokens to add; see `extend`, also for `told` and what is raised. None: `tokenizer` as it is.
        end_id: id of the token that ends a document, where the model's configuration states it.
    """
    if path is None:
        yield tokenizer
        return
    grown = extend(read_tokenizer(tokenizer, end_id=end_id), path, told=told)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / TOKENIZER).write_bytes(grown.tokenizer.data)
        yield folder


def read_tokens(path: Path) -> list[Listed]:
    """The tokens of a file as it spells them. Raises `ModelError` for the file's form; names the line."""
    try:
        data = files.read_limited(path, MAX_FILE_BYTES).removeprefix(b"\xef\xbb\xbf")
        text = data.decode("utf-8")
    except OSError as e:
        raise ModelError(
            f"{path} cannot be read: {e.strerror}", hint="give a file with one token a line"
        ) from e
    except (ArtifactError, TooLarge) as e:
        raise ModelError(e.message, hint="give a file with one token a line") from e
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ModelError(f"{path}, line {line}: this is not UTF-8 text") from e
    if path.suffix.lower() == ".json":
        found = _entries(path, text)
    else:
        lines = text.removesuffix("\n").split("\n") if text else []
        found = [Listed(f"{path}, line {n}", line.removesuffix("\r")) for n, line in enumerate(lines, 1)]
    if not found:
        raise ModelError(f"{path} lists no token", hint="leave add_tokens out to add none")
    if len(found) > MAX_TOKENS:
        raise ModelError(f"{path} lists {len(found)} tokens; at most {MAX_TOKENS} may be added")
    for one in found:
        _check_form(one)
    return found


def _entries(path: Path, text: str) -> list[Listed]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not JSON: {e}") from e
    if not isinstance(value, list):
        raise ModelError(f"{path} is not a JSON list", hint='write ["one", "two"]')
    for number, each in enumerate(value, 1):
        if not isinstance(each, str):
            raise ModelError(f"{path}, entry {number}: it is not a string")
    return [Listed(f"{path}, entry {number}", each) for number, each in enumerate(value, 1)]


def _check_form(one: Listed) -> None:
    if not one.text.strip():
        raise one.refuse("is blank", hint="take the line out; a token has a letter, digit or other sign")
    try:
        size = len(one.text.encode("utf-8"))
    except UnicodeEncodeError as e:
        raise one.refuse("has half of a surrogate pair, which is no character") from e
    if size > MAX_TOKEN_BYTES:
        raise one.refuse(f"has {size} bytes; a token has at most {MAX_TOKEN_BYTES}")
    if _SPECIAL.fullmatch(one.text.strip()):
        raise one.refuse(
            "is spelled like a special token",
            hint="take it out; special tokens are never read out of text",
        )


def _new_ones(base: Tokenizer, listed: Sequence[Listed]) -> list[Listed]:
    """Those the tokenizer has not, in its normal form. Raises `ModelError` for what cannot be added."""
    special = _Special.of(base)
    first: dict[str, str] = {}
    found = []
    for given in listed:
        one = replace(given, text=base.plain(given.text))
        if base.plain(one.text) != one.text:
            raise given.refuse(
                "cannot be added: the tokenizer puts something before every text, so no text is its own token"
            )
        if not one.text.strip():
            raise given.refuse("is blank for the tokenizer, whose normalizer takes it away")
        if (before := first.setdefault(one.text, one.place)) != one.place:
            raise given.refuse(f"is there twice, first in {before.rpartition(', ')[2]}")
        if (hidden := special.hidden_by(one.text)) is not None:
            raise given.refuse(f"would hide the special token {hidden!r} from who looks for it in text")
        if not _has(base, one):
            found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class _Special:
    """The special tokens of a tokenizer: whole, by their lengths, and by how they begin."""

    whole: frozenset[str]
    lengths: tuple[int, ...]
    heads: dict[str, str]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _Special:
        whole = tokenizer.special
        heads = {token[:n]: token for token in sorted(whole) for n in range(1, len(token))}
        return cls(whole, tuple(sorted({len(token) for token in whole})), heads)

    def hidden_by(self, text: str) -> str | None:
        """A special token that `text` holds, or that begins inside it: the text would be found first."""
        for start in range(len(text)):
            for length in self.lengths:
                if text[start : start + length] in self.whole:
                    return text[start : start + length]
            if start and (token := self.heads.get(text[start:])) is not None:
                return token
        return None


def _has(base: Tokenizer, one: Listed) -> bool:
    """Whether it is one token already, at the beginning of a text or behind a line break.

    Raises `ModelError` where another token has that spelling in the vocabulary: in a byte-level one, `à` is
    the byte E0.
    """
    start = _ids(base, "\n")
    for ids, before in ((_ids(base, one.text), []), (_ids(base, "\n" + one.text), start)):
        if ids and ids[:-1] == before and ids[-1] != base.unknown:
            return True
    number = base.fast.token_to_id(one.text)
    if number is None:
        return False
    if base.decode([number]) == one.text:
        return True
    raise one.refuse(
        "cannot be added: in the tokenizer's vocabulary this spelling is that of another token",
        hint="take it out, or add it together with letters beside it",
    )


def _check(base: Tokenizer, made: Tokenizer, new: Sequence[Listed]) -> None:
    """Each token is read as itself, and it and text beside it can be written again."""
    writes = base.fast.decoder is not None and base.decode(_ids(base, _PROBE * 2)).strip() == _PROBE * 2
    for number, one in enumerate(new, base.size):
        if not _ids(base, one.text):
            raise one.refuse("cannot be added: the tokenizer splits it into nothing")
        if _ids(made, one.text) != [number]:
            raise one.refuse("cannot be added: the tokenizer does not find it in text")
        beside = _PROBE + one.text + _PROBE
        if writes and made.decode(_ids(made, beside)).strip() != beside:
            raise one.refuse(
                "cannot be added: the tokenizer would not give back text with it as it was",
                hint="take it out; if it is the file's first, this tokenizer cannot be extended",
            )


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.fast.encode(text, add_special_tokens=False).ids)
