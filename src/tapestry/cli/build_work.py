"""What `tapestry build` does: recipes written, builds started and watched, their state told."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.cli.failures import from_stderr
from tapestry.cli.output import emit_table, human_seconds, messages, short
from tapestry.errors import Busy, InputError, ProcessDied, RecipeError
from tapestry.host import files, processes
from tapestry.sovereign import launcher, recipe
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.recipe import Recipe
from tapestry.sovereign.status import Status

POLL_S: Final = 0.2
GRACE_S: Final = 60.0
"""For a last checkpoint, when it is interrupted."""
LOG: Final = "build.log"
KINDS: Final = {"cpt": "private pre-training", "sft": "instructions", "dpo": "preferences"}

# -- recipes --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a new recipe is asked for; data by kind of stage."""

    base: Path
    owner: str
    node: Path | None
    cards: Path
    residency: str | None
    name: str
    languages: tuple[str, ...]
    level: str
    licence: str
    data: Mapping[str, Path | None]
    constitution: Path | None


@dataclass(frozen=True)
class Written:
    path: Path
    recipe: Recipe


HEAD: Final = """\
# A sovereign build: what is made of a base, from which data, in which stages.
# Paths count from this folder. Every field: docs/guides/build-file.md
format = "tapestry.build"
version = 1

name = {name}
owner = {owner}            # the member who owns what comes out
level = {level}            # global, regional, national or entity
licence = {licence}        # of the derivative; mind the base's
languages = {languages}
base = {base}
{rights}
{constitution}
# template = "chat.jinja"  # how a talk is written; left out: the base's own, or a plain one; "none" for none
seed = 0

[machine]
threads = {threads}                # the same number gives the same bits
device = "cpu"             # or "cuda"
precision = "fp32"         # or "bf16"
processes = 1              # ranks that share the model (FSDP2); on a GPU machine one a GPU

# [gates]                  # figures of tapestry eval without which it is not released
# gain_over_base = 0.03
"""
STAGES: Final = {
    "cpt": """
[[stage]]                  # goes on reading: your text, which goes into nobody else's model
kind = "cpt"
data = {data}
method = "full"            # all weights; "lora" trains a small adapter
epochs = 1                 # or steps = 1000
learning_rate = 1e-4
warmup_steps = 10
batch = 8                  # windows of one step
sequence_length = {length}
checkpoint_steps = 100
""",
    "sft": """
[[stage]]                  # answers: {{"prompt": …, "completion": …}} or {{"messages": […]}}, one a line
kind = "sft"
data = {data}
method = "lora"
lora = {{ rank = 16, alpha = 32.0 }}
epochs = 2
learning_rate = 2e-4
batch = 8
sequence_length = {length}
""",
    "dpo": """
[[stage]]                  # pairs: {{"prompt": …, "chosen": …, "rejected": …}}, one a line
kind = "dpo"
data = {data}
method = "lora"
lora = {{ rank = 16, alpha = 32.0 }}
epochs = 1
learning_rate = 5e-5
beta = 0.1                 # how closely it keeps to what it was before this stage
batch = 8
sequence_length = {length}
""",
}


def write_recipe(folder: Path, wanted: Wanted) -> Written:
    """Make a build's folder with a recipe that parses.

    Raises:
        RecipeError: there is one, no data is named, or a value cannot be.
    """
    from tapestry.sovereign.models import require_base

    home = BuildHome(folder)
    if home.recipe.exists():
        raise RecipeError(f"there is a recipe in {folder} already", hint="change it, or name another folder")
    recipe.check_name(wanted.owner, "a member")
    recipe.check_name(wanted.name, "a derivative")
    require_base(wanted.base)
    data = _text(folder, wanted)
    made = recipe.parse(data, str(home.recipe))
    with files.full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.write_new(home.recipe, data)
    return Written(home.recipe, made)


