"""GGUF: whatever is written gives the same logits and the same ids when it is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Fast

from tapestry.errors import ModelError
from tapestry.sovereign.gguf import check, shape, write
from tapestry.training.tokenizer import Tokenizer
from tests.sovereign import made

SAID = write.Said(name="ada/letters", owner="ada", licence="MIT", languages=("de",))
GEMMA: dict[str, Any] = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases, tied": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama with wide heads": ("llama", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "olmo2": ("olmo2", {}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3_text", {**GEMMA, "num_hidden_layers": 6}),
}
CORPUS = ["It's 1984, they aren't home: 12345!", "Grüße aus Zürich, Straße 7.", "một hai ba bốn năm"] * 20
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip(kind: str, tmp_path: Path) -> None:
    model_type, config = KINDS[kind]
    folder, file = made.base(tmp_path / "m", model_type, **config), tmp_path / "m.gguf"
    write.write(folder, file, SAID)
    found = check.compare(folder, file)
    assert found.difference <= check.LIMIT
    assert (found.positions, found.texts) == (96, len(check.TEXTS))


def test_a_file_that_is_another_model_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the check: without the pairing of rows, transformers' reader gives other logits."""
    folder, file = made.base(tmp_path / "m"), tmp_path / "m.gguf"
    monkeypatch.setattr(shape, "_paired", lambda heads: lambda values: values)
    write.write(folder, file, SAID)
    with pytest.raises(ModelError, match="is not the model: a logit differs"):
        check.compare(folder, file)


def test_what_the_file_says(tmp_path: Path) -> None:
    folder, file = made.base(tmp_path / "m", rope_theta=5e4), tmp_path / "m.gguf"
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write.write(folder, file, SAID)
    reader = gguf.GGUFReader(file)
    said = {key: field.contents() for key, field in reader.fields.items()}
    assert said["general.architecture"] == "llama"
    assert (said["general.license"], said["general.organization"], said["general.languages"]) == (
        "MIT",
        "ada",
        ["de"],
    )
    assert said["tokenizer.ggml.tokens"][97] == "a" and said["tokenizer.ggml.tokens"][256] == "<|endoftext|>"
    assert said["tokenizer.ggml.token_type"][256] == gguf.TokenType.CONTROL
    assert said["tokenizer.ggml.eos_token_id"] == 256 and said["tokenizer.ggml.add_bos_token"] is False
    assert said["tokenizer.chat_template"] == "{{ messages }}"
    assert all(tensor.tensor_type == gguf.GGMLQuantizationType.F32 for tensor in reader.tensors)


def test_memory_is_that_of_one_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, held = made.base(tmp_path / "m"), []
    real = gguf.GGUFWriter.write_tensor_data

    def count(self: Any, tensor: np.ndarray[Any, Any], *more: Any) -> None:
        held.append(sum(info.tensor is not None for infos in self.tensors for info in infos.values()))
        real(self, tensor, *more)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", count)
    write.write(folder, tmp_path / "m.gguf", SAID)
    assert len(held) > 10 and not any(held)


REFUSED = {
    "an architecture that is not written": ("olmo", {}, "is not written as GGUF"),
    "an activation": ("llama", {"hidden_act": "gelu"}, "with activation gelu"),
    "scaled positions": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        "rotary positions",
    ),
    "a sliding window": ("mistral", {"sliding_window": 8}, "sliding attention"),
    "a scale of attention": ("gemma2", {**GEMMA, "query_pre_attn_scalar": 5}, "scale of attention"),
    "layers in another order": (
        "gemma2",
        {**GEMMA, "layer_types": ["full_attention", "sliding_attention"]},
        "layers of sliding attention",
    ),
    "no caps": ("gemma2", {**GEMMA, "attn_logit_softcapping": None}, "soft-capped"),
    "a head of its own": ("gemma", {"head_dim": 16, "tie_word_embeddings": False}, "output head"),
    "a bias": ("qwen3", {"attention_bias": True}, "bias"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(what: str, tmp_path: Path) -> None:
    model_type, config, says = REFUSED[what]
    folder = made.base(tmp_path / "m", model_type, **config)
    with pytest.raises(ModelError, match=says) as caught:
        write.write(folder, tmp_path / "m.gguf", SAID)
    assert "--format hf" in (caught.value.hint or "")


def byte_bpe(cut: Any, *, ignore_merges: bool = False) -> Tokenizer:
    fast = Fast(models.BPE(ignore_merges=ignore_merges))
    fast.pre_tokenizer = cut
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"]),
    )
    return Tokenizer.from_json(fast.to_str().encode())


