"""Text that comes token by token is the text of all tokens, however it was split."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Fast

from tapestry.errors import ModelError
from tapestry.sovereign.serve.decoding import Characters, Stops, Text, Vocabulary
from tapestry.training.tokenizer import Tokenizer


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


PLACES = st.lists(st.integers(0, 80), max_size=20)


@given(st.binary(max_size=60) | st.text(max_size=20).map(str.encode), PLACES)
@example("日本語 🙂".encode(), list(range(30)))
@example(b"\xf0\x9f", [1])
def test_any_bytes_in_any_split_give_the_same_text(data: bytes, places: list[int]) -> None:
    characters = Characters()
    pieces = [characters.feed(part) for part in cut(data, places)]
    assert "".join(pieces) + characters.end() == data.decode("utf-8", "replace")


def test_no_part_of_a_character_is_given_out() -> None:
    characters = Characters()
    assert [characters.feed(bytes([byte])) for byte in "ü🙂".encode()] == ["", "ü", "", "", "", "🙂"]
    assert b"".join([b"\xc3", b"\xbc"]).decode() == "ü"
    assert "".join(part.decode("utf-8", "replace") for part in (b"\xc3", b"\xbc")) == "��"  # without it


def plainly(text: str, stops: list[str]) -> str:
    """Up to where, character by character, the first stop string is whole; the longest of those that are."""
    for end in range(1, len(text) + 1):
        whole = [stop for stop in stops if text[:end].endswith(stop)]
        if whole:
            return text[: end - max(map(len, whole))]
    return text


@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
    PLACES,
)
@example("aabc", ["abc", "ab"], [1, 2, 3])
@example("abcd", ["bc", "abc"], [])
def test_a_stop_string_ends_the_text_however_it_is_split(
    text: str, stops: list[str], places: list[int]
) -> None:
    one = Text(stops)
    given_out = "".join(one.feed(part) for part in cut(text.encode(), places)) + one.end()
    assert given_out == plainly(text, stops)
    assert one.stopped == any(stop in text for stop in stops)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stops = Stops(["\n\n", "END"])
    assert [stops.feed(part) for part in ("one\n", "two E", "Nough", " EN", "D more")] == [
        "one", "\ntwo ", "ENough", " ", "",
    ]  # fmt: skip
    assert stops.met
    assert stops.end() == ""


def sentencepiece(*, strip: bool = True) -> Tokenizer:
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"<0x{byte:02X}>": byte + 2 for byte in range(256)}}
    for piece in ("▁", "▁Hello", "▁wor", "ld", "é"):
        vocabulary[piece] = len(vocabulary)
    fast = Fast(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    fast.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    fast.add_special_tokens([AddedToken("</s>", special=True)])
    return Tokenizer.from_json(fast.to_str().encode(), end_id=1)


@given(st.lists(st.integers(0, 262), max_size=24), st.booleans())
def test_pieces_of_sentencepiece_are_the_text_that_transformers_gives(ids: list[int], strip: bool) -> None:
    words = sentencepiece(strip=strip)
    vocabulary = Vocabulary(words)
    assert vocabulary.blank_first is strip
    data = b"".join(vocabulary.bytes_of(token) for token in ids)
    text = Text(drop_blank=strip)
    told = "".join(text.feed(vocabulary.bytes_of(token)) for token in ids) + text.end()
    wanted = data.decode("utf-8", "replace")
    assert told == (wanted.removeprefix(" ") if strip else wanted)
    if "�" not in wanted:  # it writes one for each byte of a whole run
        assert told == words.fast.decode(ids, skip_special_tokens=True)


@given(st.text(max_size=30))
def test_pieces_of_bytes_are_the_text_that_was_encoded(text: str) -> None:
    words = Tokenizer.byte_level()
    vocabulary = Vocabulary(words)
    one = Text()
    assert "".join(one.feed(vocabulary.bytes_of(int(i))) for i in words.encode(text)[0]) + one.end() == text


def test_tokens_that_a_vocabulary_grew_by_keep_their_letters() -> None:
    words = Tokenizer.byte_level().with_added(["Grüße", "слово", "plain"])
    vocabulary = Vocabulary(words)
    assert [vocabulary.bytes_of(token).decode() for token in (257, 258, 259)] == ["Grüße", "слово", "plain"]
    assert vocabulary.bytes_of(words.end_id) == b""
    assert vocabulary.bytes_of(1 << 20) == b""


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    value = json.loads(Tokenizer.byte_level().data)
    value["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(ModelError, match="WordPiece"):
        Vocabulary(Tokenizer.from_json(json.dumps(value).encode(), end_id=256))
