"""Small models made on the spot, and an endpoint that serves one from a thread of the test's own process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tapestry.sovereign.serve.engine import Engine
from tapestry.sovereign.serve.loading import Served, load
from tapestry.sovereign.serve.server import Where, serve
from tapestry.training.model import complete_config, fresh
from tapestry.training.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONTEXT = 256


def make(
    folder: Path, *, template: str | None = None, context: int = CONTEXT, seed: int = 0, spread: float = 8.0
) -> Path:
    """A byte-level Llama of two layers.

    Args:
        folder: to write.
        template: of a chat.
        context: positions.
        seed: of its weights.
        spread: what embeddings are multiplied by: random weights alone find every token as likely.
    """
    words = Tokenizer.byte_level()
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = complete_config({**sizes, "max_position_embeddings": context}, words)
    folder.mkdir(parents=True)
    module = fresh(config, seed)
    weights = {name: value.detach().clone() for name, value in module.named_parameters()}
    weights["model.embed_tokens.weight"] *= spread
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    for name, data in words.files().items():
        (folder / name).write_bytes(data)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def adapter(folder: Path, base: Path, *, rank: int = 4) -> Path:
    """A LoRA adapter as peft writes it, with values that change the model."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    wrapped = get_peft_model(
        LlamaForCausalLM.from_pretrained(base), LoraConfig(r=rank, target_modules=["q_proj", "v_proj"])
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator))
    wrapped.save_pretrained(folder)
    return folder


@dataclass
class Running:
    """An endpoint in a thread."""

    url: str
    served: Served
    engine: Engine
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running(model: Path | Engine, *, waiting: int = 16, token: str | None = None) -> Iterator[Running]:
    engine = model if isinstance(model, Engine) else Engine(load(model, device="cpu"))
    found = Running("", engine.served, engine)
    up = threading.Event()
    errors: list[BaseException] = []

    def ready(url: str) -> None:
        found.url = url
        up.set()

    def tell(event: str, fields: Mapping[str, Any]) -> None:
        found.told.append((event, dict(fields)))

    def work() -> None:
        try:
            where = Where(port=0, token=token)
            serve(engine, where, waiting=waiting, ready=ready, tell=tell, stop=found.stop)
        except BaseException as error:
            errors.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert up.wait(60)
    if errors:
        raise errors[0]
    try:
        yield found
    finally:
        found.stop.set()
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
