from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tapestry.errors import HashMismatch, ModelError, NotFound, TooLarge
from tapestry.storage.blobs import BlobStore
from tapestry.training.blobs import BlobFolder
from tapestry.training.loaded import Loaded
from tapestry.training.model import complete_config, fresh, initial_state
from tapestry.training.tokenizer import Tokenizer

from .support import CONFIG


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")


@pytest.mark.parametrize("tied", [True, False])
def test_the_initial_base_is_the_model_that_was_drawn(store: BlobStore, tied: bool) -> None:
    config = {**CONFIG, "tie_word_embeddings": tied}
    model, layout, state, parameters = initial_state("run", config, "byte", 3, 1 << 14, store)
    loaded = Loaded.read(BlobFolder(store.path("0" * 64).parent.parent), model.digest)
    base = loaded.load_base(store, state.base)
    drawn = fresh(loaded.config, 3)
    ids = torch.arange(40).view(2, 20)
    assert torch.equal(drawn(input_ids=ids).logits, loaded.module(input_ids=ids).logits)
    names = [tensor.name for tensor in layout.tensors]
    assert names == sorted(names)
    assert ("lm_head.weight" in names) is not tied
    assert parameters == layout.elements == sum(p.numel() for p in loaded.parameters.values())
    assert all(
        float(torch.frombuffer(d, dtype=torch.uint8)[-4:].sum()) == 0 for _, d in loaded.deltas(store, base)
    )
    assert (state.merges, state.outer) == (0, None)


def test_a_seed_draws_the_same_and_leaves_the_generator_alone(store: BlobStore) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = initial_state("run", CONFIG, "byte", 3, 1 << 14, store)[2]
    assert torch.equal(torch.rand(1), expected)
    assert initial_state("run", CONFIG, "byte", 3, 1 << 14, store)[2] == one
    assert initial_state("run", CONFIG, "byte", 4, 1 << 14, store)[2].base != one.base


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden": 3}, "no key 'hidden'"),
        ({"auto_map": {}}, "no key 'auto_map'"),
        ({"model_type": "gpt2"}, "'gpt2' is not one"),
        ({"model_type": ["x"]}, "is not one"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_size": 33}, "not a multiple"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"vocab_size": 10}, "smaller than the tokenizer's 257"),
    ],
)
def test_a_bad_configuration_is_refused(store: BlobStore, config: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        initial_state("run", {**CONFIG, **config}, "byte", 0, 1 << 14, store)


def test_a_row_that_fits_no_shard_is_refused(store: BlobStore) -> None:
    with pytest.raises(ModelError, match="no layout has shards of 4096 bytes"):
        initial_state("run", {**CONFIG, "intermediate_size": 1 << 11}, "byte", 0, 1 << 12, store)


def test_a_configuration_states_vocabulary_and_end_of_text() -> None:
    config = complete_config(CONFIG, Tokenizer.byte_level())
    assert (config["vocab_size"], config["eos_token_id"], config["dtype"]) == (257, 256, "float32")
    assert complete_config({**CONFIG, "vocab_size": 264}, Tokenizer.byte_level())["vocab_size"] == 264


def test_blobs_are_verified_and_never_touched(store: BlobStore, tmp_path: Path) -> None:
    sha = store.put(b"hello")
    folder = BlobFolder(tmp_path / "blobs")
    assert folder.read(sha, 5) == b"hello"
    with pytest.raises(TooLarge):
        folder.read(sha, 4)
    with pytest.raises(NotFound):
        folder.read("0" * 64, 4)
    path = tmp_path / "blobs" / sha[:2] / sha
    path.chmod(0o644)
    path.write_bytes(b"jello")
    with pytest.raises(HashMismatch):
        folder.read(sha, 5)
    assert path.read_bytes() == b"jello"


def test_a_model_whose_files_do_not_fit_its_layout_is_refused(store: BlobStore) -> None:
    model = initial_state("run", CONFIG, "byte", 0, 1 << 14, store)[0]
    other = initial_state("run", {**CONFIG, "hidden_size": 64}, "byte", 0, 1 << 14, store)[0]
    for broken in (
        model.model_copy(update={"layout": other.layout}),
        model.model_copy(update={"files": model.files[1:]}),
    ):
        with pytest.raises(ModelError, match=broken.digest[:12]):
            Loaded.read(store, store.put(broken.to_bytes()))
