from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Fast

from tapestry.errors import ModelError
from tapestry.training.model import read_tokenizer
from tapestry.training.tokenizer import END_OF_TEXT, Tokenizer

BYTES = Tokenizer.byte_level()
TEXTS = ["", "a", "Grüße, мир! 你好 🙂\r\n\t\x00", f"x{END_OF_TEXT}y", " a  , b\n\n", "नमस्ते"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """A trained byte-level BPE with a normalizer that changes text."""
    fast = Fast(models.BPE())
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(["the cat sat on the mat, мир и труд " * 20] * 5, trainer)
    return Tokenizer.from_json(fast.to_str().encode())


@given(st.text(st.characters(codec="utf-8")))
def test_the_fast_path_gives_the_ids_of_the_library_and_loses_nothing(text: str) -> None:
    ids, sizes = BYTES.encode(text)
    slow, slow_sizes = BYTES.encode_slowly(text)
    assert BYTES.is_bytes
    assert ids.tolist() == slow.tolist() == list(text.encode())
    assert sizes.sum() == slow_sizes.sum() == len(text.encode())
    assert BYTES.decode(ids.tolist()) == text


def test_auto_tokenizer_opens_the_byte_tokenizer_and_gives_text_back(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for name, data in BYTES.files().items():
        (tmp_path / name).write_bytes(data)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert auto.eos_token_id == BYTES.end_id == 256
    for text in TEXTS:
        ids = auto(text, add_special_tokens=False).input_ids
        assert auto.decode(ids) == text
        if END_OF_TEXT not in text:
            assert ids == BYTES.encode(text)[0].tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_add_up_to_those_of_the_text(words: Tokenizer, text: str) -> None:
    ids, sizes = words.encode(text)
    assert not words.is_bytes
    assert len(ids) == len(sizes)
    assert sizes.sum() == len(text.encode())
    assert (sizes >= 0).all()
    assert words.end_id not in ids, "a special token in a text is text"


def test_text_that_a_normalizer_shortens_keeps_its_bytes(words: Tokenizer) -> None:
    text = "e\u0301" * 5
    assert words.encode(text)[1].sum() == len(text.encode())


def test_a_tokenizer_is_adopted_from_a_folder_or_a_file(tmp_path: Path, words: Tokenizer) -> None:
    (tmp_path / "tokenizer.json").write_bytes(words.data)
    assert read_tokenizer(tmp_path) == read_tokenizer(tmp_path / "tokenizer.json") == words
    assert words.size == len(words.fast.get_vocab()) > 257


def test_a_byte_tokenizer_written_by_another_release_takes_the_fast_path_too() -> None:
    other = Tokenizer.from_json(json.dumps(json.loads(BYTES.data), indent=1).encode())
    assert other.is_bytes
    assert other.data != BYTES.data


def test_a_changed_vocabulary_does_not_take_the_fast_path() -> None:
    value = json.loads(BYTES.data)
    vocab = value["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    other = Tokenizer.from_json(json.dumps(value).encode())
    assert not other.is_bytes
    assert other.encode("ab")[0].tolist() == [98, 97]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.from_json(data)


def test_a_tokenizer_without_end_of_text_is_refused_with_the_remedy() -> None:
    fast = Fast(models.BPE(vocab={"a": 0}, merges=[]))
    with pytest.raises(ModelError, match="end-of-text") as caught:
        Tokenizer.from_json(fast.to_str().encode())
    assert "eos_token_id" in (caught.value.hint or "")
    assert Tokenizer.from_json(fast.to_str().encode(), end_id=0).end_token == "a"


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=os.fspath(tmp_path)):
        read_tokenizer(tmp_path)


def test_ids_are_64_bit() -> None:
    assert BYTES.encode("abc")[0].dtype == np.int64


def test_blanks_at_the_end_of_a_token_are_its_own_bytes() -> None:
    fast = Fast.from_str(BYTES.data.decode())
    fast.post_processor = processors.ByteLevel(trim_offsets=True)
    fast.add_tokens([AddedToken("word ", special=False)])
    text = "xword y"
    assert fast.encode(text).offsets[1] == (1, 5)  # what the tokenizer itself says
    assert Tokenizer.from_json(fast.to_str().encode()).encode(text)[1].tolist() == [1, 5, 1]


def test_text_is_neither_cut_nor_filled_as_the_tokenizer_was_last_used(words: Tokenizer) -> None:
    fast = Fast.from_str(words.data.decode())
    fast.enable_truncation(4)
    fast.enable_padding(length=64)
    saved = Tokenizer.from_json(fast.to_str().encode())
    for text in TEXTS:
        assert saved.encode(text)[0].tolist() == words.encode(text)[0].tolist()
    assert len(fast.encode(TEXTS[2], add_special_tokens=False).ids) == 64


def test_added_tokens_are_decoded_where_their_letters_are_names_of_bytes() -> None:
    spelled = ["Grüße", "Łó", "ñ", "Grü", "naïve", "中", "é."]
    made = BYTES.with_added([token for token in spelled if token != "ñ"])
    text = "".join(spelled) + "\ufdd0 \ufdd1"
    ids = made.encode(text)[0].tolist()
    assert made.decode(ids) == text
    plain = json.loads(made.data)
    plain["decoder"] = json.loads(BYTES.data)["decoder"]
    assert Tokenizer.from_json(json.dumps(plain).encode()).decode(ids) != text


@given(st.lists(st.text(st.characters(codec="latin-1"), min_size=2, max_size=6), min_size=1, unique=True))
def test_any_words_of_latin_letters_are_decoded(words: list[str]) -> None:
    made = BYTES.with_added(words)
    for number, word in enumerate(words, BYTES.size):
        assert made.decode([120, number, 121]) == f"x{word}y"
