"""A build from its first stage to its model: what is done is in the lineage, and is not done again.

    stages/1-cpt/begun          when
    stages/1-cpt/start/         what it begins from, where an adapter had to be merged first; goes at the end
    stages/1-cpt/data/          as tokens; goes when the stage is done
    stages/1-cpt/checkpoints/   likewise
    stages/1-cpt/stage.json     its record, as in the lineage, before there is a result
    stages/1-cpt/result/        a Hugging Face directory or, of a stage with LoRA, an adapter

An adapter goes on through stages with the same LoRA settings; one with other settings, or with full weights,
begins from the merged model.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.errors import RightsRefused
from tapestry.host import failpoints, files
from tapestry.protocol.canonical import sha256
from tapestry.protocol.clock import format_time
from tapestry.sovereign import directory, finishing, models, prepared
from tapestry.sovereign.chat import Chat
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage, Stage
from tapestry.sovereign.places import place
from tapestry.sovereign.recipe import Recipe, StageTable
from tapestry.sovereign.saving import Checkpoints, draw
from tapestry.sovereign.status import Teller
from tapestry.sovereign.terms import Terms
from tapestry.training.island import Island
from tapestry.training.model import read_tokenizer

DATA: Final = "data"
CHECKPOINTS: Final = "checkpoints"
RECORD: Final = "stage.json"
BEGUN: Final = "begun"
START: Final = "start"
RESULT: Final = "result"
FRESH: Final = (1 << 32) - 1
"""Stands for a step in the drawing of a new adapter's values."""


class Stopped(Exception):
    """The build was asked to stop; it goes on from its last checkpoint."""


@dataclass(frozen=True)
class _Start:
    """What a stage begins from.

    Args:
        model: a Hugging Face directory.
        adapter: on it; None for none.
        weights: stands for both.
        on_base: whether `model` is the base itself.
    """

    model: Path
    adapter: Path | None
    weights: str
    on_base: bool


