"""From tokens to text while the tokens come: bytes of each token, whole characters, stop strings.

A token may hold part of a character, and of a stop string. What is given out is never taken back: the
pieces joined are the text of all tokens, whatever they were split into.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tapestry.errors import ModelError
from tapestry.training.tokenizer import BLANK, Tokenizer, byte_alphabet

_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_BLANKS: Final = frozenset({"Metaspace", "Replace"})


class Vocabulary:
    """The bytes each token stands for; none for special tokens, and for ids without a token.

    Raises:
        ModelError: the tokenizer puts text together in a way that is not known here.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        value = json.loads(tokenizer.data)
        found = list(_decoders(value.get("decoder")))
        kinds = {each["type"] for each in found}
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        if not self._byte_level and not _BLANKS & kinds:
            raise ModelError(
                f"the tokenizer's decoder ({', '.join(sorted(kinds)) or 'none'}) is not known here",
                hint="tokenizers that work on bytes, or mark blanks as SentencePiece does, are",
            )
        self.blank_first = not self._byte_level and any(
            each["type"] == "Strip" or each.get("prepend_scheme", "never") != "never" for each in found
        )
        """Whether a text has a blank before its first word that is none of the text."""
        self._added = {each["id"]: each for each in value.get("added_tokens") or ()}
        self._table = {char: byte for byte, char in byte_alphabet().items()}
        self._fast = tokenizer.fast
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        if token not in self._known:
            self._known[token] = self._spelled(token)
        return self._known[token]

    def _spelled(self, token: int) -> bytes:
        if (added := self._added.get(token)) is not None:
            return b"" if added["special"] else str(added["content"]).encode()
        piece = self._fast.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            if all(char in self._table for char in piece):
                return bytes(self._table[char] for char in piece)
            return str(piece).encode()
        if self._byte_fallback and (match := _BYTE.fullmatch(piece)):
            return bytes.fromhex(match[1])
        return str(piece).replace(BLANK, " ").encode()


def _decoders(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is not None:
        yield decoder
        for each in decoder.get("decoders", ()):
            yield from _decoders(each)


class Characters:
    """Bytes in, whole characters out; what is no UTF-8 becomes U+FFFD, as `bytes.decode` does it."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> str:
        return self._decode(data)

    def end(self) -> str:
        """What the bytes held back come to, now that no more follow."""
        return self._decode(b"", True)


class Stops:
    """Text in, text out up to where the first stop string is whole; of several that end there, the longest.

    What may be the beginning of one is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.met = False

    def feed(self, text: str) -> str:
        if self.met:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.met = True
            return self._give(min(found)[1])
        return self._give(len(self._held) - self._begun())

    def end(self) -> str:
        """What was held back, now that no more text follows."""
        return "" if self.met else self._give(len(self._held))

    def _give(self, length: int) -> str:
        given, self._held = self._held[:length], self._held[length:]
        return given

    def _begun(self) -> int:
        """Characters at the end that are the beginning of a stop string; the most of them."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class Text:
    """Bytes of tokens in, text out: `Characters`, then `Stops`.

    Args:
        stops: none of them empty.
        drop_blank: leave out one blank at the beginning.
    """

    def __init__(self, stops: Sequence[str] = (), *, drop_blank: bool = False) -> None:
        self._characters = Characters()
        self._stops = Stops(stops)
        self._drop = drop_blank

    @property
    def stopped(self) -> bool:
        return self._stops.met

    def feed(self, data: bytes) -> str:
        return self._stops.feed(self._first(self._characters.feed(data)))

    def end(self) -> str:
        return self._stops.feed(self._first(self._characters.end())) + self._stops.end()

    def _first(self, text: str) -> str:
        if self._drop and text:
            self._drop = False
            return text.removeprefix(" ")
        return text
