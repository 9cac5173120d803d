"""Tokens are added to a tokenizer and a model: old text keeps its ids, new rows are means of old ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Fast
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

from tapestry.errors import ModelError
from tapestry.protocol.artifact import State
from tapestry.storage.blobs import BlobStore
from tapestry.training import vocabulary
from tapestry.training.adopt import adopt
from tapestry.training.architectures import Architecture
from tapestry.training.export import Lineage, export
from tapestry.training.loaded import Loaded
from tapestry.training.model import initial_state
from tapestry.training.tokenizer import END_OF_TEXT, Tokenizer
from tapestry.training.vocabulary import Extension, extend, extended, read_tokens

TEXT = ["the cat sat on the mat, мир и труд, ein Haus, le chat " * 20] * 3
ADDED = ["Grüße", " नमस्ते", "नमस्ते", "Łódź", "x.y", "é!", "the cat", "ö-ö", "日本", " ende ", "Grü", "[a|b]*"]
"""None is a token of the tokenizers below. Of some every character is also the name of a byte."""
LINEAGE = Lineage(plan="0" * 64, rounds=0, members=(), tokens=0)


def trained(kind: Fast, *special: str, spare: str = "") -> Fast:
    """A BPE of 420 tokens; `spare` is one that stands in the file and is not trained."""
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if "<unk>" not in special else [],
        show_progress=False,
    )
    kind.train_from_iterator(TEXT, trainer)
    if spare:
        kind.add_special_tokens([AddedToken(spare, special=True, normalized=False)])
    return kind


def byte_level() -> Fast:
    """As Qwen's and Llama 3's."""
    fast = Fast(models.BPE())
    fast.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([words, alphabet])
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.ByteLevel(trim_offsets=True)
    return trained(fast, END_OF_TEXT, spare="<|im_start|>")


def pieces() -> Fast:
    """A SentencePiece BPE with bytes for what it does not know, trained on words with their blank."""
    fast = Fast(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained(fast, "<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
    value = json.loads(fast.to_str())
    value["added_tokens"] = [t for t in value["added_tokens"] if not t["content"].startswith("<0x")]
    fast = Fast.from_str(json.dumps(value))
    fast.pre_tokenizer = None
    known = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    fast.decoder = decoders.Sequence(known)
    return fast


def blank_first() -> Fast:
    """As Llama 2's: a blank before each part of a text."""
    fast = pieces()
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast


def metaspace() -> Fast:
    """As the newer files of the same."""
    fast = blank_first()
    fast.normalizer = None
    fast.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=False)
    return fast


FAMILIES: dict[str, Callable[[], Fast]] = {
    "byte-level": byte_level,
    "gemma": pieces,
    "llama-2": blank_first,
    "metaspace": metaspace,
}


@cache
def old(family: str) -> Tokenizer:
    if family == "byte":
        return Tokenizer.byte_level()
    return Tokenizer.from_json(FAMILIES[family]().to_str().encode())


def write(folder: Path, tokens: list[str]) -> Path:
    path = folder / "tokens.json"
    path.write_text(json.dumps(tokens))
    return path


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Extension]:
    path = write(tmp_path_factory.mktemp("tokens"), ADDED)
    return {family: extend(old(family), path) for family in (*FAMILIES, "byte")}


FRAGMENTS = [
    *ADDED,
    END_OF_TEXT,
    "<s>",
    "▁",
    " ",
    "  ",
    "\n",
    "Gr",
    "ü",
    "u\u0308",
    "नम",
    "स्ते",
    "the",
    " cat",
    "a",
    "\0",
    "日",
]
texts = st.text(st.characters(codec="utf-8")) | st.lists(st.sampled_from(FRAGMENTS)).map("".join)


@pytest.mark.parametrize("family", [*FAMILIES, "byte"])
@given(text=texts)
@example(text=" the cat")
@example(text="▁the\n▁")
@example(text="Gru\u0308ße")
def test_text_keeps_its_ids_unless_it_spells_an_added_token(
    extensions: dict[str, Extension], family: str, text: str
) -> None:
    before, made = old(family), extensions[family]
    ids, sizes = made.tokenizer.encode(text)
    new = [made.has_id(number) for number in ids.tolist()]
    spelled = any(token in before.plain(text) for token in ADDED)
    assert any(new) == spelled
    if not spelled:
        assert ids.tolist() == before.encode(text)[0].tolist()
        assert sizes.tolist() == before.encode_slowly(text)[1].tolist()
    assert sizes.sum() == len(text.encode())
    if family == "gemma" and "▁" not in text:
        assert made.tokenizer.decode(ids.tolist()) == text


