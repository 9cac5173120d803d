"""Tokenizers: byte-level, or any `tokenizer.json` that is adopted.

The byte tokenizer has one token for each byte (token id = byte) and `<|endoftext|>` = 256. Text that
spells a special token is text: special tokens are never read out of a corpus.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Fast

from tapestry.errors import ModelError
from tapestry.protocol.canonical import sha256

END_OF_TEXT: Final = "<|endoftext|>"
BYTE_VOCABULARY: Final = 257
MAX_TOKENIZER_BYTES: Final = 48 << 20
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
        encoding = self.fast.encode(text, add_special_tokens=False)
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
        return Fast.from_str(data.decode("utf-8"))
    except Exception as e:  # tokenizers raises nothing narrower
        raise ModelError(f"tokenizer.json cannot be read: {str(e)[:200]}") from e


def _pretty(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
