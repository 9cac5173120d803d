"""Tasks of lm-evaluation-harness, from files that lie here. Needs `lm_eval`, which is heavy: an extra.

A folder of tasks holds YAML as the harness reads it and the data it names. Tasks of a folder are data: a YAML
that asks for Python (`!function`, `class`) or for a dataset that is not a file beside it is refused, and
their templates are rendered in a sandbox. The harness's own tasks, by name, are its own code; they run where
their data is on this machine already.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tapestry.errors import EvaluationError
from tapestry.host import files
from tapestry.sovereign.evaluation.candidate import Candidate
from tapestry.sovereign.evaluation.outcome import Outcome
from tapestry.sovereign.evaluation.report import Data

FILES: Final = frozenset({"json", "csv", "parquet", "text"})
"""What `dataset_path` may be: readers of files."""
MAX_YAML: Final = 1 << 20
MAX_TOKENS: Final = 256
HINT: Final = "see docs/guides/evaluation.md; a folder of tasks holds YAML and the .jsonl that it names"
MISSING: Final = (
    "install it beside Tapestry: pip install 'tapestry[harness]' (make harness makes an environment for "
    "it), or leave --tasks and --task out"
)
ENDINGS: Final = (".yaml", ".yml")
_ASKS_FOR_CODE: Final = frozenset({"class", "custom_dataset", "unsafe_code"})
_CODE: Final = re.compile(r"(^|\s)!\w|^\s*(class|custom_dataset|unsafe_code)\s*:", re.MULTILINE)


@dataclass(frozen=True)
class Tasks:
    """What is to be run.

    Args:
        folders: each with the names of its tasks.
        names: of the harness's own.
    """

    folders: tuple[tuple[Path, tuple[str, ...]], ...]
    names: tuple[str, ...]
    data: tuple[Data, ...]


def installed() -> bool:
    """Whether the harness is."""
    return importlib.util.find_spec("lm_eval") is not None


def require() -> None:
    """Raise `EvaluationError` where the harness is not installed."""
    if not installed():
        raise EvaluationError("lm-evaluation-harness (lm_eval) is not installed", hint=MISSING)


def find(folders: Sequence[Path], names: Sequence[str]) -> Tasks:
    """Tasks of folders, all of them or those that are named; other names are the harness's own.

    Raises:
        EvaluationError: the harness is missing, or a task is not what a folder may hold.
    """
    require()
    data: list[Data] = []
    held: list[tuple[Path, tuple[str, ...]]] = []
    taken: set[str] = set()
    for folder in folders:
        found: list[str] = []
        for path in _yamls(folder):
            name = _check(path)
            if name is not None and (not names or name in names):
                found.append(name)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                data.append(Data(kind="task", name=name[:200], sha256=digest, card=None))
        if found:
            held.append((folder, tuple(found)))
        taken |= set(found)
    if folders and not held and not names:
        raise EvaluationError(f"{folders[0]} holds no task", hint=HINT)
    return Tasks(tuple(held), tuple(name for name in names if name not in taken), tuple(data))


def _yamls(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is not a folder of tasks", hint=HINT)
    return sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS)


def _check(path: Path) -> str | None:
    """The task of a YAML; None of one that others include. Raises `EvaluationError`."""
    import yaml  # type: ignore[import-untyped]

    text = files.read_limited(path, MAX_YAML).decode("utf-8", "replace")
    if code := _CODE.search(text):
        line = text[: code.end()].count("\n") + 1
        raise EvaluationError(
            f"{path}, line {line}: a task in a folder is data and may not ask for code ({code[0].strip()})",
            hint="write it with templates, or name a task of the harness itself with --task",
        )
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise EvaluationError(f"{path}{place}: not YAML", hint=HINT) from e
    if not isinstance(value, dict):
        raise EvaluationError(
            f"{path}: not a task, which has the fields task, dataset_path and others", hint=HINT
        )
    for each in _tables(value):
        _check_table(path, each)
    name = value.get("task")
    return name if isinstance(name, str) else None


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    """A task, and what it holds: a group has tasks within."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _tables(each)


