"""Stages on trl's trainers: their losses, optimizer and loop; our data, order, checkpoints and progress.

Nothing calls home: no reports, no hub, no cards of the libraries. What is overridden of transformers' Trainer
is what it keeps on disk, which it would pickle, and the order of rows, which here follows from the seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tapestry.errors import Diverged, SettingsError
from tapestry.host import failpoints
from tapestry.sovereign.models import quiet
from tapestry.sovereign.muon import MuonAndAdamW
from tapestry.sovereign.prepared import Data
from tapestry.sovereign.recipe import Machine, StageTable
from tapestry.sovereign.saving import Checkpoints, StageState, draw, restore, tensors_of
from tapestry.sovereign.status import Teller
from tapestry.training.island import Island

TRAINER_STATE: Final = "trainer_state.json"
"""As transformers calls it, which reads it."""
RECENT: Final = 10
HISTORY: Final = 2
"""Entries of its log that transformers keeps; ours has all that is asked for."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One stage, ready to be trained.

    Args:
        number: of it, from 1.
        ask: what to do after each step; may raise.
        stopping: whether to end after this step.
    """

    number: int
    stage: StageTable
    machine: Machine
    seed: int
    data: Data
    checkpoints: Checkpoints
    folder: Path
    island: Island
    teller: Teller
    ask: Callable[[], None]
    stopping: Callable[[], bool]


@dataclass(frozen=True)
class Outcome:
    """What a stage came to.

    Args:
        step: that was reached; fewer than wanted where it was stopped.
    """

    step: int
    steps: int
    tokens: int
    loss_first: float | None
    loss_last: float | None

    @property
    def whole(self) -> bool:
        return self.step == self.steps


class Losses:
    """Of the first step, and of the last ones."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.recent: list[float] = []

    def take(self, loss: float) -> None:
        if self.first is None:
            self.first = loss
        self.recent = [*self.recent, loss][-RECENT:]

    def resume(self, state: StageState) -> None:
        self.first, self.recent = state.first, list(state.recent)

    @property
    def last(self) -> float | None:
        return math.fsum(self.recent) / len(self.recent) if self.recent else None


class _Watch(TrainerCallback):
    """Tells what goes on, and asks before each step whether it may."""

    def __init__(self, task: Task, steps: int, losses: Losses, tokens: list[int]) -> None:
        self._task, self._steps, self._losses, self._tokens = task, steps, losses, tokens

    def on_step_begin(self, args: Any, state: Any, control: Any, **other: Any) -> None:
        task = self._task
        draw(task.seed, task.number, state.global_step, task.island.rank)

    def on_step_end(self, args: Any, state: Any, control: Any, **other: Any) -> Any:
        failpoints.reach("build.step")
        step, task = state.global_step, self._task
        task.ask()
        if task.island.any(task.stopping()):
            control.should_training_stop = True
        due = step % task.stage.checkpoint_steps == 0
        control.should_save = due or step == self._steps or control.should_training_stop
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **other: Any) -> None:
        if "loss" not in (logs or {}):
            return
        loss, step = float(logs["loss"]), state.global_step
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss of stage {self._task.number} is {loss} at step {step}",
                hint="take a smaller learning_rate, or warmup_steps",
            )
        self._losses.take(loss)
        state.log_history = state.log_history[-HISTORY:]
        self._task.teller.step(step, self._steps, self._losses.recent, self._tokens[step])


