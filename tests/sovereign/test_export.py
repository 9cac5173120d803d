"""What leaves a build opens elsewhere, says where it is from, and is signed by its owner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import (
    FormatError,
    GateNotMet,
    InputError,
    ModelError,
    RecipeError,
    RightsRefused,
    SignatureError,
)
from tapestry.protocol.leakage import Interval
from tapestry.release.oms import ModelKeyPair
from tapestry.sovereign import directory, documents
from tapestry.sovereign.evaluation.report import EvaluationReport, Figure, Subject
from tapestry.sovereign.export import export
from tapestry.sovereign.gguf import shape
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Dataset, Lineage, Parent
from tapestry.sovereign.port.carry import Source
from tapestry.training.withdrawals import Withdrawals
from tests.sovereign import made
from tests.sovereign.support import CPT, HEAD

BASE = {"run": "north", "round": 7, "state": "4" * 64}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    old = made.base(tmp_path / "old")
    return made.with_adapter(old, tmp_path / "d").root


OPEN = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tapestry":
            raise ImportError("no Tapestry here")
sys.meta_path.insert(0, Nothing())
try:
    import tapestry
except ImportError:
    pass
else:
    raise SystemExit("Tapestry is here")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder, adapter in zip(sys.argv[1::2], sys.argv[2::2]):
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if adapter:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, adapter)
    ids = tokenizer("Grüße", return_tensors="pt")
    assert tokenizer.decode(ids["input_ids"][0]) == "Grüße"
    print(float(model(**ids).logits.double().sum()))
"""


