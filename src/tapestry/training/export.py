"""A shared base as a Hugging Face directory, which opens in plain transformers. Needs no torch to write."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.errors import Conflict, InputError, ModelError
from tapestry.host import files
from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.layout import Layout
from tapestry.training.blobs import BlobSource

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a base comes from, for its model card."""

    plan: str
    """Digest of the plan in force."""
    rounds: int
    """The round that led to the state."""
    members: Sequence[str]
    tokens: int
    """Tokens of all accepted contributions."""
    title: str = ""
    consortium: str | None = None


def export(state: State, source: BlobSource, folder: Path, lineage: Lineage) -> Path:
    """Write `folder` with weights, configuration, tokenizer and model card; whole or not at all.

    Args:
        state: whose base is wanted.
        source: a blob folder that holds it.
        folder: must not exist, or be empty.
        lineage: for the model card.

    Returns:
        `folder`.

    Raises:
        InputError: there is something in `folder`.
        IntegrityError, NotFound: a blob is missing or corrupt.
        DiskFull: no space; nothing is left behind.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty", hint="name a folder that does not exist yet")
    model = Model.from_bytes(source.read(state.model, Model.MAX_BYTES))
    layout = Layout.from_bytes(source.read(model.layout, Layout.MAX_BYTES))
    base = Artifact.from_bytes(source.read(state.base, Artifact.MAX_BYTES))
    base.check_against(layout, kind="base")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with files.full_disk(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            for file in model.files:
                (temporary / file.path).write_bytes(source.read(file.blob.sha256, file.blob.bytes))
            _write_weights(temporary / WEIGHTS, layout, base, source)
            (temporary / "README.md").write_text(model_card(state, model, layout, lineage), encoding="utf-8")
        files.publish_dir(temporary, folder)
    except Conflict as e:
        raise InputError(f"{folder} is not empty", hint="name a folder that does not exist yet") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_weights(path: Path, layout: Layout, base: Artifact, source: BlobSource) -> None:
    """One safetensors file. Shards hold all rows in tensor order, so their data follow one another."""
    with path.open("wb") as out:
        out.write(layout.whole_header)
        for shard, blob in zip(layout.shards, base.shards, strict=True):
            data = source.read(blob.sha256, blob.bytes)
            if data[: len(shard.header)] != shard.header:
                raise ModelError(f"shard {shard.index} of the base does not fit its layout")
            out.write(memoryview(data)[len(shard.header) :])


def model_card(state: State, model: Model, layout: Layout, lineage: Lineage) -> str:
    """README.md of an exported base."""
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    head += [f"license: {model.licence.lower()}", "tags:", "- tapestry", "---", ""]
    title = lineage.title or f"Shared base of {state.run}"
    rows = [
        ("run", state.run),
        ("round", str(lineage.rounds)),
        ("merges", str(state.merges)),
        ("members", ", ".join(lineage.members)),
        ("tokens trained on", f"{lineage.tokens:,}"),
        ("parameters", f"{layout.elements:,}"),
        ("state (SHA-256)", f"`{state.digest}`"),
        ("base (SHA-256)", f"`{state.base}`"),
        ("model (SHA-256)", f"`{state.model}`"),
        ("plan (SHA-256)", f"`{lineage.plan}`"),
    ]
    if lineage.consortium:
        rows.append(("consortium", f"`{lineage.consortium}`"))
    rows.append(("licence", model.licence))
    body = [
        f"# {' '.join(title.split())}",
        "",
        "A base model that its members trained together with Tapestry, each on text that stayed at its node.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "It is a base, neither tuned to follow instructions nor checked for safety.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
        "",
    ]
    return "\n".join(head + body)


def sample(folder: Path, prompt: str, tokens: int, *, seed: int = 0, temperature: float = 0.8) -> str:
    """Let an exported model go on with a prompt; returns prompt and continuation.

    Args:
        folder: an exported directory.
        prompt: text to go on with; not empty.
        tokens: how many new tokens at most; never more than the model has positions for.
        seed: of the drawing.
        temperature: 0 always takes the likeliest token.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer(prompt, return_tensors="pt")
    room = model.config.max_position_embeddings - inputs["input_ids"].shape[1]
    drawing: dict[str, Any] = {"do_sample": False}
    filling = {"pad_token_id": tokenizer.eos_token_id}
    if temperature > 0:
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 40}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        out = model.generate(**inputs, max_new_tokens=max(1, min(tokens, room)), **filling, **drawing)
    return str(tokenizer.decode(out[0], skip_special_tokens=True))
