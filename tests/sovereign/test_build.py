"""Builds from recipe to model, killed, damaged and refused on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import CardError, CorpusError, NotFound, RecipeError, RightsRefused, TapestryError
from tapestry.host import failpoints, files
from tapestry.sovereign import directory, models, recipe
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Base, Lineage
from tapestry.sovereign.saving import Checkpoints, StageState
from tapestry.sovereign.stages import Build, Stopped
from tapestry.sovereign.status import Status, Teller
from tapestry.training.holding import hold
from tapestry.training.island import ISLAND_OF_ONE
from tapestry.training.machine import configure
from tapestry.training.shelf import Shelf
from tapestry.training.withdrawals import Withdrawals
from tests.sovereign import support
from tests.sovereign.support import CPT, DPO, HEAD, SFT, make_build

ALL = HEAD + CPT + SFT + DPO


@contextmanager
def as_a_build_computes() -> Iterator[None]:
    """What the process of a build sets for itself."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    configure(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])


def here(home: BuildHome) -> Lineage:
    """A build in this process: loading what it needs is most of a short one."""
    with as_a_build_computes():
        read = recipe.read(home.recipe)
        Build(home, read, ISLAND_OF_ONE, Teller(home.status, lead=True), lambda: False).run()
    return Lineage.load(home.lineage)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BuildHome:
    """One that ran through, in a process of its own."""
    home = support.make_all(tmp_path_factory.mktemp("made"))
    code, status = support.run(home)
    assert (code, status.phase) == (0, "done"), (home.root / "build.log").read_text()
    return home


def again(made: BuildHome, name: str, text: str = ALL) -> BuildHome:
    """Another build of the same base and data."""
    return make_build(made.root.parent / name, text)


def test_a_build_ends_with_a_model_that_plain_transformers_opens(made: BuildHome) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(made.model)
    tokenizer = AutoTokenizer.from_pretrained(made.model)
    talk = [{"role": "user", "content": "Praj wóda!"}]
    asked = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt")
    assert model(asked["input_ids"]).logits.isfinite().all()
    assert (made.model / "README.md").read_text().startswith("---\nlibrary_name: transformers")


def test_its_lineage_says_what_was_done(made: BuildHome) -> None:
    lineage = Lineage.load(made.lineage)
    assert Lineage.load(made.model / "lineage.json") == lineage
    assert lineage.weights == directory.weights_digest(made.model)
    assert lineage.base.weights == directory.weights_digest(made.root.parent / "base")
    assert [(each.kind, each.method, each.steps) for each in lineage.stages] == [
        ("cpt", "full", 4), ("sft", "lora", 4), ("dpo", "lora", 4),
    ]  # fmt: skip
    assert [dataset.name for each in lineage.stages for dataset in each.datasets] == [
        "texts", "answers", "pairs",
    ]  # fmt: skip
    assert lineage.stages[0].tokens == 4 * 2 * 32
    assert lineage.stages[1].datasets[0].documents == 8
    assert not lineage.adapter, "the adapter stands on the first stage's result, not on the base"
    assert not (made.stage(1, "cpt") / "data").exists()
    assert not (made.stage(1, "cpt") / "checkpoints").exists()


def test_nothing_of_it_is_a_pickle(made: BuildHome) -> None:
    names = {path.suffix for path in made.root.rglob("*") if path.is_file()}
    assert names <= {".toml", ".json", ".jinja", ".md", ".safetensors", ".log", ""}, names


POINTS = [
    "build.step:3",  # of the first stage, after its first checkpoint
    "build.checkpoint.written:2",  # the first of the second, LoRA with dropout
    "build.step:3",  # of it, from its beginning
    "build.result.published",
    "build.step:3",  # of the third
    "build.checkpoint.published",
    "build.model.published",
]