def _text(folder: Path, wanted: Wanted) -> bytes:
    stages = {kind: path for kind, path in wanted.data.items() if path is not None}
    if not stages:
        raise RecipeError(
            "a build without data would be its base", hint="name some: --text, --examples or --pairs"
        )
    rights = [f"node = {_path(folder, wanted.node)}            # its cards, rules and protected topics hold"]
    if wanted.node is None:
        if wanted.residency is None:
            raise RecipeError(
                "without a node nobody says in which country this machine stands",
                hint="give --residency CC, or --node NODE_DIR",
            )
        rights = [f"cards = {_path(folder, wanted.cards)}", f"residency = {_quoted(wanted.residency)}"]
    constitution = '# constitution = "constitution.toml"  # what your community stands for'
    if wanted.constitution is not None:
        constitution = f"constitution = {_path(folder, wanted.constitution)}"
    head = HEAD.format(
        name=_quoted(wanted.name),
        owner=_quoted(wanted.owner),
        level=_quoted(wanted.level),
        licence=_quoted(wanted.licence),
        languages="[" + ", ".join(map(_quoted, wanted.languages)) + "]",
        base=_path(folder, wanted.base),
        rights="\n".join(rights),
        constitution=constitution,
        threads=min(os.cpu_count() or 1, 16),
    )
    length = min(512, _positions(wanted.base))
    parts = [STAGES[kind].format(data=_path(folder, path), length=length) for kind, path in stages.items()]
    return (head + "".join(parts)).encode()


def _positions(base: Path) -> int:
    """Tokens that the base can look at."""
    try:
        found = json.loads(files.read_limited(base / "config.json", 1 << 20)).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return 512
    return found if isinstance(found, int) and found >= 8 else 512


def _path(folder: Path, path: Path | None) -> str:
    """As seen from the build's folder."""
    if path is None:
        return '""'
    near = os.path.relpath(path.expanduser().absolute(), folder.absolute())
    return _quoted(near)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# -- runs -----------------------------------------------------------------------------------------


def run(folder: Path, *, again: bool = False) -> State:
    """Run a build to its end and show a bar meanwhile; one that is done is told as it is.

    Raises what the build does.
    """
    home = BuildHome(folder.absolute())
    read, _ = recipe.read(home.recipe)
    before = state(folder)
    if before.done:
        return before
    if again and before.lineage is None:
        raise InputError(
            f"the build in {folder} has not begun", hint=f"begin it: tapestry build run {folder}"
        )
    if before.running:
        raise Busy(
            f"the build in {folder} is running already", hint=f"look at it: tapestry build status {folder}"
        )
    with suppress(FileNotFoundError):
        home.status.unlink()
    log = home.root / LOG
    began = log.stat().st_size if log.exists() else 0
    child = launcher.launch(home, read.machine)
    try:
        with _bar(len(read.stage)) as tell:
            while child.poll() is None:
                tell(Status.load(home.status))
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        messages().print("stopping after a last checkpoint")
        processes.kill_tree(child, grace_s=GRACE_S)
        raise
    finally:
        processes.kill_tree(child)
    return _ended(folder, child.returncode, began)


def _ended(folder: Path, code: int, began: int) -> State:
    found = state(folder)
    if found.status is not None and found.status.fault is not None:
        raise found.status.fault.error()
    if code == 0 and found.done:
        return found
    if code == 0:
        raise InputError(f"the build in {folder} was stopped", hint=f"tapestry build resume {folder}")
    log = folder / LOG
    raise from_stderr(log, began) or ProcessDied(
        f"the process of the build in {folder} ended with code {code}",
        hint=f"what it said is in {log}; go on with: tapestry build resume {folder}",
    )


