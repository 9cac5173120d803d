"""A build that is killed at random moments, with SIGKILL and all its processes, and run again each time."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Final

from benchmarks import preference_task as task
from benchmarks.machine import say, scratch
from benchmarks.report import Report, Settings
from benchmarks.sovereign_support import HEAD, build, dataset, digest, make_base, stage
from tapestry.host import processes
from tapestry.sovereign import launcher, recipe
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.status import Status

KILLS: Final = 10
LATE_S: Final = 0.33
NOT_SHOWN: Final = (
    "Cut power: the disk kept what the system had. Files are synced before they get their names.",
    "Several ranks, or a GPU: sums there may be taken in another order.",
)


def measure(settings: Settings) -> Report:
    report = Report(what="killed-build", title="Builds killed at random moments", not_shown=NOT_SHOWN)
    rows = []
    with scratch() as root:
        text = _recipe(root, settings.quick)
        began = time.monotonic()
        reference = build(root / "through", text)
        lasted = time.monotonic() - began
        say(f"killed_build: one that ran through took {lasted:.0f} s")
        for number in range(1 if settings.quick else settings.repeat or 3):
            home, moments = _killed(root / f"killed-{number}", text, 3 if settings.quick else KILLS, number)
            same = digest(home) == digest(reference)
            stages = [each.result for each in Lineage.load(home.lineage).stages]
            same = same and stages == [each.result for each in Lineage.load(reference.lineage).stages]
            rows.append((number, len(moments), "; ".join(moments), "the same" if same else "OTHERS"))
            say(f"killed_build: build {number}: {len(moments)} kills, {rows[-1][-1]}")
            shutil.rmtree(home.root)
    report.section(
        "Killed",
        "A build of three stages (all weights, then LoRA with dropout, then DPO with it), one thread. Each "
        "time all its processes are killed at a moment drawn at random: up to a third of a second after its "
        "status shows a step that is drawn from all its steps. Then it is run again. Bits of the model and "
        f"of every stage's result, against a build that ran through, which took {lasted:.0f} s.",
    )
    report.table(("build", "kills", "in stage, at step", "bits"), rows)
    if any(row[-1] != "the same" for row in rows):
        raise SystemExit("a killed build came to other bits")
    if any(row[1] < (3 if settings.quick else KILLS) for row in rows):
        raise SystemExit("a build ended before it was killed as often as wanted")
    return report


def _killed(root: Path, text: str, kills: int, seed: int) -> tuple[BuildHome, list[str]]:
    drawing, home = random.Random(seed), BuildHome(root)
    moments: list[str] = []
    root.mkdir(parents=True)
    home.recipe.write_text(text, encoding="utf-8")
    read = recipe.read(home.recipe)[0]
    steps = [stage.steps or 0 for stage in read.stage]
    for at in sorted(drawing.randrange(sum(steps)) for _ in range(kills)):
        home.status.unlink(missing_ok=True)
        child = launcher.launch(home, read.machine)
        _until(home, child, at, steps)
        time.sleep(drawing.uniform(0, LATE_S))
        if child.poll() is not None:
            break
        processes.kill_tree(child)
        status = Status.load(home.status) or Status()
        moments.append(f"{status.stage}, {status.step} ({status.phase})")
    return build(root, text), moments


def _until(home: BuildHome, child: processes.Child, at: int, steps: list[int]) -> None:
    """Until so many steps of all stages are done. Loading torch takes longer than all else; one kill in there
    is as good as another, and none is."""
    while child.poll() is None:
        status = Status.load(home.status)
        if status is not None and status.stage and sum(steps[: status.stage - 1]) + status.step >= at:
            return
        time.sleep(0.02)


def _recipe(root: Path, quick: bool) -> str:
    base = make_base(root / "base", seed=3, hidden=64, layers=2)
    train, steps = task.pairs("train", 400, 0), 20 if quick else 150
    common = {
        "batch": 8,
        "sequence_length": 128,
        "learning_rate": 1e-3,
        "checkpoint_steps": 10,
        "steps": steps,
    }
    folders = (
        dataset(root, "own", "private-cpt", task.text(100, 0)),
        dataset(root, "answers", "sft", task.answers(400, 0)),
        dataset(root, "pairs", "preference", [pair.row() for pair in train]),
    )
    lora = "lora = { rank = 4, alpha = 8.0, dropout = 0.1 }\n"
    made = HEAD.format(name="killed", base=base, cards=root / "cards", seed=7)
    made += stage("cpt", folders[0], **common)
    for kind, folder in zip(("sft", "dpo"), folders[1:], strict=True):
        made += stage(kind, folder, **common).replace('method = "full"\n', lora)
    return made
