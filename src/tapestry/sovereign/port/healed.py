"""What a short healing has made of a ported derivative, taken into its folder and its lineage."""

from __future__ import annotations

import shutil

from tapestry.host import files
from tapestry.sovereign import models
from tapestry.sovereign.card import model_card
from tapestry.sovereign.directory import files_beside, weights_digest
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage


def take(home: BuildHome, healing: BuildHome) -> Lineage:
    """Put the model (and adapter) of a healing in the place of the ported ones; returns the lineage then.

    The lineage is written last: where the process dies before, the port must be made again.
    """
    ported, done = Lineage.load(home.lineage), Lineage.load(healing.lineage)
    steps = tuple(stage.model_copy(update={"kind": "heal"}) for stage in done.stages)
    beside = files_beside(healing.adapter) if healing.adapter.is_dir() else ported.adapter_files
    update = {
        "stages": (*ported.stages, *steps), "weights": weights_digest(healing.model),
        "files": files_beside(healing.model), "adapter_files": beside,
    }  # fmt: skip
    lineage = ported.model_copy(update=update)
    for old, new in ((home.model, healing.model), (home.adapter, healing.adapter)):
        if not new.is_dir():
            continue
        before = old.with_name(f".{old.name}.before")
        lineage.save(new / models.LINEAGE)
        old.rename(before)
        files.publish_dir(new, old)
        shutil.rmtree(before)
    files.write_atomic(home.model / models.CARD, model_card(lineage).encode())
    lineage.save(home.lineage)
    return lineage