@pytest.mark.parametrize("family", [*FAMILIES, "byte"])
def test_an_added_token_is_found_anywhere_and_stands_for_its_bytes(
    extensions: dict[str, Extension], family: str
) -> None:
    made = extensions[family]
    assert (made.added, made.present) == (len(ADDED), 0)
    assert made.first == old(family).size
    for number, token in enumerate(ADDED, made.first):
        text = f"the{token}mat.{token}"
        ids, sizes = made.tokenizer.encode(text)
        found = [size for one, size in zip(ids.tolist(), sizes.tolist(), strict=True) if one == number]
        assert found == [len(token.encode())] * 2
        assert made.tokenizer.decode(ids.tolist()) == text
        assert made.tokenizer.encode(token)[0].tolist() == [number]
        assert made.pieces[number - made.first] == tuple(old(family).encode(token)[0].tolist())


def test_the_longest_of_several_tokens_is_taken(extensions: dict[str, Extension]) -> None:
    made = extensions["byte-level"]
    ids = made.tokenizer.encode("Grüße Grün")[0].tolist()
    assert [ADDED[n - made.first] for n in ids if made.has_id(n)] == ["Grüße", "Grü"]


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "pad_token_id": None,
}
MODELS = {"llama": ("llama-2", False), "qwen2": ("byte-level", True), "gemma": ("gemma", True)}


def saved(folder: Path, model_type: str, spare_rows: int, **more: Any) -> Path:
    """A random model with more rows than its tokenizer has tokens, in several files."""
    family, tied = MODELS[model_type]
    words = old(family)
    values = {
        "vocab_size": words.size + spare_rows,
        "eos_token_id": words.end_id,
        "tie_word_embeddings": tied,
    }
    architecture = Architecture.of({"model_type": model_type})
    torch.manual_seed(1)
    dtype = more.pop("dtype", torch.float32)
    model: Any = architecture.make(architecture.config(**{**SMALL, **values, **more})).to(dtype)
    model.save_pretrained(folder, max_shard_size="8KB")
    for name, data in words.files().items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def tables(model: Any) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()]


@pytest.mark.parametrize(
    ("spare_rows", "dtype"), [(0, torch.float32), (5, torch.bfloat16), (50, torch.float16)]
)
@pytest.mark.parametrize("model_type", MODELS)
def test_an_adopted_model_grows_by_means_and_opens_in_transformers(
    tmp_path: Path, model_type: str, spare_rows: int, dtype: torch.dtype
) -> None:
    folder = saved(tmp_path / "model", model_type, spare_rows, dtype=dtype)
    told: list[Extension] = []
    store = BlobStore.open(tmp_path / "blobs")
    path = write(tmp_path, [*ADDED, "a"])
    _, layout, state, parameters = adopt("run", folder, 1 << 12, store, add_tokens=path, told=told.append)
    made, words = told[0], old(MODELS[model_type][0])
    assert str(made) == "12 tokens added to the tokenizer, 1 were there already"
    out = export(state, store, tmp_path / "out", LINEAGE)
    before: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    size = words.size + max(len(ADDED), spare_rows)
    assert model.config.vocab_size == size
    assert sum(p.numel() for p in model.parameters()) == parameters
    for was, table in zip(tables(before), tables(model), strict=True):
        assert table.shape == (size, SMALL["hidden_size"])
        assert torch.equal(table[: words.size], was[: words.size])
        assert torch.equal(table[words.size + len(ADDED) :], was[words.size + len(ADDED) :])
        for number, token in enumerate(ADDED, words.size):
            mean = was[words.encode(token)[0]].double().mean(0).float()
            assert torch.equal(table[number], mean)
    first, second = tables(model)
    assert (first is second or torch.equal(first, second)) == MODELS[model_type][1]
    same_ids_and_logits(out, store, state, made, before, words)
    assert len(layout.shards) > 3


