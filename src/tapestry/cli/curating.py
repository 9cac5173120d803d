"""`tapestry catalog curate`: a folder of text through the steps of curation into another folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.cli.output import counted, emit_table, human_bytes, note

if TYPE_CHECKING:
    from tapestry.catalog.protected import Protected
    from tapestry.curation.contamination import Evaluation
    from tapestry.curation.pipeline import Given, Pipeline
    from tapestry.curation.settings import CurationSettings
    from tapestry.training.corpus import TextFile

REPORT: Final = "curation.json"
MAX_DOCUMENT_BYTES: Final = 8 << 20
"""A document is in memory as a whole, and several times."""
SHOWN: Final = 100
"""Characters of a document that `--show` prints."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command was given.

    Args:
        out: None where nothing is to be written.
        show: print the beginning of documents that were found.
    """

    folder: Path
    out: Path | None
    languages: tuple[str, ...]
    evaluation: Path | None
    settings: Path | None
    home: Path | None
    processes: int | None
    show: bool


def curate(asked: Asked) -> dict[str, Any]:
    """Do it all; what `--json` prints.

    Raises:
        Conflict: the folder to write is there already.
        CorpusError, SettingsError, InputError, ProcessDied: of text, settings, arguments, processes.
        DiskFull: no space; nothing was written.
    """
    from tapestry.curation.pipeline import Pipeline
    from tapestry.curation.report import lineage, report
    from tapestry.curation.stages import Request
    from tapestry.errors import Conflict
    from tapestry.host import files
    from tapestry.training.rights import parse_protected, protected_data

    if asked.out is not None and asked.out.exists():
        raise Conflict(f"{asked.out} is there already", hint="name a folder that is not, or remove it")
    settings, found = _settings(asked.settings), _files(asked.folder)
    data = protected_data(asked.home) if asked.home is not None else b""
    protected = parse_protected(asked.home, data) if asked.home is not None else None
    place = (asked.out or Path(tempfile.gettempdir()) / "tapestry").absolute().parent
    with ExitStack() as stack:
        scratch = stack.enter_context(_scratch(place))
        stack.enter_context(files.full_disk(asked.out or place))
        evaluation = _evaluation(asked.evaluation, settings, scratch)
        request = Request(
            settings=settings,
            languages=asked.languages,
            protected=data,
            evaluation=evaluation,
            scratch=scratch,
        )
        processes = asked.processes or min(len(os.sched_getaffinity(0)), 16)
        pipeline = Pipeline(request, processes)
        made = scratch / "made"
        made.mkdir(mode=0o755)
        begins = _write(pipeline, found, protected, made, asked)
        told = report(pipeline, _notes(asked, pipeline, evaluation))
        if asked.out is not None:
            (made / REPORT).write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
            (made / "lineage.json").write_bytes(lineage(pipeline).to_bytes())
            files.publish_dir(made, asked.out.absolute())
    for step in told["steps"] if asked.show else ():
        for each in step["examples"]:
            note(f"{step['name']}, {each['why']}, {each['document']}: {begins.get(each['document'], '')}")
    return told


def _settings(path: Path | None) -> CurationSettings:
    from tapestry.curation.settings import MAX_SETTINGS_BYTES, CurationSettings
    from tapestry.errors import SettingsError, TapestryError
    from tapestry.host import files

    if path is None:
        return CurationSettings()
    try:
        data = files.read_limited(path, MAX_SETTINGS_BYTES)
    except (OSError, TapestryError) as e:
        raise SettingsError(f"{path} cannot be read: {e}", hint="see docs/guides/curation.md") from e
    return CurationSettings.parse(data, str(path))


def _files(folder: Path) -> list[TextFile]:
    """In order, train before valid as they will be written, so that one content hash holds for both."""
    from tapestry.errors import InputError
    from tapestry.training.corpus import find_files

    found = find_files(folder)
    if [file.split for file in found] != sorted(file.split for file in found):
        raise InputError(
            f"in {folder} files of the valid split come before those of train",
            hint="let all their names begin with train and valid in small letters",
        )
    return found


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    from tapestry.host import files

    with files.full_disk(beside):
        beside.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".curate-", dir=beside))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _evaluation(folder: Path | None, settings: CurationSettings, scratch: Path) -> Evaluation | None:
    """Hashes of every text file in a folder, of whatever split."""
    from tapestry.curation.contamination import Evaluation
    from tapestry.errors import CorpusError
    from tapestry.training.documents import documents, format_of

    if folder is None:
        return None
    found = sorted(path for path in folder.rglob("*") if path.is_file() and format_of(path) is not None)
    if not found:
        raise CorpusError(
            f"{folder} holds no evaluation sets", hint="put .jsonl, .txt or .parquet files with `text` there"
        )
    texts = (text for path in found for text in map(_whole(path), documents(path)))
    return Evaluation.of(texts, settings.contamination, scratch)


def _whole(path: Path) -> Callable[[Any], str]:
    from tapestry.errors import CorpusError

    def joined(pieces: Any) -> str:
        found, size = [], 0
        for piece in pieces:
            found.append(piece)
            size += len(piece)
            if size > MAX_DOCUMENT_BYTES:
                raise CorpusError(
                    f"{path} has a document of more than {MAX_DOCUMENT_BYTES} letters",
                    hint="split it into documents, one a line of a .jsonl file",
                )
        return "".join(found)

    return joined


def _given(found: list[TextFile], protected: Protected | None) -> Iterator[Given]:
    from tapestry.curation.pipeline import Given
    from tapestry.training.documents import documents

    for file in found:
        held = protected.file_holding(file.name) if protected is not None else None
        for text in map(_whole(file.path), documents(file.path)):
            if text:
                yield Given(file.name, text, held)


def _write(
    pipeline: Pipeline, found: list[TextFile], protected: Protected | None, made: Path, asked: Asked
) -> dict[str, str]:
    """Put what stays into files, unless nothing is to be written. With `show` the beginnings of examples."""
    from tapestry.errors import CorpusError

    total = sum(file.path.stat().st_size for file in found)
    split_of = {file.name: file.split for file in found}
    begins: dict[str, str] = {}
    number, before, examples = 0, "", 0
    left = {"train": 0, "valid": 0}
    with ExitStack() as stack:
        tell = stack.enter_context(counted(f"curating {asked.folder}"))
        out = {
            split: stack.enter_context((made / f"{split}.jsonl").open("w", encoding="utf-8"))
            for split in ("train", "valid")
        }
        for given, text in pipeline.run(_given(found, protected)):
            number, before = (number + 1 if given.file == before else 1), given.file
            known, examples = examples, sum(len(told.examples) for told in pipeline.told)
            if asked.show and examples > known:
                begins[f"{given.file}:{number}"] = " ".join(given.text[:SHOWN].split())
            if text is not None:
                left[split_of[given.file]] += 1
            if text is not None and asked.out is not None:
                out[split_of[given.file]].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            tell(min(pipeline.before.bytes, total), total)
    if asked.out is not None and (none := [split for split, count in left.items() if not count]):
        raise CorpusError(
            f"of the {none[0]} documents in {asked.folder} none is left",
            hint="see why with --report-only, and mend --language or --settings",
        )
    return begins


def _notes(asked: Asked, pipeline: Pipeline, evaluation: Evaluation | None) -> list[str]:
    from tapestry.curation.language import Language

    found = []
    for told in pipeline.told:
        step = told.stage.step
        if isinstance(step, Language) and step.unknown:
            unknown = ", ".join(step.unknown)
            found.append(f"the detector does not know {unknown}: no document was judged by its language")
    if evaluation is not None and evaluation.too_short:
        found.append(
            f"{evaluation.too_short} of {evaluation.documents} evaluation documents are too short to look for"
        )
    if evaluation is None:
        found.append("nothing was held against evaluation sets: give them with --evaluation")
    if asked.home is None:
        found.append("no protected.toml was applied: name the node with --home")
    elif not any(told.stage.step.name == "protected" for told in pipeline.told):
        found.append(f"nothing was protected: {asked.home} has no protected.toml")
    return found


def print_report(told: dict[str, Any]) -> None:
    """For people: a line a step, and a line a language."""
    before, rows = told["source"], []
    for step in told["steps"]:
        after = step["after"]
        rows.append(
            (
                step["name"],
                before["documents"],
                before["documents"] - after["documents"],
                human_bytes(after["bytes"]),
                ", ".join(f"{why} {count}" for why, count in step["reasons"].items()) or None,
                ", ".join(f"{what} {count}" for what, count in step["counts"].items()) or None,
            )
        )
        before = after
    emit_table(
        ("step", "documents", "left out", "text after", "because of", "found"),
        rows,
        right=("documents", "left out", "text after"),
    )
    names = [step["name"] for step in told["steps"]]
    emit_table(
        ("language", "documents", "kept", *names),
        [
            (
                language,
                each["documents"],
                each["kept"],
                *(step["languages"].get(language, 0) for step in told["steps"]),
            )
            for language, each in told["languages"].items()
        ],
        right=("documents", "kept", *names),
    )
    for line in told["notes"]:
        note(f"note: {line}")
