"""`tapestry build constitution`: a member's values as a file that its own people read and edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_table, note

if TYPE_CHECKING:
    from tapestry.sovereign.constitution import Constitution
    from tapestry.sovereign.coverage import Contradiction, Covered

app = typer.Typer(
    help="A constitution: values as a file that keeps text out of training and judges answers.",
    no_args_is_help=True,
)
ConstitutionFile = Annotated[Path, typer.Argument(metavar="FILE", help="Constitution (TOML).")]


@app.command()
def init(file: ConstitutionFile, as_json: Json = False) -> None:
    """Write a constitution to begin with: one entry of each kind, with comments. Nothing in it is prescribed.

    Example: tapestry build constitution init constitution.toml
    """
    from tapestry.errors import InputError
    from tapestry.host import files
    from tapestry.sovereign.starting import starting

    if file.exists():
        raise InputError(f"{file} exists", hint="give another name; nothing is written over")
    try:
        files.write_atomic(file, starting())
    except FileNotFoundError as e:
        raise InputError(f"the folder of {file} does not exist", hint="make it first") from e
    if as_json:
        emit_json({"file": str(file)})
        return
    emit_line(str(file))
    note(f"change every entry into your own; then: tapestry build constitution check {file}")


@app.command()
def check(
    file: ConstitutionFile,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Text: count the documents that each entry would keep out of training."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a constitution covers, and where it contradicts itself. Contradictions are an error.

    Example: tapestry build constitution check examples/constitution.toml
    """
    from tapestry.errors import ConstitutionError
    from tapestry.sovereign import coverage
    from tapestry.sovereign.constitution import Constitution

    constitution = Constitution.load(file)
    counts = total = None
    if data is not None:
        counts, total = coverage.kept_out(constitution, _documents(data))
    rows = coverage.coverage(constitution, counts)
    found = coverage.contradictions(constitution)
    if as_json:
        emit_json(_as_json(constitution, rows, found, total))
    else:
        _print(constitution, rows, total)
        for each in found[1:]:
            note(f"also: {each.id}: {each.said}; {each.way_out}")
    if found:
        raise ConstitutionError(f"{file}: {found[0].id}: {found[0].said}", hint=found[0].way_out)


@app.command()
def pairs(
    file: ConstitutionFile,
    model: Annotated[Path, typer.Option(metavar="DIR", help="The member's own model, which answers.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the pairs go, one a line.")],
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Further prompts, one a line as {"prompt": "..."}.'),
    ] = None,
    answers: Annotated[int, typer.Option(min=2, max=64, help="Drawn for each prompt.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, max=4096, help="Of an answer, at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.01, max=5.0, help="Of the drawing.")] = 0.9,
    seed: Annotated[int, typer.Option(min=0, max=2**40, help="Of the drawing.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the processor.")] = 2,
    as_json: Json = False,
) -> None:
    """Preference pairs from the member's own model: it answers several times, the constitution judges.

    An answer that breaks nothing is chosen over one that does. The pairs are data to train on (stage
    preference): read some before you do.

    Example: tapestry build constitution pairs constitution.toml --model ./build/model --out pairs.jsonl
    """
    import json

    from tapestry.errors import ConstitutionError
    from tapestry.host import files
    from tapestry.sovereign import preferring
    from tapestry.sovereign.constitution import Constitution
    from tapestry.sovereign.coverage import contradictions
    from tapestry.sovereign.evaluation.candidate import Candidate
    from tapestry.training.machine import configure

    constitution = Constitution.load(file)
    if found := contradictions(constitution):
        raise ConstitutionError(
            f"{file} contradicts itself: {found[0].id}: {found[0].said}",
            hint=f"mend it first: tapestry build constitution check {file}",
        )
    further = _prompts(prompts) if prompts is not None else []
    configure(threads)
    made = preferring.make(
        constitution,
        Candidate("model", model),
        further,
        answers=answers,
        tokens=tokens,
        temperature=temperature,
        seed=seed,
    )
    lines = (
        json.dumps(
            {"prompt": each.prompt, "chosen": each.chosen, "rejected": each.rejected}, ensure_ascii=False
        )
        for each in made.pairs
    )
    files.write_atomic(out, "".join(line + "\n" for line in lines).encode())
    if as_json:
        told = {"pairs": len(made.pairs), "prompts": made.prompts, "sampled": made.sampled}
        told |= {"all_kept": made.all_kept, "none_kept": made.none_kept, "from_examples": made.from_examples}
        emit_json({**told, "file": str(out), "constitution": constitution.digest})
        return
    emit_line(str(out))
    note(
        f"{len(made.pairs)} pairs from {made.prompts} prompts ({made.from_examples} of them examples of the "
        f"file); "
        f"{made.all_kept} prompts had no bad answer, {made.none_kept} no good one"
    )


def _prompts(path: Path) -> list[str]:
    from tapestry.sovereign.evaluation import given

    return [each.prompt for each in given.prompts(path)]


def _documents(folder: Path) -> Iterator[Iterable[str]]:
    from tapestry.errors import CorpusError
    from tapestry.training.corpus import find_files
    from tapestry.training.documents import documents

    found = find_files(folder, ())
    if not found:
        raise CorpusError(
            f"{folder} has no text", hint="see docs/guides/corpora.md for what a folder of text is"
        )
    for file in found:
        yield from documents(file.path)


def _print(constitution: Constitution, rows: list[Covered], total: int | None) -> None:
    columns = ["entry", "kind", "good", "bad", "prompts", "checked", "missing"]
    if total is not None:
        columns.insert(6, "keeps out")
    emit_line(constitution.digest)
    emit_table(
        columns,
        (
            (
                *(each.id, each.kind, each.good, each.bad, each.prompts, "yes" if each.checked else "no"),
                *([each.kept_out] if total is not None else []),
                ", ".join(each.missing) or None,
            )
            for each in rows
        ),
        right=("good", "bad", "prompts", "keeps out"),
    )
    if total is not None:
        out = sum(each.kept_out or 0 for each in rows)
        note(f"{out} of {total} documents would be kept out; what several entries name counts for the first")
    if words := [each.id for each in rows if not each.checked]:
        note(f"no program checks: {', '.join(words)}; people have to")


def _as_json(
    constitution: Constitution, rows: list[Covered], found: list[Contradiction], total: int | None
) -> dict[str, object]:
    return {
        "constitution": constitution.digest,
        "title": constitution.file.title,
        "languages": list(constitution.file.languages),
        "entries": [
            {
                "id": each.id,
                "kind": each.kind,
                "good": each.good,
                "bad": each.bad,
                "prompts": each.prompts,
                "checked": each.checked,
                "missing": list(each.missing),
                "kept_out": each.kept_out,
            }
            for each in rows
        ],
        "documents": total,
        "contradictions": [{"id": each.id, "said": each.said, "way_out": each.way_out} for each in found],
    }