def same_ids_and_logits(
    out: Path, store: BlobStore, state: State, made: Extension, before: Any, words: Tokenizer
) -> None:
    """Exported and trained alike; and text without added tokens means to the model what it did."""
    auto, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    loaded = Loaded.read(store, state.model)
    loaded.load_base(store, state.base)
    assert loaded.tokenizer.data == made.tokenizer.data
    for text in ("a cat sat on", "Ein Grüße नमस्ते, Łódź!", " ende Gru\u0308ße x.y\n"):
        ids = auto(text, add_special_tokens=False).input_ids
        assert ids == loaded.tokenizer.encode(text)[0].tolist()
        if not isinstance(auto, Qwen2Tokenizer):  # which takes no decoder but its own
            assert auto.decode(ids) == loaded.tokenizer.decode(ids)
        batch = torch.tensor([ids])
        with torch.no_grad():
            logits = loaded.module(input_ids=batch).logits
            assert torch.equal(logits, model(input_ids=batch).logits)
            if text == "a cat sat on":
                assert ids == words.encode(text)[0].tolist()
                known = logits[..., : words.size]
                assert torch.allclose(known, before(input_ids=batch).logits[..., : words.size])
    loaded.module(input_ids=batch, labels=batch).loss.backward()
    table = loaded.module.get_input_embeddings().weight
    assert all(table.grad[number].any() for number in batch[0, :-1].tolist())


def test_only_the_rows_that_are_needed_are_read(extensions: dict[str, Extension]) -> None:
    made = extensions["gemma"]
    read: list[int] = []

    class Rows:
        def __getitem__(self, rows: slice) -> torch.Tensor:
            assert rows.stop == rows.start + 1
            read.append(rows.start)
            return torch.full((1, 4), float(rows.start))

    rows = torch.full((4, 4), -1.0)
    made.fill(Rows(), made.first - 2, rows)
    assert rows[:2].eq(-1).all()
    assert read == [*made.pieces[0], *made.pieces[1]]
    assert rows[2, 0] == pytest.approx(sum(made.pieces[0]) / len(made.pieces[0]))
    read.clear()
    made.fill(Rows(), made.first + made.added, rows)
    made.fill(Rows(), 0, rows)
    assert not read


def test_a_model_from_scratch_has_the_larger_vocabulary(tmp_path: Path) -> None:
    store = BlobStore.open(tmp_path / "blobs")
    config = {key: value for key, value in SMALL.items() if not key.endswith("_id")}
    told: list[Extension] = []
    with extended("byte", write(tmp_path, ADDED), told=told.append) as folder:
        _, _, state, _ = initial_state("run", config, folder, 1, 1 << 12, store)
    assert isinstance(folder, Path)
    assert not folder.exists()
    with extended("byte", None) as same:
        assert same == "byte"
    out = export(state, store, tmp_path / "out", LINEAGE)
    auto = AutoTokenizer.from_pretrained(out)
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.vocab_size == 257 + len(ADDED) == told[0].tokenizer.size
    assert auto.eos_token_id == model.config.eos_token_id == 256
    text = "xGrüße नमस्ते 日本!"
    ids = auto(text).input_ids
    assert ids == told[0].tokenizer.encode(text)[0].tolist() == [120, 257, 258, 32, 265, 33]
    assert auto.decode(ids) == text