def _check_table(path: Path, table: dict[str, Any]) -> None:
    if code := sorted(_ASKS_FOR_CODE & table.keys()):
        raise EvaluationError(
            f"{path}: a task in a folder is data and may not ask for code ({code[0]})",
            hint="write it with templates, or name a task of the harness itself with --task",
        )
    if "include" in table:
        named = table["include"] if isinstance(table["include"], list) else [table["include"]]
        for each in map(str, named):
            # The harness reads any file as YAML that may ask for code; only these are looked into here.
            if Path(each).name != each or Path(each).suffix not in ENDINGS:
                raise EvaluationError(
                    f"{path}: include names {each[:80]}, which is no YAML beside it", hint=HINT
                )
    if table.get("dataset_path", "json") not in FILES:
        raise EvaluationError(
            f"{path}: dataset_path is {str(table['dataset_path'])[:80]!r}, which is no file",
            hint="write dataset_path: json, and below dataset_kwargs: data_files: { test: items.jsonl }",
        )
    _check_files(path, table.get("dataset_kwargs") or {})


def _check_files(path: Path, given: Any) -> None:
    named = given.get("data_files") if isinstance(given, dict) else None
    each = named.values() if isinstance(named, dict) else named if isinstance(named, list) else [named]
    for one in (one for part in each for one in (part if isinstance(part, list) else [part])):
        if one is not None and not (path.parent / str(one)).is_file():
            raise EvaluationError(f"{path}: data_files names {str(one)[:200]}, which is not there", hint=HINT)


def run(model: Candidate, given: Tasks, limit: int | None, cache: Path) -> list[Outcome]:
    """Every metric of every task, item by item.

    Args:
        model: that is asked.
        given: by `find`.
        limit: items of each task, if not all.
        cache: a folder for what the harness makes of the data.
    """
    found: list[Outcome] = []
    with _offline(cache):
        for folder, names in given.folders:
            with contextlib.chdir(folder):
                found += _run(model, names, [folder], limit)
        if given.names:
            found += _run(model, given.names, [], limit)
    return found


@contextlib.contextmanager
def _offline(cache: Path) -> Iterator[None]:
    """Nothing is fetched, and templates cannot reach Python."""
    import os

    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import datasets
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    before, place = utils.env, datasets.config.HF_DATASETS_CACHE
    sandbox = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    sandbox.filters.update(before.filters)
    datasets.disable_progress_bars()
    utils.env, datasets.config.HF_DATASETS_CACHE = sandbox, cache
    try:
        yield
    finally:
        utils.env, datasets.config.HF_DATASETS_CACHE = before, place


def _run(model: Candidate, names: Sequence[str], folders: list[Path], limit: int | None) -> list[Outcome]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from tapestry.sovereign.evaluation.harness import Asked

    try:
        manager = TaskManager(include_path=[str(each) for each in folders], include_defaults=not folders)
        told = simple_evaluate(
            model=Asked(model), tasks=list(names), task_manager=manager, limit=limit, bootstrap_iters=0
        )
    except EvaluationError:
        raise
    except Exception as e:
        said = " ".join(str(e).split())[:300] or type(e).__name__
        raise EvaluationError(
            f"the harness cannot run {', '.join(names)[:200]}: {said}",
            hint="a task of the harness itself needs its data on this machine; nothing is fetched",
        ) from e
    return [one for name, items in (told or {})["samples"].items() for one in _outcomes(name, items)]


def _outcomes(name: str, items: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
    """Of one task: a metric whose value for an item is a number; corpus metrics have none."""
    for metric in dict.fromkeys(metric for item in items for metric in item["metrics"]):
        values = [item[metric] for item in items if metric in item]
        if values and all(isinstance(each, int | float | np.number) for each in values):
            above = np.asarray(values, np.float64)
            if np.isfinite(above).all():
                yield Outcome(measure="task", part=f"{name}:{metric}"[:200], above=above)
