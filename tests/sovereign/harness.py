"""`make harness`: tasks of lm-evaluation-harness, the real one, on small models, in several languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import EvaluationError
from tapestry.sovereign.evaluation import tasks
from tapestry.sovereign.evaluation.candidate import Candidate
from tapestry.sovereign.evaluation.work import Asked, evaluate
from tapestry.sovereign.gates import Gates
from tests.sovereign.evaluated import jsonl, model

KNOWN = {
    "fr": ("Que boit la vache ?", ("de l'eau", "du sable")),
    "de": ("Was trinkt die Kuh?", ("Wasser", "Sand")),
    "vi": ("Con bò uống gì?", ("nước", "cát")),
}
"""What the model learns by rote: the first option."""


def lay(folder: Path, **more: Any) -> Path:
    """A multiple-choice task for each language, with eight items, and one in which text is generated."""
    folder.mkdir()
    for language, (question, options) in KNOWN.items():
        items = [{"question": question, "options": list(options), "right": 0}] * 8
        jsonl(folder / f"{language}.jsonl", items)
        task = {
            "task": f"cows_{language}", "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{language}.jsonl"}}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{options}}",
            "doc_to_target": "{{right}}", "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}], **more,
        }  # fmt: skip
        (folder / f"{language}.yaml").write_text(json.dumps(task, ensure_ascii=False))
    said = {
        "task": "cows_said", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "fr.jsonl"}},
        "test_split": "test", "output_type": "generate_until", "doc_to_text": "{{question}}",
        "doc_to_target": " {{options[right]}}", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 20},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    (folder / "said.yaml").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    model(folder / "model", lines=[f"{q} {options[0]}\n" for q, options in KNOWN.values()], steps=80)
    model(folder / "base", seed=1)
    lay(folder / "tasks")
    return folder


def test_tasks_in_several_languages(place: Path) -> None:
    report = evaluate(
        Asked(
            models={"model": place / "model", "base": place / "base"},
            tasks=(place / "tasks",),
            resamples=100,
            gates=Gates(tasks={"cows_fr": 0.9, "cows_vi:acc": 0.9, "cows_said:exact_match": 0.9}),
        )
    )
    figures = {(each.part, each.role): each for each in report.figures}
    for language in KNOWN:
        found = figures[f"cows_{language}:acc", "model"]
        assert (found.value.value, found.count) == (1.0, 8)
        assert f"cows_{language}:acc_norm" in {part for part, _ in figures}
    assert figures["cows_said:exact_match", "model"].value.value == 1.0
    assert figures["cows_said:exact_match", "base"].value.value == 0.0
    assert report.unmet == ()
    assert {each.name for each in report.data} == {"cows_fr", "cows_de", "cows_vi", "cows_said"}
    gain = {each.part: each.value.value for each in report.changed("task", "base")}
    assert gain["cows_said:exact_match"] == 1.0


def test_only_the_named_tasks_and_items(place: Path, tmp_path: Path) -> None:
    given = tasks.find([place / "tasks"], ["cows_vi"])
    found = tasks.run(Candidate("model", place / "model"), given, 3, tmp_path)
    assert {each.part for each in found} == {"cows_vi:acc", "cows_vi:acc_norm"}
    assert all(len(each.above) == 3 for each in found)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"process_docs": "!function utils.x"}, "may not ask for code"),
        ({"class": "Mine"}, "may not ask for code"),
        ({"dataset_path": "somebody/somewhere"}, "is no file"),
        ({"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}, "which is not there"),
        ({"include": "../x.yaml"}, "no YAML beside it"),
    ],
)
def test_a_folder_of_tasks_is_data(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    folder = lay(tmp_path / "t", **more)
    text = (folder / "fr.yaml").read_text()
    for path in folder.glob("*.yaml"):  # as people write it, not as JSON
        path.write_text("\n".join(f"{key}: {value}" for key, value in _plain(json.loads(text)).items()))
    with pytest.raises(EvaluationError, match=said):
        tasks.find([folder], [])


def _plain(task: dict[str, Any]) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) and value.startswith("!") else json.dumps(value)
        for key, value in task.items()
    }


def test_a_template_cannot_reach_python(place: Path, tmp_path: Path) -> None:
    """The control: outside of the sandbox the same template does."""
    from lm_eval import utils

    template = "{{ ''.__class__.__mro__[1].__subclasses__() | length }}"
    assert int(utils.apply_template(template, {})) > 100
    folder = lay(tmp_path / "t", doc_to_text=template)
    with pytest.raises(EvaluationError, match="unsafe"):
        tasks.run(
            Candidate("model", place / "model"), tasks.find([folder], ["cows_fr"]), None, tmp_path / "c"
        )


def test_a_task_without_its_data_and_an_unknown_one(place: Path, tmp_path: Path) -> None:
    one = Candidate("model", place / "model")
    for name in ("xnli_fr", "no_such_task"):
        with pytest.raises(EvaluationError, match=name) as caught:
            tasks.run(one, tasks.find([], [name]), 2, tmp_path)
        assert "nothing is fetched" in (caught.value.hint or "")
