"""The end of `tapestry demo --build`: one member takes the shared base and makes a model of its own from it.

Private pre-training on text of that member that never went to the run, in a build as `tapestry build` makes
them. Beside it, at the same time, the same model is trained alone on all of the member's text, as many steps
as run and build together, with its learning rate tuned.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.cli.demo import cards, private
from tapestry.cli.demo import compare as comparison
from tapestry.cli.output import note
from tapestry.host import files, processes

if TYPE_CHECKING:
    from tapestry.cli.demo.places import Places
    from tapestry.cli.demo.texts import MemberText
    from tapestry.protocol.plan import Plan

SHARE_OF_STEPS: Final = 0.5
"""Of the steps that a node trained in the run."""
LEARNING_RATE: Final = 1e-3
"""Of the run's optimizer, with which the build goes on. Measured with Muon: 4e-3 leaves the model worse."""
JOB: Final = "alone-all-text"
RECIPE: Final = """\
# What the demo made its sovereign model from; run again with: tapestry build run
format = "tapestry.build"
version = 1

name = {name}
owner = {owner}
licence = "Apache-2.0"
base = "../model"
node = {node}
template = "none"
seed = {seed}

[machine]
threads = 1

[[stage]]
kind = "cpt"
data = "../private/kept"
method = "full"
steps = {steps}
optimizer = {optimizer}
learning_rate = {rate}
warmup_steps = {warmup}
batch = {batch}
sequence_length = {length}
checkpoint_steps = 100
"""


def make(
    member: MemberText, places: Places, plan: Plan, request: Any, *, own_text: bool, seed: int
) -> dict[str, Any]:
    """Build, compare, measure; what was done by an earlier call is not done again.

    Args:
        member: the first.
        places: of the demo.
        plan: of its run.
        request: for baselines, with its blobs and its cache.
        own_text: whether the text is the user's.
        seed: of the demo.

    Raises:
        TapestryError: what the build or the training alone ended with.
    """
    from tapestry.cli import build_work

    began = time.monotonic()
    kept = private.kept(places)
    dataset = cards.of_own_model(member, kept, places, own_text=own_text)
    steps = max(1, round(plan.total_steps * SHARE_OF_STEPS))
    _write_recipe(member, places, plan, steps, seed)
    note(f"building: {member.name} trains the base on with text of its own that never went to the run")
    alone = _Alone(member, places, request, steps)
    try:
        state = build_work.run(places.build)
        alone_bits = alone.bits()
    finally:
        alone.stop()
    assert state.lineage is not None  # noqa: S101 - it is done
    stage = state.lineage.stages[0]
    before, after = (_bits(folder, kept, places, plan) for folder in (places.export, state.home.model))
    return {
        "member": member.name,
        "export": str(state.home.model),
        "build": str(places.build),
        "dataset": dataset,
        "documents": sum(each.documents for each in stage.datasets),
        "steps": stage.steps,
        "tokens": stage.tokens,
        "weights": state.lineage.weights,
        "bits_per_byte_base": before,
        "bits_per_byte_alone": alone_bits,
        "bits_per_byte_sovereign": after,
        "gain_over_base": 1 - after / before,
        "gain_over_alone": 1 - after / alone_bits,
        "seconds": round(time.monotonic() - began, 3),
    }


def _write_recipe(member: MemberText, places: Places, plan: Plan, steps: int, seed: int) -> None:
    from tapestry.sovereign.home import BuildHome

    home = BuildHome(places.build)
    if home.recipe.is_file():
        return
    home.root.mkdir(parents=True, exist_ok=True)
    text = RECIPE.format(
        name=json.dumps(f"{member.name[:48]}-own"),
        owner=json.dumps(member.name),
        node=json.dumps(f"../{places.node(member.name).relative_to(places.out)}"),
        seed=seed % (1 << 32),
        steps=steps,
        optimizer=json.dumps(plan.inner.optimizer),
        rate=LEARNING_RATE,
        warmup=min(20, steps // 4),
        batch=plan.inner.batch_sequences,
        length=plan.inner.sequence_length,
    )
    files.write_atomic(home.recipe, text.encode())


class _Alone:
    """The training of the same model on all text of the member, in a process of its own."""

    def __init__(self, member: MemberText, places: Places, request: Any, more_steps: int) -> None:
        self._name = member.name
        self._folder = places.build / "alone"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._figures = self._folder / f"{JOB}.figures.json"
        self._child: processes.Child | None = None
        if not self._figures.is_file():
            members = {member.name: str(private.everything(places))}
            asked = {"what": ("alone",), "members": members, "more_steps": more_steps}
            self._child = comparison.start(JOB, request.model_copy(update=asked), self._folder)

    def bits(self) -> float:
        """Waits for it."""
        if self._child is not None:
            comparison.figures(JOB, self._child, self._folder)
        found = json.loads(self._figures.read_bytes())
        return float(found["alone"][self._name]["bits_per_byte"][self._name])

    def stop(self) -> None:
        if self._child is not None:
            processes.kill_tree(self._child)


def _bits(folder: Path, text: Path, places: Places, plan: Plan) -> float:
    """Bits per byte of an exported model on the valid text, as the run's nodes score the base."""
    from tapestry.sovereign import models
    from tapestry.training.corpus import open_corpus
    from tapestry.training.evaluation import bits_per_byte
    from tapestry.training.model import read_tokenizer

    corpus = open_corpus(text, read_tokenizer(folder), places.cache)
    scored = bits_per_byte(
        models.open_model(folder),
        corpus.valid,
        sequence_length=plan.inner.sequence_length,
        max_tokens=plan.evaluation.max_tokens,
    )
    return scored.bits_per_byte
