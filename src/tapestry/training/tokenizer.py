"""Tokenizers: byte-level, or any `tokenizer.json` that is adopted.

The byte tokenizer has one token for each byte (token id = byte) and `<|endoftext|>` = 256. Text that
spells a special token is text: special tokens are never read out of a corpus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Fast

from tapestry.errors import ModelError
from tapestry.protocol.canonical import sha256

END_OF_TEXT: Final = "<|endoftext|>"
BYTE_VOCABULARY: Final = 257
MAX_TOKENIZER_BYTES: Final = 48 << 20
BLANK: Final = "▁"
"""What stands for a space in SentencePiece's vocabularies."""
_MARK: Final = "\ufdd0\ufdd1"
"""Two code points that Unicode keeps for such uses and that are no text."""
_END_CANDIDATES: Final = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")

Ids = npt.NDArray[np.int64]


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level tokenizers (the GPT-2 table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + n) for n, byte in enumerate(others)})
    return table


def byte_tokenizer_json() -> bytes:
    """`tokenizer.json` of the byte tokenizer."""
    fast = Fast(models.BPE(vocab={char: byte for byte, char in byte_alphabet().items()}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return str(fast.to_str(pretty=False)).encode()


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer by its `tokenizer.json`.

    Args:
        data: content of `tokenizer.json`.
        end_id: id of the token that ends a document.
        end_token: its text.
    """

    data: bytes
    end_id: int
    end_token: str

    @classmethod
    def byte_level(cls) -> Tokenizer:
        return cls(data=byte_tokenizer_json(), end_id=256, end_token=END_OF_TEXT)

    @classmethod
    def from_json(cls, data: bytes, *, end_id: int | None = None) -> Tokenizer:
        """Adopt a `tokenizer.json`.

        Args:
            data: its content.
            end_id: the model's `eos_token_id`; without it a usual end-of-text token is looked for.

        Raises:
            ModelError: not a tokenizer, or no end-of-text token is known.
        """
        if len(data) > MAX_TOKENIZER_BYTES:
            raise ModelError(f"tokenizer.json has {len(data)} bytes; at most {MAX_TOKENIZER_BYTES} may be")
        fast = _parse(data)
        if end_id is None:
            found = [fast.token_to_id(token) for token in _END_CANDIDATES]
            end_id = next((one for one in found if one is not None), None)
        if end_id is None or (token := fast.id_to_token(end_id)) is None:
            raise ModelError(
                "the tokenizer has no end-of-text token",
                hint="state the id of one as eos_token_id in the model's configuration",
            )
        return cls(data=data, end_id=end_id, end_token=token)

    @cached_property
    def digest(self) -> str:
        """Addresses the ids that a text gets."""
        return sha256(self.data + b"\0" + str(self.end_id).encode())

    @cached_property
    def fast(self) -> Fast:
        fast = _parse(self.data)
        fast.encode_special_tokens = True
        # Of use for training are the ids of a whole text and where each token ends in it. The last step
        # of many tokenizers leaves blanks out of a token's range, so that its bytes count for the next one.
        fast.post_processor = None
        fast.no_truncation()
        fast.no_padding()
        return fast

    @cached_property
    def size(self) -> int:
        """Ids are below this."""
        vocabulary = self.fast.get_vocab(with_added_tokens=True)
        return max(vocabulary.values()) + 1

    @cached_property
    def is_bytes(self) -> bool:
        """Whether this is the byte tokenizer, so that `encode` may take the fast path."""
        value = json.loads(self.data)
        model, before = value["model"], value.get("pre_tokenizer") or {}
        return (
            self.end_id == BYTE_VOCABULARY - 1
            and value.get("normalizer") is None
            and before.get("type") == "ByteLevel"
            and not before.get("add_prefix_space", True)
            and model.get("type") == "BPE"
            and not model["merges"]
            and not any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
            and {token: number for token, number in model["vocab"].items() if number != self.end_id}
            == {char: byte for byte, char in byte_alphabet().items()}
            and all(token["special"] for token in value.get("added_tokens", []))
        )

    def encode(self, text: str) -> tuple[Ids, Ids]:
        """Ids of `text` and the UTF-8 bytes that each stands for; no special token is added.

        The bytes add up to those of `text`: a token that covers part of a character counts it whole and
        the next one 0.
        """
        if self.is_bytes:
            ids = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
            return ids, np.ones_like(ids)
        return self.encode_slowly(text)

    def encode_slowly(self, text: str) -> tuple[Ids, Ids]:
        """`encode` without the fast path for bytes."""
        try:
            encoding = self.fast.encode(text, add_special_tokens=False)
        except Exception as e:  # tokenizers raises nothing narrower
            raise ModelError(f"the tokenizer cannot encode a text: {str(e)[:200]}") from e
        ids = np.asarray(encoding.ids, np.int64)
        if not ids.size:
            return ids, ids
        code_points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        widths = 1 + (code_points > 0x7F) + (code_points > 0x7FF) + (code_points > 0xFFFF)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)])
        stops = np.maximum.accumulate(np.asarray([stop for _, stop in encoding.offsets], np.int64))
        reached = ends[stops]
        reached[-1] = ends[-1]
        return ids, np.diff(reached, prepend=0)

    def decode(self, ids: list[int]) -> str:
        return str(self.fast.decode(ids, skip_special_tokens=False))

    @cached_property
    def special(self) -> frozenset[str]:
        """Spellings of its special tokens."""
        added = json.loads(self.data).get("added_tokens") or ()
        return frozenset(token["content"] for token in added if token["special"]) | {self.end_token}

    @cached_property
    def unknown(self) -> int | None:
        """Id of the token for what no token spells, if it has one."""
        model = json.loads(self.data)["model"]
        if (number := model.get("unk_id")) is not None:
            return int(number)
        token = model.get("unk_token")
        return None if token is None else self.fast.token_to_id(token)

    @cached_property
    def extensible(self) -> Tokenizer:
        """This tokenizer, the same ids for every text, in the form to which tokens can be added."""
        value = json.loads(_parse(self.data).to_str())
        _mark_beginning_only(value)
        return self._with(value)

    def with_added(self, tokens: Sequence[str]) -> Tokenizer:
        """It and new tokens, which have the ids from `size` on. Text that spells none of them keeps its ids.

        Text that spells one is split there, the longest token first; it gives that id wherever it stands, in
        the middle of a word too. Tokens are plain text, as `plain` gives it.

        Raises:
            ModelError: the tokenizer becomes too large, or has ids without a token, which would come first.
        """
        value = json.loads(self.extensible.data)
        _keep_latin_words(value, tokens)
        fast = _parse(json.dumps(value, ensure_ascii=False).encode())
        fast.add_tokens([AddedToken(token, normalized=True, special=False) for token in tokens])
        found = [fast.token_to_id(token) for token in tokens]
        if found != list(range(self.size, self.size + len(tokens))):
            raise ModelError(
                "no token can be added to a tokenizer that has ids without a token",
                hint="give every id below the largest a token in tokenizer.json",
            )
        return self._with(json.loads(fast.to_str()))

    def plain(self, text: str) -> str:
        """The text that is left of `text` once the tokenizer has normalized it."""
        normalizer = self.extensible.fast.normalizer
        if normalizer is None:
            return text
        normal = str(normalizer.normalize_str(text))
        return normal.replace(BLANK, " ") if normalizer.normalize_str(" ") == BLANK else normal

    def _with(self, value: dict[str, Any]) -> Tokenizer:
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        return Tokenizer.from_json(data, end_id=self.end_id)

    def files(self) -> dict[str, bytes]:
        """What a Hugging Face directory holds beside the model so that `AutoTokenizer` opens it."""
        config = {
            "backend": "tokenizers",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.end_token,
            "eos_token": self.end_token,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1 << 30,
        }
        special = {"bos_token": self.end_token, "eos_token": self.end_token}
        return {
            "tokenizer.json": self.data,
            "tokenizer_config.json": _pretty(config),
            "special_tokens_map.json": _pretty(special),
        }


def _parse(data: bytes) -> Fast:
    try:
        json.loads(data)  # tokenizers lets some pass that is no JSON
        return Fast.from_str(data.decode("utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # tokenizers raises nothing narrower than Exception, and its panics are none
        raise ModelError(f"tokenizer.json cannot be read: {str(e)[:200]}") from e


def _mark_beginning_only(value: dict[str, Any]) -> None:
    """Let a tokenizer that puts SentencePiece's blank before every part of a text put it before the first.

    Added tokens cut a text into parts, and each would get a blank that the text has not. Texts keep their
    ids, since a text without added tokens is one part: so this is done where none is there yet. In
    transformers, special tokens cut a text too; behind one there is no blank any more.

    Args:
        value: content of `tokenizer.json`, changed in place. Other ways to put a blank are left as they are.
    """
    if any(not token["special"] for token in value["added_tokens"]):
        return
    normalizer, before = value["normalizer"], value["pre_tokenizer"]
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    each = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLANK}, blanks]}
    if normalizer is None and before is not None and before.get("prepend_scheme") == "always":
        before["prepend_scheme"] = "first"
    elif normalizer == each and before is None:
        # The first step puts a space before the text, even where that begins with a blank; the second
        # turns it into a blank.
        first = {"type": "Metaspace", "replacement": " ", "prepend_scheme": "first", "split": False}
        second = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "never", "split": False}
        value["normalizer"] = blanks
        value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, second]}


def _keep_latin_words(value: dict[str, Any], tokens: Sequence[str]) -> None:
    """Let a byte-level tokenizer decode added tokens such as `Grüße`.

    Its decoder takes every token whose characters are all in the table of `byte_alphabet` for bytes in that
    spelling, and ü for the byte FC. So it is given such tokens with a mark that is not in the table, and the
    mark is taken out of the text afterwards.

    Args:
        value: content of `tokenizer.json`, changed in place.
        tokens: to be added.
    """
    decoder, table = value["decoder"], set(byte_alphabet().values())
    words = [token for token in tokens if not token.isascii() and table.issuperset(token)]
    if not words or "ByteLevel" not in _types(decoder):
        return
    mark = {"type": "Replace", "pattern": {"Regex": f"^(?={_any_of(words)}$)"}, "content": _MARK}
    unmark = {"type": "Replace", "pattern": {"String": _MARK}, "content": ""}
    value["decoder"] = {"type": "Sequence", "decoders": [mark, decoder, unmark]}


def _types(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_types(each) for each in decoder.get("decoders", ())))


def _any_of(words: Sequence[str]) -> str:
    """A regular expression for each of many words, as a tree of prefixes: it takes no time to speak of."""
    behind: dict[str, list[str]] = {}
    for word in words:
        behind.setdefault(word[:1], []).append(word[1:])
    ends = behind.pop("", None) is not None
    found = [re.escape(first) + _any_of(rest) for first, rest in behind.items()]
    if ends:
        return f"(?:{'|'.join(found)})?" if found else ""
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"


def _pretty(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
