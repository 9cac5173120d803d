"""Plan files: what is wrong is said with its field and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.cli import planfile
from tapestry.errors import PlanError

EXAMPLE = Path(__file__).parents[2] / "examples" / "plan.toml"
SHA = "0" * 64


def text() -> str:
    return EXAMPLE.read_text(encoding="utf-8")


def test_the_example_is_a_plan_with_every_field() -> None:
    file = planfile.load(EXAMPLE)
    plan = file.plan(model=SHA, layout=SHA, initial_state=SHA, parameters=1)
    assert plan.run == "first"
    assert plan.revision == 1
    stated = file.model_dump(exclude_unset=True)
    whole = file.model_dump()
    del whole["model"]["adopt"], whole["model"]["licence"], whole["model"]["add_tokens"]
    del whole["origin"]  # in the place of a model
    del whole["run"]["algorithm"], whole["codec"]["error_feedback"], whole["inner"]["seconds"]
    assert stated == whole, "the example leaves a field out"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('adopt = "m"\nconfig = {}', "not both"),
        ("seed = 1", "either model.config or model.adopt"),
        ('adopt = "m"\nseed = 1', "own tokenizer"),
        ('config = {}\nlicence = "mit"', "of an adopted model"),
    ],
)
def test_a_model_has_one_origin(lines: str, says: str) -> None:
    head = 'format = "tapestry.plan-file"\nversion = 1\n[run]\nname = "a"\n'
    text = f"{head}[model]\n{lines}\n[rounds]\ntotal = 1\n"
    with pytest.raises(PlanError, match=says):
        planfile.parse((text + "[inner]\nsteps = 1\n").encode(), what="p")


def test_the_example_states_the_defaults_of_the_plan_where_a_run_needs_no_other() -> None:
    minimal = planfile.parse(
        b'format = "tapestry.plan-file"\nversion = 1\nrun.name = "a"\nmodel.config = {}\n'
        b"rounds.total = 1\ninner.steps = 1\n",
        what="p",
    )
    example = planfile.load(EXAMPLE)
    assert minimal.merge == example.merge
    assert minimal.retention == example.retention
    assert minimal.sync == example.sync


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps = 30", "stepz = 30", "inner.stepz: there is no such field"),
        ("steps = 30", 'steps = "30"', "inner.steps: input should be a valid integer, not '30'"),
        ("steps = 30", "steps = 0", "inner.steps: input should be greater than or equal to 1, not 0"),
        ("learning_rate = 3e-3", "learning_rate = nan", "inner.learning_rate"),
        ("learning_rate = 3e-3", "learning_rate = inf", "inner.learning_rate"),
        ("quorum = 1", "quorum = 3", "rounds.quorum 3 is above rounds.min_nodes 2"),
        (
            'outer = "nesterov"',
            'outer = "adam"',
            "merge.outer: input should be 'nesterov', 'sgd', 'fedavg' or 'delayed', not 'adam'",
        ),
        ('outer = "nesterov"', 'outer = "fedavg"', "merge: outer = fedavg needs outer_rate = 1"),
        ("[merge]", "[unknown]\n[merge]", "unknown: there is no such field"),
        ('sync = "replay"', 'sync = "push"', "sync: input should be 'replay' or 'fetch', not 'push'"),
        ('name = "first"', 'name = "../up"', "run.name: '../up' cannot be a run's name"),
        ('name = "first"', "", "run.name: is needed"),
        ("version = 1", "version = 2", "version 2 is not supported"),
        ("version = 1", "version = true", "version True is not supported"),
        ("version = 1", "", "does not state its version"),
        ('"tapestry.plan-file"', '"tapestry.plan"', "format 'tapestry.plan' is not supported"),
        ("beta1 = 0.9", "beta1 == 0.9", "is not TOML"),
        ("hidden_size = 128", "hidden_size = 1979-05-27", "hidden_size is a date or time"),
        ("shard_bytes = 1048576", "shard_bytes = 1", "model.shard_bytes"),
    ],
)
def test_a_fault_names_its_field(old: str, new: str, said: str) -> None:
    assert old in text()
    with pytest.raises(PlanError) as caught:
        planfile.parse(text().replace(old, new, 1).encode(), what="p.toml")
    assert said in caught.value.message
    assert caught.value.message.startswith("p.toml")


def test_a_fault_names_its_line() -> None:
    lines = text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.startswith("clip_norm"))
    with pytest.raises(PlanError, match=f"p.toml, line {number}: inner.clip_norm: "):
        planfile.parse(text().replace("clip_norm = 1.0", "clip_norm = -1").encode(), what="p.toml")


def test_an_unknown_field_lists_those_there_are() -> None:
    with pytest.raises(PlanError) as caught:
        planfile.parse(text().replace("deadline_s", "deadline").encode(), what="p.toml")
    assert caught.value.hint is not None
    assert "deadline_s" in caught.value.hint


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 100_000, b"x" * (2 << 20)])
def test_foreign_bytes_are_a_plan_error(data: bytes) -> None:
    with pytest.raises(PlanError):
        planfile.parse(data, what="p.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read"):
        planfile.load(tmp_path / "none.toml")


def test_a_tokenizer_lies_beside_the_plan_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text().replace('tokenizer = "byte"', 'tokenizer = "words"'))
    with pytest.raises(PlanError, match=r"model\.tokenizer"):
        planfile.load(path)
    (tmp_path / "words").mkdir()
    assert planfile.load(path).model.tokenizer == str(tmp_path / "words")


@pytest.mark.parametrize("origin", ['adopt = "model"', 'tokenizer = "model"\nconfig = {}', "config = {}"])
def test_tokens_to_add_lie_beside_the_plan_file(tmp_path: Path, origin: str) -> None:
    path = tmp_path / "plan.toml"
    head = 'format = "tapestry.plan-file"\nversion = 1\n[run]\nname = "a"\n'
    rest = "[rounds]\ntotal = 1\n[inner]\nsteps = 1\n"
    path.write_text(f'{head}[model]\n{origin}\nadd_tokens = "words.txt"\n{rest}')
    (tmp_path / "model").mkdir()
    with pytest.raises(PlanError, match=r"model\.add_tokens: .*words\.txt is not a file"):
        planfile.load(path)
    (tmp_path / "words.txt").write_text("word\n")
    assert planfile.load(path).model.add_tokens == str(tmp_path / "words.txt")


@pytest.mark.parametrize("name", ["a\\u0000b", "a" * 4000])
def test_a_path_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text().replace('tokenizer = "byte"', f'tokenizer = "{name}"'))
    with pytest.raises(PlanError, match=r"model\.tokenizer"):
        planfile.load(path)


def test_a_round_in_tokens_is_so_many_steps() -> None:
    head = 'format = "tapestry.plan-file"\nversion = 1\n[run]\nname = "a"\n[model]\nconfig = {}\n'
    rest = f"{head}[rounds]\ntotal = 1\n[inner]\nsequence_length = 100\nbatch_sequences = 3\n"
    for tokens, steps in ((1, 1), (300, 1), (301, 2), (90_000, 300)):
        assert planfile.parse(f"{rest}tokens = {tokens}\n".encode(), what="plan").inner.steps == steps
    for wrong, said in (("tokens = 5\nsteps = 1", "both say"), ("tokens = 0", "whole number"), ("", "steps")):
        with pytest.raises(PlanError, match=said):
            planfile.parse(f"{rest}{wrong}\n".encode(), what="plan")