class _Ours:
    """What both trainers do otherwise than trl and transformers do."""

    task: Task
    losses: Losses

    def create_accelerator_and_postprocess(self) -> None:
        """accelerate shards over accelerators only, and would give each rank of a CPU the whole model."""
        this: Any = self
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        if this.args.fsdp_plugin_args is None or this.is_fsdp_enabled:
            return
        state = this.accelerator.state
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**this.args.fsdp_plugin_args)
        this.is_fsdp_enabled = True

    def create_optimizer(self, model: Any = None) -> Any:
        """Muon is none of those that transformers knows by name."""
        this: Any = self
        stage = self.task.stage
        if stage.optimizer != "muon" or this.optimizer is not None:
            return super().create_optimizer(model)  # type: ignore[misc]
        moved = dict((this.model if model is None else model).named_parameters())
        rate, decay = stage.learning_rate, stage.weight_decay
        this.optimizer = MuonAndAdamW(moved, rate, decay, self.task.machine.processes)
        return this.optimizer

    def _prepare_dataset(self, dataset: Any, *other: Any, **more: Any) -> Any:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        this: Any = self
        return SequentialSampler(this.train_dataset if train_dataset is None else train_dataset)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        this: Any = self
        step = this.state.global_step
        kept = {**asdict(this.state), "stateful_callbacks": {}}
        self.task.checkpoints.save(
            step,
            (self.losses.first, tuple(self.losses.recent)),
            tensors_of(this.model, this.optimizer),
            {TRAINER_STATE: json.dumps(kept).encode()},
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: Any, model: Any = None) -> None:
        """With the optimizer, once both are where they will be."""

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        if checkpoint is None:
            return
        this: Any = self
        restore(self.task.checkpoints, Path(checkpoint), this.model, this.optimizer)
        scheduler = this.lr_scheduler
        scheduler.last_epoch = step = this.state.global_step
        scheduler._step_count = step + 1
        rates = [base * f(step) for base, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        scheduler._last_lr = rates
        for group, rate in zip(this.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: Any) -> None:
        """Each step draws its own."""

    def create_model_card(self, *other: Any, **more: Any) -> None:
        """Ours is written with the result."""


class _Tuning(_Ours, SFTTrainer):
    pass


class _Preferring(_Ours, DPOTrainer):
    pass


def arguments(task: Task, steps: int) -> dict[str, Any]:
    """For the configurations of both trainers."""
    stage, machine = task.stage, task.machine
    part = stage.at_once or stage.batch // machine.processes
    found: dict[str, Any] = {
        "output_dir": str(task.folder),
        "max_steps": steps,
        "per_device_train_batch_size": part,
        "gradient_accumulation_steps": stage.batch // (part * machine.processes),
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": stage.schedule,
        "warmup_steps": stage.warmup_steps,
        "weight_decay": stage.weight_decay,
        "max_grad_norm": stage.clip,
        "optim": "adamw_torch",
        "max_length": None,
        "bf16": machine.precision == "bf16",
        "fp16": False,
        "gradient_checkpointing": machine.recompute_activations,
        "use_cpu": machine.device == "cpu",
        "seed": task.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
        "log_level": "error",
        "dataloader_pin_memory": machine.device == "cuda",
    }
    if machine.processes > 1:
        found |= {"fsdp": True, "fsdp_config": {"version": 2}}
    return found


def train(task: Task, model: Any, reference: Any, tokenizer: Any) -> tuple[Outcome, Any]:
    """Train a stage from where it stands to its end, or until it is stopped; a checkpoint is there then.

    Args:
        task: the stage.
        model: as the stage begins; changed.
        reference: of dpo with full weights, the same once more.
        tokenizer: of transformers.

    Returns:
        The outcome, and the model as the trainer holds it.

    Raises:
        Diverged: the loss is not finite.
        SettingsError: the device is not there.
    """
    if task.machine.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError('device = "cuda", but torch finds no GPU here', hint='set device = "cpu"')
    steps, losses = task.data.steps(task.stage), Losses()
    order = task.data.order(task.stage, task.number, task.seed)
    tokens = _running(task, order)
    found = task.checkpoints.newest()
    if found is not None:
        losses.resume(found[1])
        if found[1].step == steps:
            return _ended(task, model, found[0], steps, losses, tokens)
    rows, watch = task.data.rows.select(order), _Watch(task, steps, losses, tokens)
    trainer: Any
    with quiet():
        if task.stage.kind == "dpo":
            beta = task.stage.beta or 0.1
            trainer = _Preferring(
                model=model,
                ref_model=reference,
                args=DPOConfig(**arguments(task, steps), beta=beta, disable_dropout=True),
                train_dataset=rows,
                processing_class=tokenizer,
                callbacks=[watch],
            )
        else:
            trainer = _Tuning(
                model=model,
                args=SFTConfig(**arguments(task, steps), packing=False),
                train_dataset=rows,
                processing_class=tokenizer,
                callbacks=[watch],
            )
        trainer.task, trainer.losses = task, losses
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(found[0]) if found is not None else None)
    step = int(trainer.state.global_step)
    return Outcome(step, steps, tokens[step], losses.first, losses.last), trainer.model


def _ended(
    task: Task, model: nn.Module, folder: Path, steps: int, losses: Losses, tokens: list[int]
) -> tuple[Outcome, Any]:
    """Of a stage whose last checkpoint is there and whose result is not: only the parameters are of use."""
    from tapestry.sovereign.saving import trained

    parameters = {f"parameter.{name}": each.detach() for name, each in trained(model)}
    task.checkpoints.load(folder, parameters)
    return Outcome(steps, steps, tokens[steps], losses.first, losses.last), model


def _running(task: Task, order: Any) -> list[int]:
    """Tokens trained on after each step."""
    lengths = task.data.lengths()[order].reshape(-1, task.stage.batch).sum(axis=1)
    found = [0]
    for each in lengths.tolist():
        found.append(found[-1] + int(each))
    return found


def whole(model: nn.Module, island: Island, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Parameters of which each rank has a part, whole and on the CPU; only at the rank that leads. All ranks
    together."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not wanted(name):
            continue
        value: Any = parameter.detach()
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        if island.lead:
            found[name] = value.cpu().contiguous()
    return found