def test_killed_anywhere_it_comes_to_the_same_bits(made: BuildHome) -> None:
    """One build that is killed at each of these points in turn; the benchmark kills at random."""
    ours = {name for name in failpoints.NAMES if name.startswith("build.")}
    assert {point.partition(":")[0] for point in POINTS} == ours
    home = again(made, "killed")
    for point in POINTS:
        code = support.start(home, TAPESTRY_FAILPOINT=point).wait(200)
        assert code == -signal.SIGKILL, (home.root / "build.log").read_text()
    code, status = support.run(home)
    assert (code, status.phase) == (0, "done")
    one, other = Lineage.load(made.lineage), Lineage.load(home.lineage)
    assert other.weights == one.weights
    assert [each.result for each in other.stages] == [each.result for each in one.stages]
    assert [each.loss_last for each in other.stages] == [each.loss_last for each in one.stages]


def test_another_seed_comes_to_others(made: BuildHome) -> None:
    """The control of the one above: the bits do depend on what is drawn."""
    text = (HEAD + SFT).replace("threads = 1", "threads = 1\n")
    one = here(again(made, "seed-0", text))
    other = here(again(made, "seed-1", text.replace('base = "../base"', 'base = "../base"\nseed = 1')))
    assert one.weights != other.weights
    assert one.adapter
    assert other.adapter


def test_asked_to_stop_it_leaves_a_checkpoint(made: BuildHome) -> None:
    home = again(made, "stopped", HEAD + CPT.replace("steps = 4", "steps = 4000").replace("= 1e-3", "= 1e-6"))
    child = support.start(home)
    files.wait_for(lambda: (now := Status.load(home.status)) and now.step > 2, timeout_s=120)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(60) == 0
    status = Status.load(home.status)
    assert status is not None
    assert status.phase == "stopped"
    names = sorted(path.name for path in (home.stage(1, "cpt") / "checkpoints").iterdir())
    assert int(names[-1]) >= status.step
    assert all(name.isdigit() for name in names)


