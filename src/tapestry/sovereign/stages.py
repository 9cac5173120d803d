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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry import __version__
from tapestry.catalog.protected import Protected
from tapestry.errors import RecipeError, RightsRefused
from tapestry.host import failpoints, files
from tapestry.protocol.canonical import sha256
from tapestry.protocol.clock import format_time
from tapestry.sovereign import directory, models, prepared
from tapestry.sovereign.card import model_card
from tapestry.sovereign.chat import Chat
from tapestry.sovereign.constitution import Constitution
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Base, Lineage, Parent, Stage
from tapestry.sovereign.places import Catalog, place
from tapestry.sovereign.recipe import Recipe, StageTable
from tapestry.sovereign.saving import Checkpoints, draw
from tapestry.sovereign.status import Teller
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
        self._recipe, self._bytes = recipe
        self._base = place(home.root, self._recipe.base)
        self._catalog = Catalog(home.root, self._recipe)

    def run(self) -> None:
        """From where it stands to the end. Raises `Stopped`, and whatever is wrong."""
        lineage = self._lineage()
        if lineage.weights is not None:
            self._teller.update(phase="done", stage=len(self._recipe.stage), durable=True)
            return
        if self._island.lead:
            self._catalog.require_kept(lineage)
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

    # -- before the first stage -----------------------------------------------------------------------------

    def _lineage(self) -> Lineage:
        """As it stands, or a new one. Raises `RecipeError` where the recipe is another than it was."""
        data = b""
        if self._island.lead:
            constitution = self._constitution()
            kept = constitution.digest if constitution is not None else None
            if self._home.lineage.exists():
                found = Lineage.load(self._home.lineage)
                self._require_same(found, kept)
            else:
                self._dry()
                recipe = self._recipe
                base, places = models.base_of(self._base), [self._base]
                if recipe.adapter is not None:
                    places.append(place(self._home.root, recipe.adapter))
                    models.require_adapter(places[-1], base)
                found = Lineage(
                    name=recipe.name,
                    owner=recipe.owner,
                    level=recipe.level,
                    licence=recipe.licence,
                    languages=recipe.languages,
                    base=base,
                    parent=self._parent(base, places),
                    recipe=sha256(self._bytes),
                    constitution=kept,
                    stages=(),
                    weights=None,
                    adapter=False,
                    release=__version__[:64],
                )
                found.save(self._home.lineage)
            data = found.to_bytes()
        return Lineage.from_bytes(self._island.share(data))

    def _parent(self, base: Base, places: Sequence[Path]) -> Parent | None:
        """The derivative that the build starts from, if it does; its lineage is kept in `parents`."""
        found = models.parent_of(base, places)
        if found is None or found.weights is None:
            return None
        kept = self._home.parents / f"{found.digest}.json"
        with files.full_disk(kept):
            kept.parent.mkdir(exist_ok=True)
        found.save(kept)
        return Parent(lineage=found.digest, weights=found.weights, base=found.base.weights)

    def _require_same(self, lineage: Lineage, constitution: str | None) -> None:
        if lineage.weights is not None:
            return
        hint = "put it back as it was, or make a new build: tapestry build init in another folder"
        if lineage.recipe != sha256(self._bytes):
            raise RecipeError(f"{self._home.recipe} was changed since the build began", hint=hint)
        if lineage.constitution != constitution:
            raise RecipeError("the constitution was changed since the build began", hint=hint)
        models.require_base(self._base)
        now = models.base_of(self._base)
        if (lineage.base.weights, lineage.base.tokenizer) != (now.weights, now.tokenizer):
            raise RecipeError(f"the base in {self._base} is another than when the build began", hint=hint)

    def _dry(self) -> None:
        """Everything that can be known to be wrong before hours are spent on the first stage."""
        models.require_base(self._base)
        for number, stage in self._recipe.stages():
            try:
                self._catalog.permit([card for card, _ in self._catalog.cards(stage)], stage)
            except RightsRefused as e:
                raise RightsRefused(f"stage {number}: {e.message}", hint=e.hint) from e
        if any(stage.kind != "cpt" for stage in self._recipe.stage):
            self._chat(models.open_tokenizer(self._base))
        self._protection()

    def _first(self, lineage: Lineage) -> _Start:
        recipe = self._recipe
        adapter = place(self._home.root, recipe.adapter) if recipe.adapter is not None else None
        weights = lineage.base.weights
        if adapter is not None:
            weights = sha256(f"{weights} {directory.weights_digest(adapter)}".encode())
        return _Start(self._base, adapter, weights, on_base=True)

    def _constitution(self) -> Constitution | None:
        where = self._recipe.constitution
        return Constitution.load(place(self._home.root, where)) if where is not None else None

    def _protection(self) -> tuple[Protected | None, str]:
        """What is left out of training, and a digest that stands for it."""
        found, constitution = self._catalog.protected(), self._constitution()
        if constitution is not None:
            found = constitution.beside(found)
        return found, found.digest if found is not None else sha256(b"")

    def _chat(self, tokenizer: Any) -> Chat:
        return Chat.of(tokenizer, self._recipe.template, self._home.root)

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
            self._publish_merged(start, folder, self._recipe_dtype(final=False))
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
        tokenizer = models.open_tokenizer(self._base)
        chat = self._chat(tokenizer) if stage.kind != "cpt" else None
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
        folder = self._folder(number, stage)
        protected, kept = self._protection()
        with files.full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
        if not (folder / BEGUN).exists():
            files.write_atomic(folder / BEGUN, _now().encode())
        if (folder / DATA).exists():
            cards = [card for card, _ in self._catalog.cards(stage)]
            if any(map(self._catalog.is_withdrawn, cards)):
                self._tidy(number, stage)
            self._catalog.permit(cards, stage)
            prepared.require_same(folder / DATA, tuple(cards), stage, kept)
            return
        words = read_tokenizer(self._base, end_id=models.open_tokenizer(self._base).eos_token_id)
        prepared.prepare(
            folder / DATA,
            stage,
            self._catalog.admit(stage),
            words=words,
            chat=chat,
            protected=protected,
            kept=kept,
        )

    def _asker(self, stage: StageTable, lineage: Lineage) -> Callable[[], None]:
        """What is asked at every step: whether a dataset of it, or of one before, was withdrawn meanwhile."""
        if not self._island.lead or self._catalog.withdrawals is None:
            return lambda: None
        cards, marks = [card for card, _ in self._catalog.cards(stage)], self._catalog.withdrawals

        def ask() -> None:
            if not marks.marks():
                return
            self._catalog.require_kept(lineage)
            if any(map(self._catalog.is_withdrawn, cards)):
                self._catalog.permit(cards, stage)

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

    # -- after the last -------------------------------------------------------------------------------------

    def _recipe_dtype(self, *, final: bool) -> str:
        return self._recipe.dtype if final else "float32"

    def _finish(self, start: _Start, lineage: Lineage) -> None:
        if not self._island.lead:
            return
        self._teller.update(phase="writing", seconds_left=None)
        home, kept = self._home, start.adapter is not None and start.on_base
        self._catalog.require_kept(lineage)
        if not home.model.exists():
            self._publish_merged(start, home.model, self._recipe_dtype(final=True), lineage)
        failpoints.reach("build.model.published")
        if kept and start.adapter is not None:
            self._publish_adapter(start.adapter, lineage)
        done = lineage.model_copy(update={"weights": directory.weights_digest(home.model), "adapter": kept})
        for folder in (home.model, home.adapter):
            if folder.exists():
                done.save(folder / models.LINEAGE)
        files.write_atomic(home.model / models.CARD, model_card(done).encode())
        done.save(home.lineage)
        for number, stage in self._recipe.stages():
            shutil.rmtree(self._folder(number, stage) / START, ignore_errors=True)
        self._teller.update(phase="done", durable=True)

    def _publish_merged(
        self, start: _Start, folder: Path, dtype: str, lineage: Lineage | None = None
    ) -> None:
        """A Hugging Face directory of what a stage came to."""
        import torch

        if start.adapter is not None:
            model = models.merged(start.model, start.adapter)
        else:
            model = models.open_model(start.model)
        tokenizer = models.open_tokenizer(self._base)
        if any(stage.kind != "cpt" for stage in self._recipe.stage):
            self._chat(tokenizer)
        temporary = models.fresh(folder)
        models.write_model(model.to(getattr(torch, dtype)), tokenizer, temporary)
        files.publish_dir(temporary, folder)

    def _publish_adapter(self, adapter: Path, lineage: Lineage) -> None:
        if self._home.adapter.exists():
            return
        temporary = models.fresh(self._home.adapter)
        with files.full_disk(temporary):
            for path in adapter.iterdir():
                shutil.copyfile(path, temporary / path.name)
        files.publish_dir(temporary, self._home.adapter)


def _of_adapter(name: str) -> bool:
    return "lora_" in name and ".ref." not in name


def _now() -> str:
    return format_time(datetime.datetime.now(datetime.UTC))
