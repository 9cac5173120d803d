"""The last step of a build: what its stages came to as one model, with its card and its lineage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tapestry.host import failpoints, files
from tapestry.sovereign import directory, models
from tapestry.sovereign.card import model_card
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage


def finish(
    home: BuildHome,
    lineage: Lineage,
    model: Path,
    adapter: Path | None,
    *,
    kept: bool,
    tokenizer: Any,
    dtype: str,
) -> Lineage:
    """Write model, card and lineage; what is there already is not written again.

    Args:
        home: of the build.
        lineage: of all its stages.
        model: what the last stage came to, without its adapter.
        adapter: on it; None for none.
        kept: whether the adapter is one on the base, and the derivative is kept as that too.
        tokenizer: with the chat template.
        dtype: of the weights.
    """
    if not home.model.exists():
        write_merged(model, adapter, home.model, tokenizer, dtype)
    failpoints.reach("build.model.published")
    if kept and adapter is not None:
        _write_adapter(adapter, home.adapter)
    done = lineage.model_copy(
        update={
            "weights": directory.weights_digest(home.model),
            "adapter": kept,
            "files": directory.files_beside(home.model),
            "adapter_files": directory.files_beside(home.adapter) if kept else None,
        }
    )
    for folder in (home.model, home.adapter):
        if folder.exists():
            done.save(folder / models.LINEAGE)
    files.write_atomic(home.model / models.CARD, model_card(done).encode())
    done.save(home.lineage)
    return done


def write_merged(model: Path, adapter: Path | None, folder: Path, tokenizer: Any, dtype: str) -> None:
    """A Hugging Face directory of a model with an adapter's changes in its weights, whole or not at all."""
    import torch

    opened = models.open_model(model) if adapter is None else models.merged(model, adapter)
    temporary = models.fresh(folder)
    models.write_model(opened.to(getattr(torch, dtype)), tokenizer, temporary)
    files.publish_dir(temporary, folder)


def _write_adapter(adapter: Path, folder: Path) -> None:
    if folder.exists():
        return
    temporary = models.fresh(folder)
    with files.full_disk(temporary):
        for path in adapter.iterdir():
            shutil.copyfile(path, temporary / path.name)
    files.publish_dir(temporary, folder)