@contextmanager
def _bar(stages: int) -> Iterator[Any]:
    """A bar on stderr, with loss and time left."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=messages(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("starting", said="", total=1)

        def tell(status: Status | None) -> None:
            if status is not None:
                name = f"stage {status.stage} of {stages}, {KINDS.get(status.kind, '')}"
                bar.update(
                    task,
                    description=name if status.phase == "training" else f"{name}: {status.phase}",
                    completed=status.step,
                    total=status.steps or 1,
                    said=_said(status),
                )

        yield tell


def _said(status: Status) -> str:
    parts = [f"step {status.step} of {status.steps}"] if status.steps else []
    if status.loss is not None:
        parts.append(f"loss {status.loss:.3f}")
    if status.seconds_left is not None:
        parts.append(f"{human_seconds(status.seconds_left)} left")
    return ", ".join(parts)


# -- state ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Of a build, as its files tell it."""

    home: BuildHome
    recipe: Recipe
    status: Status | None
    lineage: Lineage | None

    @property
    def done(self) -> bool:
        return self.lineage is not None and self.lineage.weights is not None

    @property
    def running(self) -> bool:
        return self.status is not None and self.status.pid > 0 and _held(self.home)

    @property
    def phase(self) -> str:
        if self.done:
            return "done"
        if self.running and self.status is not None:
            return self.status.phase
        if self.status is not None and self.status.phase in ("failed", "stopped"):
            return self.status.phase
        return "stopped" if self.lineage is not None else "not begun"

    def as_json(self) -> dict[str, Any]:
        status, made = self.status, self.lineage
        return {
            "build": str(self.home.root),
            "name": self.recipe.name,
            "owner": self.recipe.owner,
            "phase": self.phase,
            "stage": status.stage if status is not None else 0,
            "stages": len(self.recipe.stage),
            "step": status.step if status is not None else 0,
            "steps": status.steps if status is not None else 0,
            "loss": status.loss if status is not None else None,
            "seconds_left": status.seconds_left if status is not None and self.running else None,
            "isolation": status.isolation if status is not None else None,
            "error": status.fault.model_dump() if status is not None and status.fault is not None else None,
            "notes": self.notes(),
            "model": str(self.home.model) if self.done else None,
            "adapter": str(self.home.adapter) if made is not None and made.adapter else None,
            "weights": made.weights if made is not None else None,
            "done": [each.model_dump(mode="json") for each in made.stages] if made is not None else [],
        }

    def pairs(self) -> list[tuple[str, Any]]:
        status = self.status
        found: list[tuple[str, Any]] = [
            ("build", f"{self.recipe.name}, of {self.recipe.owner}"),
            ("phase", self.phase),
        ]
        if not self.done and status is not None and status.stage:
            found.append(("stage", f"{status.stage} of {len(self.recipe.stage)}, {KINDS[status.kind]}"))
            found.append(("progress", _said(status) or None))
        if self.phase == "failed" and status is not None and status.fault is not None:
            found.append(("error", status.fault.message))
        if self.done and self.lineage is not None:
            found.append(("model", self.home.model))
            if self.lineage.adapter:
                found.append(("adapter", self.home.adapter))
            found.append(("weights", short(self.lineage.weights)))
        return found

    def print_stages(self) -> None:
        if self.lineage is None or not self.lineage.stages:
            return
        rows = [
            (
                KINDS.get(each.kind, each.kind),
                each.method,
                ", ".join(one.name for one in each.datasets),
                each.withheld,
                each.steps,
                f"{each.tokens:,}",
                f"{_loss(each.loss_first)} – {_loss(each.loss_last)}",
            )
            for each in self.lineage.stages
        ]
        columns = ("stage", "method", "datasets", "withheld", "steps", "tokens", "loss")
        emit_table(columns, rows, right=("withheld", "steps", "tokens"))

    def notes(self) -> list[str]:
        return list(self.status.notes) if self.status is not None else []


def _loss(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "-"


def state(folder: Path) -> State:
    """Raises `RecipeError` where there is no build."""
    home = BuildHome(folder.absolute())
    read, _ = recipe.read(home.recipe)
    made = Lineage.load(home.lineage) if home.lineage.exists() else None
    return State(home, read, Status.load(home.status), made)


def _held(home: BuildHome) -> bool:
    """Whether a process holds the build."""
    lock = home.lock
    try:
        lock.acquire()
    except Busy:
        return True
    lock.release()
    return False
