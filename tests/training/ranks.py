"""What `test_island` measures on each number of ranks; the first rank writes it. Also trainers."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tapestry.storage.blobs import BlobStore
from tapestry.tensors import shards
from tapestry.training import __main__ as trainer
from tapestry.training import checkpoint
from tapestry.training.corpus import open_corpus
from tapestry.training.home import TrainerHome
from tapestry.training.inner import InnerLoop, Round
from tapestry.training.island import Island
from tapestry.training.loaded import Loaded
from tapestry.training.machine import configure
from tapestry.training.model import initial_state
from tapestry.training.optim import InnerOptimizer
from tapestry.training.settings import TrainerSettings
from tapestry.training.spool import TrainJob
from tapestry.training.task import make_task

from .support import CONFIG, RUN, Node


class Case:
    """One model on this island with some settings."""

    def __init__(
        self, root: Path, island: Island, tied: bool = True, inner: Any = None, **changed: Any
    ) -> None:
        self.root, self.island = root, island
        self.settings = TrainerSettings.load(root / "home").model_copy(update=changed)
        self.store = BlobStore.open(root / "home" / "blobs")
        config = {**CONFIG, "tie_word_embeddings": tied}
        model, layout, self.state, parameters = initial_state(RUN, config, "byte", 7, 1 << 14, self.store)
        base = Node.make_plan(model, layout, self.state, parameters, batch_sequences=5, **(inner or {}))
        self.job = TrainJob(
            run=RUN, plan=base, round=1, merges=0, state=self.state.digest, base=self.state.base,
            train=True, evaluate=True,
        )  # fmt: skip
        self.loaded = Loaded.read(self.store, model.digest, island, self.settings)
        corpus = open_corpus(root / "home" / "corpus", self.loaded.tokenizer, root / f"cache-{island.rank}")
        self.task = make_task(base, corpus, "n")
        self.loop = InnerLoop(TrainerHome(root / "home"), self.settings, island)

    def begin(self) -> Round:
        artifact = self.loaded.load_base(self.store, self.state.base)
        self.loaded.module.train()
        optimizer = InnerOptimizer(self.loaded.parameters, self.job.plan.inner)
        return Round(self.job, optimizer, self.task, artifact, position=0)

    def gradients(self) -> dict[str, Tensor]:
        """Of one step, before clipping: what the optimizer is about to see."""
        current, found = self.begin(), {}

        def look(rate: float) -> None:
            found.update(
                {n: whole(p.grad).clone() for n, p in self.loaded.parameters.items() if p.grad is not None}
            )

        current.optimizer.step = look  # type: ignore[method-assign]
        self.loop.step(current, self.loaded)
        for parameter in self.loaded.parameters.values():
            parameter.grad = None
        return found


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def measure(root: Path, island: Island) -> dict[str, Any]:
    found: dict[str, Any] = {"root": str(root)}
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "few-at-once": {"sequences_at_once": 1},
        "recomputed": {"recompute_activations": True},
        "tied": {"tied": True},
        "untied": {"tied": False},
        "accumulated": {"inner": {"accumulation": 3}},
    }
    found["gradients"] = {name: Case(root, island, **options).gradients() for name, options in cases.items()}
    broken = Case(root, island)
    if not island.alone:  # every rank trains on what the first one has
        batch = broken.task.batch
        broken.task.batch = lambda position: batch(position)[:1].repeat(5, 1)  # type: ignore[method-assign]
        found["gradients"]["one rank's rows only"] = broken.gradients()
    case = Case(root, island)
    current = case.begin()
    found["score"] = case.task.evaluate(case.loaded.module, island).bits_per_byte
    for _ in range(3):
        case.loop.step(current, case.loaded)
    found["losses"] = current.losses
    found["moments"] = {name: whole(value) for name, value in current.moments().items()}
    checkpoint.save(
        root / f"inner-{island.ranks}", current.header(parameters=False), current.moments(), island
    )
    found["delta"] = delta(case, current)
    found["bf16"] = bf16(root)
    return found


def delta(case: Case, current: Round) -> dict[str, Tensor]:
    """The whole delta, from the shards that each rank writes."""
    mine = [(shard.index, bytes(data)) for shard, data in case.loaded.deltas(case.store, current.base)]
    rows: dict[str, list[Tensor]] = {}
    parts: dict[int, bytes] = {}
    for index in range(len(case.loaded.layout.shards)):
        own = dict(mine).get(index, b"")
        parts[index] = b"".join(case.island.gather(own))
    for shard in case.loaded.layout.shards:
        for name, values in shards.unpack(shard, parts[shard.index]).items():
            rows.setdefault(name, []).append(values)
    return {name: torch.cat(each) for name, each in rows.items()}


def bf16(root: Path) -> dict[str, Any]:
    settings = TrainerSettings.load(root / "home").model_copy(update={"precision": "bf16"})
    case = Case(root, joined(settings), precision="bf16")
    current = case.begin()
    case.loop.step(current, case.loaded)
    return {
        "types": sorted({str(p.dtype) for p in case.loaded.parameters.values()}),
        "loss": current.losses[0],
    }


_joined: list[Island] = []


def joined(settings: TrainerSettings) -> Island:
    """The island with a mesh, joined once."""
    if not _joined:
        _joined.append(Island.join(settings))
    return _joined[0]


def reload(root: Path, island: Island, writers: str) -> None:
    """Read the state that so many ranks wrote."""
    folder = root / f"inner-{writers}"
    header = checkpoint.read_header(folder, island)
    case = Case(root, island)
    current = case.begin()
    current.optimizer.begin_at(header.optimizer_steps)
    checkpoint.load(folder, current.moments(), island)
    found = {name: whole(value) for name, value in current.moments().items()}
    if island.lead:
        torch.save(found, root / f"reloaded-{writers}-{island.ranks}.pt")


def measured(what: str, root: Path, writers: str = "1") -> None:
    configure(1)
    island = Island.join(TrainerSettings.load(root / "home"))
    if island.mesh is not None:
        _joined.append(island)
    if what == "measure":
        found = measure(root, island)
        if island.lead:
            torch.save(found, root / f"measured-{island.ranks}.pt")
    if what == "reload" or not island.alone:
        reload(root, island, writers)
    island.barrier()


def main(place: dict[str, str], log: Path, argv: tuple[str, ...]) -> None:
    """One rank, in a process of its own: its place among the others is in `place`, as torchrun gives it."""
    os.environ.update(place)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 1
    try:
        what, root, *more = argv
        if what == "train":
            code = trainer.main(["--home", root])
        else:
            measured(what, Path(root), *more)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # as the trainer does