def test_a_damaged_checkpoint_is_passed_over(made: BuildHome) -> None:
    home = again(made, "damaged", HEAD + CPT)
    assert support.start(home, TAPESTRY_FAILPOINT="build.result.published").wait(200) == -signal.SIGKILL
    shutil.rmtree(home.stage(1, "cpt") / "result")
    newest = sorted((home.stage(1, "cpt") / "checkpoints").iterdir())[-1]
    shard = next(newest.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert here(home).stages[0].result == Lineage.load(made.lineage).stages[0].result


# -- what is learnt -------------------------------------------------------------------------------


def test_data_comes_in_an_order_that_follows_from_the_seed(made: BuildHome) -> None:
    from tapestry.sovereign.prepared import Data, Prepared

    header = Prepared(settings="0" * 64, filter="0" * 64, datasets=(), withheld=0, cut=0, dropped=0, rows=5)
    stage = recipe.parse((HEAD + CPT).encode(), "").stage[0]
    order = Data(header, None).order(stage, 1, 0)
    assert len(order) == 8
    assert sorted(order[:5]) == list(range(5))
    assert list(order) == list(Data(header, None).order(stage, 1, 0))
    assert list(order) != list(Data(header, None).order(stage, 2, 0))


def test_stages_with_lora_alone_are_one_adapter_on_the_base(made: BuildHome) -> None:
    home = again(made, "lora", HEAD + SFT + DPO)
    lineage = here(home)
    assert lineage.adapter
    assert Lineage.load(home.adapter / "lineage.json") == lineage
    state = models.merged(made.root.parent / "base", home.adapter).state_dict()
    for name, value in load_file(home.model / "model.safetensors").items():
        assert torch.equal(value, state[name]), name
    assert "/" not in (home.adapter / "adapter_config.json").read_text(), "a path of this machine"


def test_a_build_starts_from_an_adapter_and_only_on_its_base(made: BuildHome) -> None:
    first = again(made, "first", HEAD + SFT)
    here(first)
    text = (HEAD + DPO).replace('base = "../base"', 'base = "../base"\nadapter = "../first/adapter"')
    second = again(made, "second", text)
    lineage, parent = here(second), Lineage.load(first.lineage)
    assert lineage.adapter
    assert lineage.parent is not None
    assert (lineage.parent.lineage, lineage.parent.weights) == (parent.digest, parent.weights)
    assert Lineage.load(second.root / "parents" / f"{parent.digest}.json") == parent
    support.make_base(made.root.parent / "other-base", seed=2)
    other = again(made, "third", text.replace('"../base"', '"../other-base"'))
    with pytest.raises(RecipeError, match="was made on another base") as raised:
        here(other)
    assert raised.value.hint


def test_an_adapter_of_another_shape_is_refused_without_lineage(made: BuildHome) -> None:
    first = made.root.parent / "first" / "adapter"
    if not first.exists():
        here(again(made, "first", HEAD + SFT))
    plain = made.root.parent / "plain-adapter"
    shutil.copytree(first, plain)
    (plain / "lineage.json").unlink()
    support.make_base(made.root.parent / "wide-base", hidden=64)
    text = (HEAD + DPO).replace('base = "../base"', 'base = "../wide-base"\nadapter = "../plain-adapter"')
    with pytest.raises(TapestryError, match="does not fit the base"):
        here(again(made, "fourth", text))


def test_an_adapter_that_is_more_than_lora_is_refused(made: BuildHome) -> None:
    """A stage would keep the LoRA of it and lose the rest without a word."""
    folder = made.root.parent / "odd-adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    base = Base(weights="0" * 64, tokenizer="0" * 64, licence="", state=None, run=None, round=None)
    plain = {"peft_type": "LORA", "bias": "none", "modules_to_save": None}
    for more, said in (
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(plain | more))
        with pytest.raises(RecipeError, match=f"is no plain LoRA adapter, but has {said}"):
            models.require_adapter(folder, base)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(RecipeError, match="cannot be read"):
        models.require_adapter(folder, base)
    (folder / "adapter_config.json").write_text(json.dumps(plain))
    models.require_adapter(folder, base)


def test_a_base_with_an_adapter_in_its_folder_is_refused(made: BuildHome) -> None:
    """transformers would add the adapter to what it opens; the hash of the base is the same."""
    from tapestry.errors import ModelError
    from tapestry.sovereign.serve import loading

    folder = support.make_base(made.root.parent / "with-adapter")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(RecipeError, match="both a model and an adapter"):
        models.require_base(folder)
    for opening in (models.open_model, loading.load):
        with pytest.raises(ModelError, match="both a model and an adapter"):
            opening(folder)
    (folder / "adapter_config.json").unlink()
    models.require_base(folder)


# -- values and rights ----------------------------------------------------------------------------

PROTECTED = """\
format = "tapestry.protected"
version = 1

[[topics]]
name = "castle"
terms = { hsb = ["hród"] }
"""


def test_what_is_protected_and_what_the_constitution_keeps_out_is_withheld(made: BuildHome) -> None:
    (made.root.parent / "protected.toml").write_text(PROTECTED, encoding="utf-8")
    head = HEAD.replace('residency = "DE"', 'residency = "DE"\nprotected = "../protected.toml"')
    lineage = here(again(made, "withheld", head + SFT))
    said = [each for each in support.answers()[2:] if "hród" in each["prompt"]]
    assert lineage.stages[0].withheld == len(said) > 0
    assert Lineage.load(made.lineage).stages[1].withheld == 0, "the control: without it none is"


def refused(made: BuildHome, name: str, text: str, error: type[TapestryError], match: str) -> TapestryError:
    with pytest.raises(error, match=match) as raised:
        here(again(made, name, text))
    assert raised.value.hint, raised.value.message
    assert not (made.root.parent / name / "model").exists()
    return raised.value


def test_data_without_the_right_is_refused_by_its_rule(made: BuildHome) -> None:
    error = refused(
        made, "stage", HEAD + SFT.replace('["answers"]', '["texts"]'), RightsRefused, r"rule stage"
    )
    assert "may not enter stage sft" in error.message
    refused(made, "land", (HEAD + CPT).replace('"DE"', '"FR"'), RightsRefused, "rule residency")


def of_a_node(made: BuildHome) -> str:
    """A recipe whose data a node has the cards of; its node stands in the country that they name."""
    node = made.root.parent / "node"
    if not node.exists():
        node.mkdir()
        (node / "node.toml").write_text(
            f'[node]\nname = "dom-1"\nmember = "domowina"\n\n[training]\ncorpus = "text"\n'
            f'residency = "{support.HERE}"\n'
        )
        support.give_card(node / "cards", made.root.parent / "texts", "texts", "private-cpt")
    return (HEAD + CPT).replace('cards = "../cards"\nresidency = "DE"', 'node = "../node"')


def test_a_node_s_cards_country_and_rules_hold(made: BuildHome) -> None:
    text = of_a_node(made)
    assert here(again(made, "of-node", text)).weights
    refused(made, "whose", text.replace('"domowina"', '"other"'), RecipeError, "is of member domowina")
    rules = made.root.parent / "node" / "rights.cedar"
    rules.write_text('@id("not-now") @needed("wait") forbid (principal, action, resource);')
    refused(made, "ruled", text, RightsRefused, "rule not-now")
    rules.unlink()


def test_a_dataset_that_is_withdrawn_stops_the_build_and_its_tokens_go(made: BuildHome) -> None:
    home = again(made, "withdrawn", of_a_node(made))
    marks = Withdrawals(made.root.parent / "node")

    def withdraws() -> bool:
        """Asked after the first step."""
        marks.put(Withdrawn(dataset="texts", at="2026-11-22T00:00:00.000Z"))
        return False

    with as_a_build_computes(), pytest.raises(RightsRefused, match="rule withdrawn"):
        read, teller = recipe.read(home.recipe), Teller(home.status, lead=True)
        Build(home, read, ISLAND_OF_ONE, teller, withdraws).run()
    for name in ("data", "checkpoints", "result"):
        assert not (home.stage(1, "cpt") / name).exists(), "tokens, or weights that have seen them"
    marks.path("texts").unlink()


def stop(home: BuildHome, *, after: int) -> None:
    """Run a build in this process for so many steps."""
    asked = iter(range(1, 1000))
    with as_a_build_computes():
        read, teller = recipe.read(home.recipe), Teller(home.status, lead=True)
        with pytest.raises(Stopped):
            Build(home, read, ISLAND_OF_ONE, teller, lambda: next(asked) >= after).run()


def node_with(made: BuildHome, name: str, *files: str) -> Withdrawals:
    """A node with text in files of a folder, each with a card of its own."""
    root = made.root.parent / name
    (root / "text").mkdir(parents=True)
    settings = f'[node]\nname = "dom-1"\nmember = "domowina"\n\n[training]\nresidency = "{support.HERE}"\n'
    (root / "node.toml").write_text(settings + 'corpus = "text"\n')
    for number, file in enumerate(files):
        lines = [json.dumps({"text": f"{number} {file} {n} " * 40}) + "\n" for n in range(8)]
        (root / "text" / f"{file}.jsonl").write_text("".join(lines))
    (root / "text" / "valid.jsonl").write_text('{"text": "x"}\n')
    for number, file in enumerate(files):
        mine = {f"{file}.jsonl"} | ({"valid.jsonl"} if number == 0 else set())
        described = {
            "name": file, "description": "Of a test.", "owner": "domowina", "languages": ["hsb"],
            "licence": "CC0-1.0", "made": "2026-11-22", "residency": [support.HERE], "category": "private",
            "stages": ["private-cpt"],
        }  # fmt: skip
        held = hold(root / "text", only=mine.__contains__)
        Shelf(root / "cards").put(held.values(root / "text", **described), replace=True)
    return Withdrawals(root)


@pytest.mark.parametrize("bound", [True, False])
def test_a_build_does_not_go_on_from_what_has_seen_text_that_was_withdrawn(
    made: BuildHome, bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at a checkpoint; one of two datasets is withdrawn and its file taken away; gone on with."""
    marks = node_with(made, f"two-{bound}", "train-kept", "train-gone")
    text = (HEAD + CPT).replace('cards = "../cards"\nresidency = "DE"', f'node = "../two-{bound}"')
    home = again(made, f"without-{bound}", text.replace('"../texts"', f'"../two-{bound}/text"'))
    stop(home, after=2)
    kept = made.root.parent / f"kept-{bound}"
    shutil.copytree(home.stage(1, "cpt") / "checkpoints", kept)
    marks.put(Withdrawn(dataset="train-gone", at="2026-11-22T00:00:00.000Z"))
    with pytest.raises(RightsRefused, match="rule withdrawn"):
        here(home)
    assert [path.name for path in home.stage(1, "cpt").iterdir()] == ["begun"]
    (made.root.parent / f"two-{bound}" / "text" / "train-gone.jsonl").unlink()
    shutil.copytree(kept, home.stage(1, "cpt") / "checkpoints")  # as a backup would bring it back
    if not bound:
        monkeypatch.setattr(Checkpoints, "_read", _whatever_it_was_trained_on)
    steps: list[int] = []
    monkeypatch.setattr(failpoints, "reach", lambda name: steps.append(1) if name == "build.step" else None)
    lineage = here(home)
    assert [each.name for each in lineage.stages[0].datasets] == ["train-kept"]
    assert len(steps) == (4 if bound else 2), "the control: without the binding it goes on from step 2"


def _whatever_it_was_trained_on(self: Checkpoints, folder: Path) -> StageState:
    return StageState.from_bytes((folder / "state.json").read_bytes())


def test_a_later_stage_does_not_go_on_from_a_dataset_that_was_withdrawn(made: BuildHome) -> None:
    home = again(made, "later-withdrawn", of_a_node(made) + CPT)
    stop(home, after=5)
    assert len(Lineage.load(home.lineage).stages) == 1
    marks = Withdrawals(made.root.parent / "node")
    marks.put(Withdrawn(dataset="texts", at="2026-11-22T00:00:00.000Z"))
    try:
        with pytest.raises(RightsRefused, match="stage 1 was trained on dataset texts"):
            here(home)
    finally:
        marks.path("texts").unlink()
    assert not home.model.exists()
    assert here(home).weights, "the control: it was the mark"


def test_a_later_stage_without_the_right_is_refused_before_the_first_begins(made: BuildHome) -> None:
    home = again(made, "later", HEAD + CPT + SFT.replace('["answers"]', '["texts"]'))
    with pytest.raises(RightsRefused, match="stage 2: dataset texts"):
        here(home)
    assert not home.stage(1, "cpt").exists()


def test_data_without_a_card_is_refused(made: BuildHome) -> None:
    support.write_lines(made.root.parent / "bare", support.texts(7))
    refused(made, "bare-1", HEAD + CPT.replace("../texts", "../bare"), CardError, "has no card")
    refused(made, "bare-2", HEAD + SFT.replace("answers", "nothing"), NotFound, "there is no card nothing")


def test_data_that_changed_since_its_card_is_refused(made: BuildHome) -> None:
    folder = support.write_lines(made.root.parent / "moved", support.texts())
    support.give_card(made.root.parent / "cards", folder, "moved", "private-cpt")
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"text": "more"}\n')
    text = HEAD + CPT.replace("../texts", "../moved")
    refused(made, "moved-1", text, CardError, "train.jsonl \\(changed")
    refused(
        made,
        "moved-2",
        HEAD + CPT.replace('data = "../texts"', 'datasets = ["moved"]'),
        CardError,
        "is not what card moved describes",
    )


def given(made: BuildHome, name: str, stage: str, rows: list[dict[str, Any]]) -> None:
    folder = support.write_lines(made.root.parent / name, rows)
    support.give_card(made.root.parent / "cards", folder, name, stage)


@pytest.mark.parametrize(
    ("name", "table", "stage", "rows", "said"),
    [
        ("text-for-sft", SFT, "sft", support.texts(), r"train\.jsonl, line 1: neither `prompt` nor"),
        ("answers-for-dpo", DPO, "preference", support.answers(), "line 1: a stage dpo takes examples with"),
        ("pairs-for-sft", SFT, "sft", support.pairs(), 'a stage sft takes examples with "completion"'),
        ("answers-for-cpt", CPT, "private-cpt", support.answers(), "line 1: no field `text`"),
        ("short", CPT, "private-cpt", [{"text": "a"}] * 4, "nothing is left to train on of short"),
        (
            "long", SFT, "sft", [{"prompt": "a" * 500, "completion": "b"}] * 4,
            "2 examples are longer than sequence_length",
        ),
    ],
)  # fmt: skip
def test_data_of_the_wrong_shape_is_one_error(
    made: BuildHome, name: str, table: str, stage: str, rows: list[dict[str, Any]], said: str
) -> None:
    given(made, name, stage, rows)
    lines = [f'data = "../{name}"' if line.startswith("data") else line for line in table.splitlines()]
    text = "\n".join(f'data = "../{name}"' if line.startswith("datasets") else line for line in lines)
    refused(made, f"of-{name}", HEAD + text, CorpusError, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"../base"', '"../nowhere"'), "base: there is no model in"),
        (('"../base"', '"../texts"'), r"has no config\.json"),
        (('cards = "../cards"\nresidency = "DE"', 'node = "../nowhere"'), "there is no node in"),
    ],
)
def test_a_place_that_is_not_there_is_one_error(made: BuildHome, change: tuple[str, str], said: str) -> None:
    refused(made, "place", (HEAD + CPT).replace(*change), RecipeError, said)


def test_a_recipe_that_changed_since_the_build_began_is_refused(made: BuildHome) -> None:
    home = again(made, "changed", HEAD + CPT)
    assert support.start(home, TAPESTRY_FAILPOINT="build.step:3").wait(200) == -signal.SIGKILL
    home.recipe.write_text(HEAD + CPT.replace("1e-3", "1e-2"))
    with pytest.raises(RecipeError, match="was changed since the build began"):
        here(home)


def test_a_chat_template_that_changed_since_the_build_began_is_refused(made: BuildHome) -> None:
    """Else one stage would be tuned on other text than the next, and than the model is asked with."""
    from tapestry.sovereign.chat import OWN

    home = again(
        made, "retold", HEAD.replace("[machine]", 'template = "chat.jinja"\n\n[machine]') + SFT + DPO
    )
    (home.root / "chat.jinja").write_text(OWN)
    stop(home, after=5)
    assert len(Lineage.load(home.lineage).stages) == 1
    (home.root / "chat.jinja").write_text(OWN.replace("###", "==="))
    with pytest.raises(RecipeError, match="the chat template was changed since the build began"):
        here(home)
    (home.root / "chat.jinja").write_text(OWN)
    lineage = here(home)
    assert lineage.files is not None and lineage.template == lineage.files["chat_template.jinja"]
    assert lineage.files == directory.files_beside(home.model)


def test_a_loss_that_is_not_finite_ends_the_build(made: BuildHome) -> None:
    from tapestry.errors import Diverged

    text = HEAD + CPT.replace("learning_rate = 1e-3", "learning_rate = 100\nclip = 0").replace(
        "steps = 4", "steps = 60"
    )
    base = made.root.parent / "wild-base"
    support.make_base(base)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    from safetensors.torch import save_file

    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Diverged, match="the loss of stage 1 is nan"):
        here(again(made, "wild", text.replace('"../base"', '"../wild-base"')))


def test_two_builds_of_one_folder_wait_for_each_other(made: BuildHome) -> None:
    home = again(made, "busy", HEAD + CPT)
    with home.lock:
        began = time.monotonic()
        child = support.start(home)
        assert child.wait(60) == 6
    assert time.monotonic() - began > 4
    last = (home.root / "build.log").read_text().splitlines()[-1]
    assert json.loads(last)["error"]["code"] == "busy"