class Build:
    """One build. All ranks call `run` together.

    Args:
        home: its folder.
        recipe: that stands there, with its bytes.
        island: the ranks.
        teller: for its status.
        stopping: whether to end soon.
    """

    def __init__(
        self,
        home: BuildHome,
        recipe: tuple[Recipe, bytes],
        island: Island,
        teller: Teller,
        stopping: Callable[[], bool],
    ) -> None:
        self._home, self._island, self._teller, self._stopping = home, island, teller, stopping
        self._terms, self._recipe = Terms(home, recipe), recipe[0]

    def run(self) -> None:
        """From where it stands to the end. Raises `Stopped`, and whatever is wrong."""
        data = self._terms.lineage().to_bytes() if self._island.lead else b""
        lineage = Lineage.from_bytes(self._island.share(data))
        if lineage.weights is not None:
            self._teller.update(phase="done", stage=len(self._recipe.stage), durable=True)
            return
        if self._island.lead:
            self._terms.catalog.require_kept(lineage, self._home.ancestors(lineage))
        start = self._first(lineage)
        for number, stage in self._recipe.stages():
            start = self._begin(start, number, stage)
            if number > len(lineage.stages):
                record = self._record(number, stage) or self._train(start, number, stage, lineage)
                lineage = lineage.model_copy(update={"stages": (*lineage.stages, record)})
                if self._island.lead:
                    lineage.save(self._home.lineage)
                    self._tidy(number, stage)
                self._island.barrier()
            elif self._island.lead:
                self._tidy(number, stage)  # where the process died before it could
            start = self._after(start, number, stage, lineage)
        self._finish(start, lineage)

    def _first(self, lineage: Lineage) -> _Start:
        recipe = self._recipe
        adapter = place(self._home.root, recipe.adapter) if recipe.adapter is not None else None
        weights = lineage.base.weights
        if adapter is not None:
            weights = sha256(f"{weights} {directory.weights_digest(adapter)}".encode())
        return _Start(self._terms.base, adapter, weights, on_base=True)

    # -- one stage ------------------------------------------------------------------------------------------

    def _folder(self, number: int, stage: StageTable) -> Path:
        return self._home.stage(number, stage.kind)

    def _continues(self, number: int) -> bool:
        """Whether a stage goes on with the adapter of the one before it."""
        stage, before = self._recipe.stage[number - 1], self._recipe.stage[number - 2] if number > 1 else None
        if stage.method != "lora":
            return False
        return before is None or (before.method == "lora" and before.lora == stage.lora)

    def _begin(self, start: _Start, number: int, stage: StageTable) -> _Start:
        """What a stage trains on: an adapter it does not go on with is merged first."""
        if start.adapter is None or self._continues(number):
            return start
        folder = self._folder(number, stage) / START
        if self._island.lead and not folder.exists():
            finishing.write_merged(start.model, start.adapter, folder, self._terms.tokenizer(), "float32")
        self._island.barrier()
        return _Start(folder, None, start.weights, on_base=False)

    def _record(self, number: int, stage: StageTable) -> Stage | None:
        """Of a stage that was done when the process died before the lineage had it."""
        folder, data = self._folder(number, stage), b""
        if self._island.lead and (folder / RESULT).exists():
            data = files.read_limited(folder / RECORD, 1 << 20)
        data = self._island.share(data)
        return Stage.model_validate_json(data) if data else None

    def _train(self, start: _Start, number: int, stage: StageTable, lineage: Lineage) -> Stage:
        from tapestry.sovereign import trainers

        folder = self._folder(number, stage)
        self._teller.stage(number, stage.kind)
        tokenizer = models.open_tokenizer(self._terms.base)
        chat = self._terms.chat(tokenizer) if stage.kind != "cpt" else None
        if self._island.lead:
            self._prepare(number, stage, chat)
        self._island.barrier()
        data = prepared.open_data(folder / DATA)
        if (cut := data.header.cut + data.header.dropped) and self._island.lead:
            self._teller.note(f"stage {number}: {cut} examples are longer than sequence_length")
        task = trainers.Task(
            number=number,
            stage=stage,
            machine=self._recipe.machine,
            seed=self._recipe.seed,
            data=data,
            checkpoints=Checkpoints(
                folder / CHECKPOINTS, self._island, stage.settings, start.weights, data.header.digest
            ),
            folder=folder,
            island=self._island,
            teller=self._teller,
            ask=self._asker(stage, lineage),
            stopping=self._stopping,
        )
        model, reference = self._models(start, number, stage)
        try:
            outcome, model = trainers.train(task, model, reference, tokenizer)
        except RightsRefused:
            if self._island.lead:
                self._tidy(number, stage)
            raise
        if not outcome.whole:
            raise Stopped
        self._teller.update(phase="writing", seconds_left=None)
        wanted = (lambda name: ".ref." not in name) if stage.method == "full" else _of_adapter
        weights = trainers.whole(model, self._island, wanted)
        record = b""
        if self._island.lead:
            record = self._publish(folder, stage, data, outcome, model, tokenizer, weights)
        return Stage.model_validate_json(self._island.share(record))

    def _prepare(self, number: int, stage: StageTable, chat: Chat | None) -> None:
        folder, catalog = self._folder(number, stage), self._terms.catalog
        protected, kept = self._terms.protection()
        with files.full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
        if not (folder / BEGUN).exists():
            files.write_atomic(folder / BEGUN, _now().encode())
        if (folder / DATA).exists():
            cards = [card for card, _ in catalog.cards(stage)]
            if any(map(catalog.is_withdrawn, cards)):
                self._tidy(number, stage)
            catalog.permit(cards, stage)
            prepared.require_same(folder / DATA, tuple(cards), stage, kept)
            return
        base = self._terms.base
        words = read_tokenizer(base, end_id=models.open_tokenizer(base).eos_token_id)
        prepared.prepare(
            folder / DATA,
            stage,
            catalog.admit(stage),
            words=words,
            chat=chat,
            protected=protected,
            kept=kept,
        )

    def _asker(self, stage: StageTable, lineage: Lineage) -> Callable[[], None]:
        """What is asked at every step: whether a dataset of it, or of one before, was withdrawn meanwhile."""
        catalog = self._terms.catalog
        if not self._island.lead or catalog.withdrawals is None:
            return lambda: None
        cards, marks = [card for card, _ in catalog.cards(stage)], catalog.withdrawals
        ancestors = self._home.ancestors(lineage)

        def ask() -> None:
            if not marks.marks():
                return
            catalog.require_kept(lineage, ancestors)
            if any(map(catalog.is_withdrawn, cards)):
                catalog.permit(cards, stage)

        return ask

    def _models(self, start: _Start, number: int, stage: StageTable) -> tuple[Any, Any]:
        """The model to train and, for full dpo, the one it is held against."""
        model = models.open_model(start.model)
        if stage.method == "full":
            reference = models.open_model(start.model) if stage.kind == "dpo" else None
            return model, reference
        if start.adapter is not None:
            return models.with_adapter(model, start.adapter, trainable=True), None
        draw(self._recipe.seed, number, FRESH, 0)
        return models.with_new_adapter(model, stage.lora), None

    def _publish(
        self,
        folder: Path,
        stage: StageTable,
        data: prepared.Data,
        outcome: Any,
        model: Any,
        tokenizer: Any,
        weights: dict[str, Any],
    ) -> bytes:
        """Write the result, then the record, then give the result its name."""
        temporary = models.fresh(folder / RESULT)
        if stage.method == "lora":
            models.write_adapter(model, temporary, weights)
        else:
            models.write_model(model, tokenizer, temporary, weights)
        record = Stage(
            kind=stage.kind,
            method=stage.method,
            datasets=data.header.datasets,
            withheld=data.header.withheld,
            settings=stage.settings,
            seed=self._recipe.seed,
            steps=outcome.steps,
            tokens=outcome.tokens,
            loss_first=outcome.loss_first,
            loss_last=outcome.loss_last,
            began=files.read_limited(folder / BEGUN, 100).decode(),
            ended=_now(),
            result=directory.weights_digest(temporary),
        )
        text = record.model_dump_json().encode()
        files.write_atomic(folder / RECORD, text)
        files.publish_dir(temporary, folder / RESULT)
        failpoints.reach("build.result.published")
        return text

    def _tidy(self, number: int, stage: StageTable) -> None:
        folder = self._folder(number, stage)
        for name in (DATA, CHECKPOINTS):
            shutil.rmtree(folder / name, ignore_errors=True)

    def _after(self, start: _Start, number: int, stage: StageTable, lineage: Lineage) -> _Start:
        """What the next stage begins from."""
        result = self._folder(number, stage) / RESULT
        weights = lineage.stages[number - 1].result
        if stage.method == "lora":
            return _Start(start.model, result, sha256(f"{start.weights} {weights}".encode()), start.on_base)
        return _Start(result, None, weights, on_base=False)

    def _finish(self, start: _Start, lineage: Lineage) -> None:
        if not self._island.lead:
            return
        self._teller.update(phase="writing", seconds_left=None)
        self._terms.catalog.require_kept(lineage, self._home.ancestors(lineage))
        finishing.finish(
            self._home,
            lineage,
            start.model,
            start.adapter,
            kept=start.adapter is not None and start.on_base,
            tokenizer=self._terms.tokenizer(),
            dtype=self._recipe.dtype,
        )
        for number, stage in self._recipe.stages():
            shutil.rmtree(self._folder(number, stage) / START, ignore_errors=True)
        self._teller.update(phase="done", durable=True)


def _of_adapter(name: str) -> bool:
    return "lora_" in name and ".ref." not in name


def _now() -> str:
    return format_time(datetime.datetime.now(datetime.UTC))
