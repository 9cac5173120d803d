"""`tapestry eval`: a model beside what it came from, on the same texts and prompts; one report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_table, note

if TYPE_CHECKING:
    from tapestry.cli.evaluating import Role
    from tapestry.protocol.leakage import Interval
    from tapestry.sovereign.evaluation.report import EvaluationReport, Measure

Folder = Path | None
File = Path | None
_DIR = {"metavar": "DIR"}


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory, or a finished build.")],
    base: Annotated[Folder, typer.Option(metavar="DIR", help="The base it stands on.")] = None,
    previous: Annotated[Folder, typer.Option(metavar="DIR", help="The build before it.")] = None,
    alone: Annotated[
        Folder, typer.Option(metavar="DIR", help="A model trained on the member's own text alone.")
    ] = None,
    node: Annotated[
        Folder,
        typer.Option(
            metavar="HOME",
            help="A node: its held-out text by language, its training text and its canaries. Its cards must "
            "permit the stage evaluation.",
        ),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(metavar="LANG=DIR", help="Held-out text: a folder with valid.txt or valid.jsonl."),
    ] = None,
    trained: Annotated[
        Folder,
        typer.Option(metavar="DIR", help="Training text, to look for what the model says word by word."),
    ] = None,
    tasks: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Tasks of lm-evaluation-harness: YAML with the data beside it."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="These tasks only, or tasks of the harness itself."),
    ] = None,
    pairs: Annotated[
        File, typer.Option(metavar="FILE", help="Held-out pairs: prompt, chosen, rejected.")
    ] = None,
    instructions: Annotated[
        File, typer.Option(metavar="FILE", help="Prompts with checks of the answer.")
    ] = None,
    survey: Annotated[
        File, typer.Option(metavar="FILE", help="Questions with the answers of communities.")
    ] = None,
    constitution: Annotated[File, typer.Option(metavar="FILE", help="The member's constitution.")] = None,
    gates: Annotated[
        File,
        typer.Option(
            metavar="FILE",
            help="TOML with release gates. [dim]Default: the table gates of a build's recipe[/dim]",
        ),
    ] = None,
    out: Annotated[
        Folder,
        typer.Option(
            metavar="DIR", help="For report.json and report.html. [dim]Default: eval/ of a build[/dim]"
        ),
    ] = None,
    max_bytes: Annotated[
        int, typer.Option(min=1000, max=1 << 30, help="Held-out text of each language, at most.")
    ] = 1_000_000,
    answer_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Of an answer, at most.")] = 128,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each task, at most.")] = None,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="For intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**40, help="Of everything that is drawn.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the processor.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Evaluate a model against its base, the build before and training alone; write report.json, report.html.

    Only what is given is measured. Models are opened in a process without a network, from safetensors, as
    architectures of a closed list. With gates that are not met the command fails, once the report is written.

    Example: tapestry eval ./build --base ./base --texts fr=./corpora/fr --constitution constitution.toml
    """
    import tempfile

    from tapestry.cli.evaluating import Job, in_a_process
    from tapestry.errors import InputError
    from tapestry.sovereign import gates as bounds
    from tapestry.sovereign.evaluation.report import EvaluationReport
    from tapestry.sovereign.home import BuildHome

    if device not in ("cpu", "cuda"):
        raise InputError(
            f"--device {device[:40]!r} is neither cpu nor cuda", hint="leave it out, and the CPU computes"
        )
    home = BuildHome(model)
    built = home.lineage.is_file() and (home.model / "config.json").is_file()
    roles: dict[Role, Path | None] = {
        "model": home.model if built else model,
        "base": base,
        "previous": previous,
        "alone": alone,
    }
    if gates is None and built and bounds.stated(home.recipe):
        gates = home.recipe
    with tempfile.TemporaryDirectory(prefix="tapestry-eval-") as scratch:
        place = out or (home.evaluation if built else Path(scratch))
        job = Job(
            models={role: str(folder.absolute()) for role, folder in roles.items() if folder is not None},
            build=_told(model if built else None),
            node=_told(node),
            texts=_texts(texts or []),
            trained=_told(trained),
            tasks=tuple(str(each.absolute()) for each in tasks or ()),
            task_names=tuple(task or ()),
            pairs=_told(pairs),
            instructions=_told(instructions),
            survey=_told(survey),
            constitution=_told(constitution),
            gates=_told(gates),
            out=str(place.absolute()),
            max_bytes=max_bytes,
            answer_tokens=answer_tokens,
            limit=limit,
            resamples=resamples,
            seed=seed,
            threads=threads,
            device=device,  # type: ignore[arg-type]
        )
        if code := in_a_process(job):
            raise typer.Exit(code)
        report = EvaluationReport.from_bytes((place / "report.json").read_bytes())
    kept = out or (home.evaluation if built else None)
    if as_json:
        emit_json(report.model_dump(mode="json"))
    else:
        _print(report, kept)
    bounds.refuse(report.unmet)


def _told(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _texts(given: list[str]) -> dict[str, str]:
    import re

    from tapestry.catalog.words import LANGUAGE_PATTERN
    from tapestry.errors import InputError

    found: dict[str, str] = {}
    for each in given:
        language, _, folder = each.partition("=")
        if not folder or not re.fullmatch(LANGUAGE_PATTERN, language):
            raise InputError(
                f"--texts {each[:80]!r} does not say a language and a folder",
                hint="as in --texts fr=./corpora/fr",
            )
        if language in found:
            raise InputError(f"--texts names {language} twice", hint="give one folder for each language")
        found[language] = str(Path(folder).absolute())
    return found


def _print(report: EvaluationReport, kept: Path | None) -> None:
    from tapestry.sovereign.evaluation.look import MEASURES, ROLES

    changes = {(each.measure, each.part, each.over): each.value for each in report.changes}
    rows = []
    for each in report.figures:
        change = None if each.role == "model" else changes.get((each.measure, each.part, each.role))
        rows.append(
            (
                MEASURES[each.measure].title,
                each.part or "all",
                ROLES[each.role],
                each.count,
                _figure(each.value),
                None if change is None else _moved(change, each.measure),
            )
        )
    emit_table(("measure", "of", "model", "over", "figure", "this build against it"), rows, right=("over",))
    for one in report.notes:
        note(one)
    if kept is not None:
        emit_line(str(kept / "report.html"))
    else:
        note("nothing was kept; give --out DIR for report.json and report.html")


def _figure(one: Interval) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _moved(one: Interval, measure: Measure) -> str:
    if measure == "bits-per-byte":
        return f"{100 * one.value:+.1f} % ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
