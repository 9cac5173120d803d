"""The layout a plan's model would have: names and shapes alone, without memory for a single value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tapestry.errors import ModelError
from tapestry.host import files
from tapestry.protocol.layout import Layout
from tapestry.training.architectures import Architecture
from tapestry.training.model import (
    CONFIG,
    LEFT_OUT,
    complete_config,
    configured,
    first_line,
    layout_of,
    read_tokenizer,
)

MAX_CONFIG_BYTES = 64 << 20


def planned_layout(
    config: dict[str, Any], tokenizer: str | Path, shard_bytes: int, fragments: int = 1
) -> Layout:
    """Of a model from scratch; see `model.initial_state`. Raises `ModelError`."""
    words = read_tokenizer(tokenizer, end_id=config.get("eos_token_id"))
    return _layout(complete_config(config, words), shard_bytes, fragments)


def adopted_layout(folder: Path, shard_bytes: int, fragments: int = 1) -> Layout:
    """Of a model directory, by its `config.json` alone. Raises `ModelError`."""
    path = folder / CONFIG
    try:
        given = json.loads(files.read_limited(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read: {e}", hint="give a folder with config.json") from e
    if not isinstance(given, dict):
        raise ModelError(f"{path} is not a JSON object")
    return _layout(given, shard_bytes, fragments)


def _layout(config: dict[str, Any], shard_bytes: int, fragments: int) -> Layout:
    architecture = Architecture.of(config)
    settings = configured(architecture, {k: v for k, v in config.items() if k not in LEFT_OUT})
    try:
        meta = architecture.without_values(settings)
    except Exception as e:
        raise ModelError(f"no model can be built from the configuration: {first_line(e)}") from e
    return layout_of(meta, shard_bytes, fragments)
