"""What is opened as a model, what is not, and what is said then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from tapestry.errors import ModelError, ResourceError
from tapestry.sovereign.directory import weights_digest
from tapestry.sovereign.serve.engine import Engine, Wanted
from tapestry.sovereign.serve.loading import load
from tests.sovereign.served import TEMPLATE, adapter, make

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of peft
PROMPT = tuple(b"The quick brown fox")


def changed(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_bytes())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return apply


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def own_code(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')")
    changed("config.json", lambda v: v.update(model_type="evil", auto_map={"AutoModel": "modeling_evil.M"}))(
        folder
    )


CONFIG = "config.json"


def configured(**values: Any) -> Callable[[Path], None]:
    return changed(CONFIG, lambda value: value.update(values))


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


REACHES_OUT = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (gone("model.safetensors"), "has no model.safetensors"),
    "pickled weights": (as_pickle, "has no model.safetensors"),
    "damaged weights": (written("model.safetensors", "x" * 99), "do not make the model"),
    "no configuration": (gone(CONFIG), "cannot read .*config.json"),
    "configuration of noise": (written(CONFIG, "{"), "config.json is no JSON"),
    "another architecture": (configured(model_type="gpt2"), "'gpt2' is not one"),
    "code of its own": (own_code, "'evil' is not one"),
    "more layers than weights": (configured(num_hidden_layers=3), "lack .*layers.2"),
    "fewer layers than weights": (configured(num_hidden_layers=1), "hold .*layers.1"),
    "other widths": (configured(intermediate_size=96), "do not make|differ in"),
    "quantized": (configured(quantization_config={}), "are quantized"),
    "no tokenizer": (gone("tokenizer.json"), "no tokenizer at|has no tokenizer.json"),
    "tokenizer of noise": (written("tokenizer.json", "{}"), "tokenizer.json cannot be read"),
    "template of noise": (written("chat_template.jinja", "{% for %}"), "chat template .* does not"),
    "template that reaches out": (written("chat_template.jinja", REACHES_OUT), "chat template .* does not"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_model_is_named(tmp_path: Path, what: str) -> None:
    spoil, message = BAD[what]
    folder = make(tmp_path / "m")
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        load(folder, device="cpu")


def test_other_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        load(tmp_path / "none")
    base = make(tmp_path / "base")
    with pytest.raises(ModelError, match="is an adapter") as caught:
        load(adapter(tmp_path / "adapter", base))
    assert "--adapter" in (caught.value.hint or "")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="no CUDA device"):
            load(base, device="cuda")


def test_in_bf16_it_is_about_the_same(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", template=TEMPLATE)
    exact, coarse = load(folder, device="cpu"), load(folder, device="cpu", precision="bf16")
    assert (exact.precision, coarse.precision, exact.chat) == ("fp32", "bf16", True)
    ids = torch.tensor([PROMPT])
    near = coarse.module(input_ids=ids).logits.float()
    assert torch.allclose(exact.module(input_ids=ids).logits, near, atol=0.3)
    assert "".join(p.text for p in Engine(coarse).answer(Wanted(prompt=PROMPT, max_tokens=4, seed=1)))


def test_an_adapter_is_added_to_its_base(tmp_path: Path) -> None:
    base = make(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", base)
    served = load(base, folder, device="cpu")
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        found = served.module(input_ids=ids).logits
        plain = LlamaForCausalLM.from_pretrained(base)
        assert not torch.allclose(found, plain(input_ids=ids).logits, atol=1e-2)
        wanted = PeftModel.from_pretrained(plain, folder).eval()(input_ids=ids).logits
    assert torch.allclose(found, wanted, atol=1e-5)


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    base, same_shape = make(tmp_path / "base"), make(tmp_path / "other", seed=1)
    folder = adapter(tmp_path / "adapter", base)
    load(same_shape, folder, device="cpu")  # its form fits: only its lineage can tell
    lineage = json.loads(LINEAGE)
    lineage["base"]["weights"] = weights_digest(base)
    (folder / "lineage.json").write_text(json.dumps(lineage, separators=(",", ":"), sort_keys=True))
    load(base, folder, device="cpu")
    with pytest.raises(ModelError, match="is for a base with weights"):
        load(same_shape, folder, device="cpu")

    changed("adapter_config.json", lambda v: v.update(target_modules=["q_proj"]))(folder)
    with pytest.raises(ModelError, match="for another base"):
        load(base, folder, device="cpu")
    changed("adapter_config.json", lambda v: v.update(peft_type="PREFIX_TUNING"))(folder)
    with pytest.raises(ModelError, match="PREFIX_TUNING"):
        load(base, folder, device="cpu")
    (folder / "adapter_model.safetensors").unlink()
    changed("adapter_config.json", lambda v: v.update(peft_type="LORA"))(folder)
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        load(base, folder, device="cpu")


LINEAGE = json.dumps(
    {
        "format": "tapestry.lineage", "version": 1, "name": "build", "owner": "fr", "level": "national",
        "licence": "Apache-2.0", "languages": ["fr"], "parent": None, "recipe": "0" * 64,
        "constitution": None,
        "base": {"weights": "0" * 64, "tokenizer": "0" * 64, "licence": "Apache-2.0", "state": None,
                 "run": None, "round": None},
        "stages": [], "weights": None, "adapter": True, "release": "0.1.0",
    }
)  # fmt: skip


def test_a_finished_build_is_a_model(tmp_path: Path) -> None:
    make(tmp_path / "build" / "model")
    path = tmp_path / "build" / "lineage.json"
    path.write_text(json.dumps(json.loads(LINEAGE), separators=(",", ":"), sort_keys=True))
    served = load(tmp_path / "build", device="cpu")
    assert (served.name, served.folder.name) == ("build", "model")
    (tmp_path / "build" / "model" / "config.json").unlink()
    with pytest.raises(ModelError, match="has no model yet"):
        load(tmp_path / "build", device="cpu")
