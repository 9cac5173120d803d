"""`python -m tapestry.cli.evaluating`: what `tapestry eval` does, in a process of its own without a network.

It reads a `Job` from standard input, writes report.json and report.html, and says on standard error what it
does and what went wrong, as the command itself would.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from tapestry.protocol.message import Part

Role = Literal["model", "base", "previous", "alone"]


class Job(Part):
    """Paths are absolute; `build` is the folder of the one that `model` is of."""

    models: dict[Role, str]
    build: str | None = None
    node: str | None
    texts: dict[str, str]
    trained: str | None
    tasks: tuple[str, ...]
    task_names: tuple[str, ...]
    pairs: str | None
    instructions: str | None
    survey: str | None
    constitution: str | None
    gates: str | None
    out: str
    max_bytes: int
    answer_tokens: int
    limit: int | None
    resamples: int
    seed: int
    threads: int
    device: Literal["cpu", "cuda"]


def in_a_process(job: Job) -> int:
    """Run it without a network, as far as the kernel lets us; its exit code. It dies with this process."""
    command = [sys.executable, "-P", "-m", "tapestry.host.exec", "--parent", str(os.getpid()), "--isolate"]
    command += ["--", sys.executable, "-P", "-m", "tapestry.cli.evaluating"]
    told = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    data = job.model_dump_json().encode()
    done = subprocess.run(
        command, input=data, check=False, env={**os.environ, **told}, stdout=subprocess.DEVNULL
    )
    return done.returncode if done.returncode >= 0 else 1


def run(job: Job) -> None:
    """The report of a job, written into its folder."""
    from tapestry.cli.output import note
    from tapestry.host import files
    from tapestry.sovereign.evaluation.page import page
    from tapestry.sovereign.evaluation.work import evaluate
    from tapestry.training.machine import configure

    configure(job.threads)
    report = evaluate(_asked(job), note if sys.stderr.isatty() else lambda _: None)
    out = Path(job.out)
    with files.full_disk(out):
        out.mkdir(parents=True, exist_ok=True)
    files.write_atomic(out / "report.html", page(report))
    files.write_atomic(out / "report.json", report.to_bytes())


def _asked(job: Job) -> Any:
    from tapestry.sovereign.evaluation import texts
    from tapestry.sovereign.evaluation.report import Data
    from tapestry.sovereign.evaluation.work import Asked
    from tapestry.sovereign.gates import Gates
    from tapestry.training.corpus import manifest_of

    found: list[texts.Text] = []
    data: list[Data] = []
    for language, folder in job.texts.items():
        held = texts.files_of(Path(folder))
        found.append(texts.read(language, held, job.max_bytes, None))
        data.append(Data(kind="text", name=language, sha256=_digest(manifest_of(held)), card=None))
    given: dict[str, Any] = {}
    if job.node is not None:
        given = _of_node(Path(job.node), job, found, data)
    if job.trained is not None:
        given["trained"] = Path(job.trained)
    return Asked(
        models={role: Path(folder) for role, folder in job.models.items()},
        texts=tuple(found),
        constitution=_path(job.constitution),
        instructions=_path(job.instructions),
        pairs=_path(job.pairs),
        survey=_path(job.survey),
        tasks=tuple(map(Path, job.tasks)),
        task_names=job.task_names,
        gates=None if job.gates is None else Gates.load(Path(job.gates)),
        data=tuple(data),
        training=_training(job, given.get("trained")),
        seed=job.seed,
        resamples=job.resamples,
        answer_tokens=job.answer_tokens,
        task_limit=job.limit,
        device=job.device,
        **given,
    )


def _training(job: Job, trained: Path | None) -> Any:
    """Text that the model was trained on, of its build and as it was named; None where neither is known."""
    from tapestry.sovereign.evaluation.seen import Training, of_build, of_folder

    if job.build is None and trained is None:
        return None
    found = of_build(Path(job.build)) if job.build is not None else Training()
    return found + of_folder(trained) if trained is not None else found


def _of_node(root: Path, job: Job, found: list[Any], data: list[Any]) -> dict[str, Any]:
    """Held-out text by its cards' languages, if they permit evaluation; training text and canaries."""
    from tapestry.errors import EvaluationError
    from tapestry.node import canaries
    from tapestry.node.home import Home
    from tapestry.sovereign.evaluation import texts
    from tapestry.sovereign.evaluation.report import Data
    from tapestry.training.corpus import TextFile
    from tapestry.training.home import TrainerHome
    from tapestry.training.leakage.measure import Canary
    from tapestry.training.rights import Rights, protected_of, today
    from tapestry.training.settings import TrainerSettings

    settings = TrainerSettings.load(root)
    folder, protected = settings.corpus_path(root), protected_of(root)
    admitted = Rights(TrainerHome(root), settings).admit("evaluation", today())
    held = {file.name: file for file in texts.files_of(folder)}
    by_language: dict[str, list[TextFile]] = {}
    for each in admitted.cards:
        language = each.card.languages[0]
        some = [held[file.path] for file in each.card.files if file.path in held]
        by_language.setdefault(language, []).extend(some)
        data.append(Data(kind="text", name=each.card.name, sha256=each.card.content.root, card=each.digest))
    for language, files in by_language.items():
        if language in job.texts:
            raise EvaluationError(
                f"--texts and the node both have text of {language}",
                hint="leave that language out of --texts",
            )
        if files:
            found.append(texts.read(language, files, job.max_bytes, protected))
    given: dict[str, Any] = {"trained": folder, "protected": protected}
    planted = canaries.load(Home(root))
    if planted is not None and planted.planted:
        numbers = range(0, planted.planted, max(1, planted.planted // 16))
        given["canaries"] = tuple(Canary(*planted.parts(number)) for number in list(numbers)[:16])
        given["canary_alphabet"] = canaries.WORD_ALPHABET
    return given


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _digest(data: bytes) -> str:
    from tapestry.protocol.canonical import sha256

    return sha256(data)


def main() -> int:
    """Of the process."""
    from tapestry.cli import failures

    try:
        run(Job.model_validate_json(sys.stdin.buffer.read()))
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - as the command line itself
        return failures.report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