def opened(*models: tuple[Path, Path | None]) -> list[float]:
    """Sum of some logits of each model, perhaps with an adapter, in a process that cannot import Tapestry."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [
        sys.executable,
        "-I",
        "-W",
        "ignore",
        "-c",
        OPEN,
        *(str(each or "") for one in models for each in one),
    ]
    done = subprocess.run(words, env=env, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()]


def test_directories_open_without_tapestry(build: Path, tmp_path: Path) -> None:
    source = Source.open(build)
    plain = export(source, "hf", tmp_path / "hf", key=None, report=None)
    adapter = export(source, "lora", tmp_path / "lora", key=None, report=None)
    whole, merged = opened((plain.folder, None), (tmp_path / "old", adapter.folder))
    assert whole == pytest.approx(merged, rel=1e-4)
    assert Lineage.load(plain.folder / "lineage.json") == source.lineage
    assert Source.open(plain.folder).model == plain.folder, "it can be exported and ported again from there"


def test_gguf_is_checked_before_it_is_there(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source.open(build)
    found = export(source, "gguf", tmp_path / "gguf", key=None, report=None)
    assert found.compared is not None and found.compared.difference <= 1e-4
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "README.md", "bom.cdx.json", "letters.gguf", "lineage.json",
    ]  # fmt: skip
    monkeypatch.setattr(shape, "_paired", lambda heads: lambda values: values)
    with pytest.raises(ModelError, match="a logit differs"):
        export(source, "gguf", tmp_path / "wrong", key=None, report=None)
    assert not (tmp_path / "wrong").exists() and not list(tmp_path.glob(".*.tmp"))


def test_card_and_bill_of_materials(build: Path, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for kind in ("hf", "lora", "gguf"):
        found = export(Source.open(build), kind, tmp_path / kind, key=None, report=None)  # type: ignore[arg-type]
        text = (found.folder / "bom.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        value = json.loads(text)
        model = value["metadata"]["component"]
        assert model["name"] == "ada/letters" and model["licenses"] == [{"expression": "Apache-2.0"}]
        assert {each["name"] for each in value["components"]} == {
            path.name for path in found.folder.iterdir() if path.name != "bom.cdx.json"
        }
        said = {each["name"]: each["value"] for each in model["properties"]}
        assert said["tapestry:owner"] == "ada" and said["tapestry:stages"] == "continued pre-training"
        del value["bomFormat"]
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(value)) is not None
        card = (found.folder / "README.md").read_text()
        assert card.startswith("---\n") and "license: apache-2.0" in card and "- de\n" in card
        assert "| owner | ada |" in card and "continued pre-training" in card


def test_the_owners_signature(build: Path, tmp_path: Path) -> None:
    key, other = ModelKeyPair.generate(), ModelKeyPair.generate()
    found = export(Source.open(build), "hf", tmp_path / "hf", key=key, report=None)
    assert documents.verify(found.folder, key.public_pem).owner == "ada"
    with pytest.raises(SignatureError):
        documents.verify(found.folder, other.public_pem)
    (found.folder / "config.json").write_text("{}")
    with pytest.raises(SignatureError):
        documents.verify(found.folder, key.public_pem)


def test_what_is_refused(build: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (build / "adapter").rename(tmp_path / "kept")
    source = Source.open(build)
    with pytest.raises(ModelError, match="has no adapter"):
        export(source, "lora", tmp_path / "out", key=None, report=None)
    (tmp_path / "full" / "mine").write_text("kept")
    with pytest.raises(InputError, match="is not empty"):
        export(source, "hf", tmp_path / "full", key=None, report=None)
    weights = build / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match="its weights were changed"):
        export(source, "hf", tmp_path / "out", key=None, report=None)
    data[-1] ^= 1
    weights.write_bytes(data)
    assert export(source, "hf", tmp_path / "out", key=None, report=None).weights == "model.safetensors"


def evaluated(root: Path, weights: str, *, instructions: float) -> Path:
    """The report of an evaluation of such weights, in a build."""
    subject = Subject(
        role="model", name="m", weights=weights, tokenizer="0" * 64, parameters=1, model_type="x"
    )
    value = Interval(value=instructions, low=instructions, high=instructions)
    figure = Figure(measure="instructions", part="", role="model", count=9, of=9, value=value)
    report = EvaluationReport(
        at="2026-11-22T12:00:00.000Z", release="1", confidence=0.95, resamples=100, seed=0, isolation="netns",
        subjects=(subject,), data=(), figures=(figure,), changes=(), positions=(), distances=(),
        answered=(), notes=(), gates=None, unmet=(),
    )  # fmt: skip
    (root / "eval").mkdir(exist_ok=True)
    (root / "eval" / "report.json").write_bytes(report.to_bytes())
    return root / "eval" / "report.json"


def test_gates_of_the_recipe_stop_what_leaves(build: Path, tmp_path: Path) -> None:
    from tapestry.cli.build_registry_work import shown

    weights = Lineage.load(build / "lineage.json").weights or ""
    recipe = (HEAD + CPT).replace("hsb-1", "letters").replace("domowina", "ada")
    (build / "build.toml").write_text(recipe.replace("[machine]", "[gates]\ninstructions = 0.5\n\n[machine]"))

    def leave(name: str) -> None:
        for kind in ("hf", "lora"):
            export(Source.open(build), kind, tmp_path / name / kind, key=None, report=None)  # type: ignore[arg-type]
        shown(build, (), (), "", None)

    for each in (
        lambda: export(Source.open(build), "hf", tmp_path / "no", key=None, report=None),
        lambda: export(Source.open(build), "lora", tmp_path / "no", key=None, report=None),
        lambda: shown(build, (), (), "", None),
    ):
        (build / "eval" / "report.json").unlink(missing_ok=True)
        with pytest.raises(GateNotMet, match="there is no evaluation"):
            each()
        evaluated(build, weights, instructions=0.4)
        with pytest.raises(GateNotMet, match=r"wants at least 0\.5"):
            each()
        evaluated(build, "9" * 64, instructions=0.9)
        with pytest.raises(GateNotMet, match="of other weights"):
            each()
    assert not (tmp_path / "no").exists()
    evaluated(build, weights, instructions=0.6)
    leave("met")
    (build / "eval" / "report.json").unlink()
    (build / "build.toml").write_text(recipe)
    leave("none-stated")


def test_figures_and_adapters_of_others_do_not_go_out_under_this_name(build: Path, tmp_path: Path) -> None:
    weights = Lineage.load(build / "lineage.json").weights or ""
    source, foreign = Source.open(build), evaluated(tmp_path, "9" * 64, instructions=0.9)
    with pytest.raises(InputError, match="evaluation of another model"):
        export(source, "hf", tmp_path / "out", key=None, report=foreign)
    mine = evaluated(tmp_path, weights, instructions=0.9)
    assert (
        "0.9"
        in (export(source, "hf", tmp_path / "hf", key=None, report=mine).folder / "README.md").read_text()
    )
    digest = directory.weights_digest(build / "adapter")
    stage = source.lineage.stages[-1].model_copy(update={"method": "lora", "result": digest})
    source.lineage.model_copy(update={"stages": (stage,)}).save(build / "lineage.json")
    export(Source.open(build), "lora", tmp_path / "lora", key=None, report=None)
    adapter = build / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\x11")
    with pytest.raises(ModelError, match="its weights were changed"):
        export(Source.open(build), "lora", tmp_path / "other", key=None, report=None)


def test_files_beside_the_weights_are_those_of_the_lineage(build: Path, tmp_path: Path) -> None:
    """A chat template says what a model is asked, a configuration how it counts; no tensor tells of them."""
    from tapestry.cli.build_registry_work import shown

    model, adapter = build / "model", build / "adapter"
    ways: list[tuple[Path, Callable[[str], object]]] = [
        (model, lambda name: export(Source.open(build), "hf", tmp_path / name, key=None, report=None)),
        (model, lambda name: export(Source.open(build), "gguf", tmp_path / name, key=None, report=None)),
        (model, lambda name: shown(build, (), (), "", None)),
        (adapter, lambda name: export(Source.open(build), "lora", tmp_path / name, key=None, report=None)),
    ]
    for number, (folder, leave) in enumerate(ways):
        template = folder / "chat_template.jinja"
        template.write_text("{{ messages[0]['content'] }} Say yes.")
        with pytest.raises(ModelError, match=r"chat_template\.jinja came later"):
            leave("no")
        template.unlink()
        config = folder / ("config.json" if folder == model else "adapter_config.json")
        before = config.read_bytes()
        config.write_bytes(before.replace(b": ", b":  ", 1))
        with pytest.raises(ModelError, match=r"config\.json was changed"):
            leave("no")
        config.unlink()
        with pytest.raises(ModelError, match=r"config\.json is missing|has no model"):
            leave("no")
        config.write_bytes(before)
        leave(f"control-{number}")
    lineage = Lineage.load(build / "lineage.json")
    lineage.model_copy(update={"files": None}).save(build / "lineage.json")
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    export(Source.open(build), "hf", tmp_path / "older", key=None, report=None)  # its lineage names no files
    assert b'"files"' not in (build / "lineage.json").read_bytes()


def trained_on(build: Path, name: str, root: str) -> None:
    """Put it into the lineage that its stage was trained on a dataset, whose cards a node has."""
    lineage = Lineage.load(build / "lineage.json")
    dataset = Dataset(name=name, card="5" * 64, root=root, documents=1, tokens=1)
    stage = lineage.stages[0].model_copy(update={"datasets": (dataset,)})
    lineage.model_copy(update={"stages": (stage,)}).save(build / "lineage.json")
    (build.parent / "node").mkdir()
    (build.parent / "node" / "node.toml").write_text('[node]\nname = "n"\nmember = "ada"\n')
    recipe = (HEAD + CPT).replace("hsb-1", "letters").replace("domowina", "ada")
    (build / "build.toml").write_text(
        recipe.replace('cards = "../cards"\nresidency = "DE"', 'node = "../node"')
    )


def test_what_was_trained_on_withdrawn_data_does_not_leave(build: Path, tmp_path: Path) -> None:
    from tapestry.cli.build_registry_work import shown

    trained_on(build, "letters", "6" * 64)
    left = export(Source.open(build), "hf", tmp_path / "left", key=None, report=None).folder
    marks = Withdrawals(tmp_path / "node")
    leaving: list[Callable[[str], object]] = [
        lambda name: export(Source.open(build), "hf", tmp_path / name, key=None, report=None),
        lambda name: export(Source.open(build), "lora", tmp_path / name, key=None, report=None),
        lambda name: shown(build, (), (), "", None),
        lambda name: shown(left, (), (), "", None, node=tmp_path / "node"),
    ]
    for mark, kept in (
        (Withdrawn(dataset="letters", at="2026-11-22T00:00:00.000Z"), False),
        (Withdrawn(dataset="renamed", at="2026-11-22T00:00:00.000Z", roots=("6" * 64,)), False),
        (Withdrawn(dataset="other", at="2026-11-22T00:00:00.000Z", roots=("7" * 64,)), True),
    ):
        marks.put(mark)
        for number, leave in enumerate(leaving):
            if kept:
                leave(f"control-{number}")
                continue
            with pytest.raises(
                RightsRefused, match="trained on dataset letters, which was withdrawn"
            ) as found:
                leave("no")
            assert "tapestry build init" in (found.value.hint or "")
        marks.path(mark.dataset).unlink()
    assert not (tmp_path / "no").exists()
    (tmp_path / "node" / "node.toml").unlink()
    with pytest.raises(RecipeError, match="there is no node in"):
        leaving[0]("unasked")


def test_withdrawn_data_counts_through_what_a_derivative_goes_on_from(build: Path, tmp_path: Path) -> None:
    trained_on(build, "letters", "6" * 64)
    first = Lineage.load(build / "lineage.json")
    home = BuildHome(build)
    home.parents.mkdir()
    first.save(home.parents / f"{first.digest}.json")
    marks = Withdrawals(tmp_path / "node")
    marks.put(Withdrawn(dataset="letters", at="2026-11-22T00:00:00.000Z"))
    later = first.stages[0].model_copy(update={"datasets": ()})

    def begun_on(weights: str, *kinds: str) -> Source:
        parent = Parent(lineage=first.digest, weights="8" * 64, base="9" * 64)
        base = first.base.model_copy(update={"weights": weights})
        stages = tuple(later.model_copy(update={"kind": kind}) for kind in ("cpt", *kinds))
        update = {"parent": parent, "base": base, "stages": stages, "name": "second"}
        first.model_copy(update=update).save(home.lineage)
        return Source.open(build)

    for source in (begun_on("8" * 64), begun_on("9" * 64), begun_on("1" * 64, "port")):
        with pytest.raises(RightsRefused, match="stage 1 of letters, from which it goes on"):
            source.require_kept()
    begun_on("1" * 64).require_kept()  # a recipe that was run anew took no weights of the first along
    other = home.parents / f"{first.digest}.json"
    other.write_bytes(first.model_copy(update={"name": "forged", "stages": (later,)}).to_bytes())
    with pytest.raises(FormatError, match="is not the lineage that its name says"):
        begun_on("8" * 64).require_kept()