def test_an_extended_tokenizer_is_extended_again(tmp_path: Path, extensions: dict[str, Extension]) -> None:
    for family in ("byte-level", "llama-2"):
        once = extensions[family].tokenizer
        twice = extend(once, write(tmp_path, ["Grüße", "naïve"]))
        assert (twice.added, twice.present, twice.first) == (1, 1, once.size)
        text = "Grüße, naïve Ł"
        assert twice.tokenizer.decode(twice.tokenizer.encode(text)[0].tolist()) == text


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\r\n two \r\n", ["one", " two "]),
        ("a\u2028b\nc\x0cd".encode(), ["a\u2028b", "c\x0cd"]),
    ],
)
def test_a_line_is_a_token(tmp_path: Path, content: bytes, texts: list[str]) -> None:
    path = tmp_path / "tokens.txt"
    path.write_bytes(content)
    assert [one.text for one in read_tokens(path)] == texts


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "lists no token"),
        ("a.txt", b"xyz\n\nb\n", "line 2: '' is blank"),
        ("a.txt", b"xyz\n \t\n", "line 2: .* is blank"),
        ("a.txt", b"xyz\nfoo\xff\n", "line 2: this is not UTF-8"),
        ("a.txt", b"xyz\n\xed\xa0\x80\n", "line 2: this is not UTF-8"),
        ("a.txt", b"xyz\n" + b"y" * 257, "line 2: 'yyy.*' has 257 bytes"),
        ("a.txt", b"xyz\nfoo\nxyz\n", "line 3: 'xyz' is there twice, first in line 1"),
        ("a.txt", "xÿz\nxy\u0308z\n".encode(), "line 2: .* is there twice, first in line 1"),
        ("a.txt", b"xyz\n<|im_end|>\n", "line 2: .* like a special token"),
        ("a.txt", b"xyz\n</s>\n", "line 2: .* like a special token"),
        ("a.txt", b"xyz\n[PAD]\n", "line 2: .* like a special token"),
        ("a.txt", b"xyz\nfoo <|im_start|>x\n", r"line 2: .* would hide the special token '<\|im_start\|>'"),
        ("a.txt", b"xyz\nfoo<|\n", r"line 2: .* would hide the special token '<\|"),
        ("a.txt", "xyz\nà\n".encode(), "line 2: 'à' cannot be added: in the tokenizer's vocabulary"),
        ("a.json", b"{}", "not a JSON list"),
        ("a.json", b"[", "not JSON"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.json", b'["xyz", 1]', "entry 2: it is not a string"),
        ("a.json", b'["xyz", "\\ud800"]', "entry 2: .* surrogate"),
        (
            "a.json",
            json.dumps([str(n) for n in range(200_001)]).encode(),
            "lists 200001 tokens; at most 200000",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"xyz" if name == "a.txt" else b'["xyz"]')
    assert extend(old("byte-level"), path).added == 1  # positive control
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        extend(old("byte-level"), path)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_tokens(tmp_path / "none")
    with pytest.raises(ModelError, match="not a regular file"):
        read_tokens(tmp_path)
    monkeypatch.setattr(vocabulary, "MAX_FILE_BYTES", 3)
    (tmp_path / "large").write_text("word")
    with pytest.raises(ModelError, match="larger than"):
        read_tokens(tmp_path / "large")


def test_tokens_that_are_there_are_counted_and_nothing_else_changes(tmp_path: Path) -> None:
    words = old("byte-level")
    made = extend(words, write(tmp_path, ["a", " cat", "the"]))
    assert (made.added, made.present, made.tokenizer) == (0, 3, words)
    llama = extend(old("llama-2"), write(tmp_path, ["the", " cat", "at", "zzz"]))
    assert (llama.added, llama.present) == (1, 3)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda v: v["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
            "would not give back text",
        ),
        (
            lambda v: v.update(normalizer={"type": "Prepend", "prepend": "▁"}),
            "puts something before every text",
        ),
        (lambda v: v["model"]["vocab"].update(q=500), "ids without a token"),
        (
            lambda v: v.update(normalizer={"type": "Replace", "pattern": {"String": "xyz"}, "content": ""}),
            "is blank",
        ),
    ],
)
def test_tokenizers_that_cannot_be_extended(tmp_path: Path, spoil: Callable[[Any], None], says: str) -> None:
    value = json.loads(old("byte-level").data)
    path = write(tmp_path, ["xyz"])
    assert extend(Tokenizer.from_json(json.dumps(value).encode()), path).added == 1
    spoil(value)
    with pytest.raises(ModelError, match=says):
        extend(Tokenizer.from_json(json.dumps(value).encode()), path)


def test_a_row_that_is_in_use_is_not_given_away(tmp_path: Path) -> None:
    path = write(tmp_path, ADDED)
    store = BlobStore.open(tmp_path / "blobs")
    size = old("byte-level").size
    free = saved(tmp_path / "free", "qwen2", 50, pad_token_id=size + 40)
    adopt("run", free, 1 << 12, store, add_tokens=path)
    used = saved(tmp_path / "used", "qwen2", 50, pad_token_id=size + 3)
    with pytest.raises(ModelError, match=f"pad_token_id {size + 3}"):
        adopt("run", used, 1 << 12, store, add_tokens=path)