def split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def sentencepiece(*, first: bool) -> Tokenizer:
    """As a model of SentencePiece is converted: bytes for what has no piece, blanks as ▁."""
    fast = Fast(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if first else []
    fast.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_])
    fast.train_from_iterator(CORPUS, trainer)
    import json

    value = json.loads(fast.to_str())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["id"] < 3]
    return Tokenizer.from_json(json.dumps(value).encode())


WORDS = {
    "as GPT-2": lambda: byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "as Llama 3": lambda: byte_bpe(split(LLAMA3), ignore_merges=True),
    "as Qwen 2": lambda: byte_bpe(split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))),
    "SentencePiece": lambda: sentencepiece(first=True),
}


@pytest.mark.parametrize("kind", WORDS)
def test_tokenizers(kind: str, tmp_path: Path) -> None:
    words = WORDS[kind]()
    end = {"bos_token_id": words.end_id, "eos_token_id": words.end_id}
    folder, file = made.base(tmp_path / "m", words=words, **end), tmp_path / "m.gguf"
    write.write(folder, file, SAID)
    assert check.compare(folder, file).texts == len(check.TEXTS)


def test_rows_without_a_token_are_filled_up(tmp_path: Path) -> None:
    folder, file = made.base(tmp_path / "m", vocab_size=264), tmp_path / "m.gguf"
    write.write(folder, file, SAID)
    said = gguf.GGUFReader(file).fields
    assert said["tokenizer.ggml.tokens"].contents()[257:] == [f"[PAD{n}]" for n in range(257, 264)]
    assert set(said["tokenizer.ggml.token_type"].contents()[257:]) == {int(gguf.TokenType.UNUSED)}
    assert check.compare(folder, file).difference <= check.LIMIT


def word_piece() -> Tokenizer:
    return Tokenizer.from_json(
        Fast(models.WordPiece({"[UNK]": 0, "a": 1, "[SEP]": 2}, unk_token="[UNK]")).to_str().encode()
    )


def odd_blanks() -> Tokenizer:
    fast = Fast.from_str(Tokenizer.byte_level().data.decode())
    fast.add_tokens([AddedToken("<x>", lstrip=True)])
    return Tokenizer.from_json(fast.to_str().encode())


ODD = {
    "word pieces": (word_piece, "of type WordPiece"),
    "another pattern": (lambda: byte_bpe(split(r"\p{L}+|\s+")), "no name for how"),
    "merges that count, where Llama 3's do not": (lambda: byte_bpe(split(LLAMA3)), "no name for how"),
    "blanks beside a token": (odd_blanks, "takes blanks"),
}


@pytest.mark.parametrize("what", ODD)
def test_tokenizers_that_llama_cpp_cannot_follow(what: str, tmp_path: Path) -> None:
    make, says = ODD[what]
    words = make()
    folder = made.base(tmp_path / "m", words=words, bos_token_id=words.end_id, eos_token_id=words.end_id)
    with pytest.raises(ModelError, match=says):
        write.write(folder, tmp_path / "m.gguf", SAID)


def test_pairing_goes_back() -> None:
    values = torch.arange(48.0).reshape(16, 3)
    assert torch.equal(shape._halved(2)(shape._paired(2)(values)), values)
    assert not torch.equal(shape._paired(2)(values), values)
