"""Derivatives on the next base: the sum, rows by token, adapters, what is refused, and what goes along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import InputError, ModelError
from tapestry.sovereign import directory, models
from tapestry.sovereign.directory import Tensors, weights_digest
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.port import arithmetic
from tapestry.sovereign.port.carry import Ported, Source, port
from tapestry.sovereign.port.fitted import fit
from tapestry.sovereign.port.gain import Gain, gains
from tapestry.sovereign.port.measured import Text
from tapestry.sovereign.port.rows import Rows, matched
from tapestry.training.tokenizer import Tokenizer
from tests.sovereign import made

NOW = 1_700_000_000_000


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Folders of an old base, a new one, and a derivative of the old one with full weights."""
    old = made.base(tmp_path / "old")
    new = made.changed(old, tmp_path / "new", made.noise(5))
    made.changed(old, tmp_path / "d" / "model", made.noise(6))
    made.finished(tmp_path / "d", old)
    return old, new, tmp_path / "d"


def carried(folder: Path, new: Path, old: Path | None, *, full: bool = False) -> Ported:
    return port(Source.open(folder, full=full), new, folder.with_name("out"), old=old, now_ms=NOW)


def test_the_sum(scene: tuple[Path, Path, Path]) -> None:
    old, new, folder = scene
    found = carried(folder, new, old)
    with Tensors(old) as o, Tensors(new) as n, Tensors(folder / "model") as d, Tensors(found.home.model) as p:
        assert p.names == n.names
        for name in n.names:
            assert torch.equal(p.read(name), n.read(name) + (d.read(name) - o.read(name)))
            assert not torch.equal(p.read(name), n.read(name))


def test_how_far_the_base_has_moved(tmp_path: Path, scene: tuple[Path, Path, Path]) -> None:
    old, _, folder = scene
    twice = made.changed(old, tmp_path / "twice", lambda _, values: 1.5 * values)
    assert carried(folder, twice, old).base_moved == pytest.approx(0.5)
    alone = made.with_adapter(old, tmp_path / "alone")
    assert port(Source.open(alone.root), twice, tmp_path / "x", old=None, now_ms=NOW).base_moved is None


def test_owner_and_lineage_go_along(scene: tuple[Path, Path, Path]) -> None:
    old, new, folder = scene
    before = Lineage.load(folder / "lineage.json")
    found = carried(folder, new, old)
    after = Lineage.load(found.home.lineage)
    assert (after.owner, after.name, after.level, after.licence) == (
        "ada",
        "letters",
        "national",
        "Apache-2.0",
    )
    assert after.base == models.base_of(new)
    assert after.parent is not None
    assert after.parent.lineage == before.digest
    assert (after.parent.weights, after.parent.base) == (before.weights, weights_digest(old))
    assert [stage.kind for stage in after.stages] == ["cpt", "port"]
    assert after.weights == weights_digest(found.home.model)
    assert Lineage.load(found.home.root / "parents" / f"{before.digest}.json") == before
    assert Lineage.load(found.home.model / "lineage.json") == after
    again = port(Source.open(found.home.root), old, folder.with_name("back"), old=new, now_ms=NOW)
    assert len(list((again.home.root / "parents").iterdir())) == 2
    with Tensors(again.home.model) as back, Tensors(folder / "model") as first:
        assert all(torch.allclose(back.read(n), first.read(n), atol=1e-6) for n in first.names)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "embed_tokens"]])
def test_an_adapter_on_the_new_base_is_the_merged_port(tmp_path: Path, targets: Any) -> None:
    old = made.base(tmp_path / "old", tie_word_embeddings=False)
    new = made.changed(old, tmp_path / "new", made.noise(5))
    made.with_adapter(old, tmp_path / "d", targets=targets)
    found = carried(tmp_path / "d", new, None)
    assert found.method == "lora"
    attached, merged = made.logits(new, found.home.adapter), made.logits(found.home.model)
    assert torch.allclose(attached, merged, atol=1e-4)
    assert not torch.allclose(merged, made.logits(new), atol=1e-2), "the control: the adapter does something"
    full = port(Source.open(tmp_path / "d", full=True), new, tmp_path / "full", old=old, now_ms=NOW)
    assert torch.allclose(made.logits(full.home.model), merged, atol=1e-4)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_factor(tmp_path: Path, adapter: bool) -> None:
    old = made.base(tmp_path / "old", tie_word_embeddings=False)
    new = made.changed(old, tmp_path / "new", made.noise(5))
    folder = tmp_path / "d"
    if adapter:
        made.with_adapter(old, folder, targets=["q_proj", "embed_tokens", "lm_head"])
    else:
        made.changed(old, folder / "model", made.noise(6))
        made.finished(folder, old)
    source = Source.open(folder)
    half = port(source, new, tmp_path / "half", old=old, now_ms=NOW, factor=0.5)
    whole = port(source, new, tmp_path / "whole", old=old, now_ms=NOW)
    with Tensors(new) as n, Tensors(half.home.model) as h, Tensors(whole.home.model) as w:
        for name in n.names:
            assert torch.allclose(h.read(name), (n.read(name) + w.read(name)) / 2, atol=1e-6)
    stages = [Lineage.load(each.home.lineage).stages[-1] for each in (half, whole)]
    assert stages[0].settings != stages[1].settings
    if adapter:
        attached = made.logits(new, half.home.adapter)
        assert torch.allclose(attached, made.logits(half.home.model), atol=1e-4)
        assert not torch.allclose(attached, made.logits(whole.home.model), atol=1e-2)


def test_the_factor_is_found_on_own_text(tmp_path: Path) -> None:
    """What was learnt, taken far too often, or backwards."""
    old = made.base(tmp_path / "old", tie_word_embeddings=False)
    (tmp_path / "own.txt").write_text("wóda zemja njebjo kniha " * 40, encoding="utf-8")
    texts = [Text("hsb", tmp_path / "own.txt")]
    module = models.open_model(old)
    rows = torch.tensor(list((tmp_path / "own.txt").read_bytes()[:480])).view(8, 60)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(15):
        torch.autograd.backward(module(input_ids=rows, labels=rows).loss)
        optimizer.step()
        optimizer.zero_grad()
    learnt = {name: value.detach() for name, value in module.named_parameters()}

    def times(folder: str, factor: float) -> Path:
        def change(name: str, before: torch.Tensor) -> torch.Tensor:
            return before + factor * (learnt[name] - before)

        return made.changed(old, tmp_path / folder, change)

    found = fit(old, times("often", 4.0), texts)
    assert found.factor < 1
    assert found.bits_per_byte[found.factor] == min(found.bits_per_byte.values())
    assert found.bits_per_byte[found.factor] < found.bits_per_byte[1.0], "the control: it matters"
    assert fit(old, times("once", 1.0), texts).factor >= 1
    with pytest.raises(ModelError, match="the new base alone is better") as caught:
        fit(old, times("backwards", -1.0), texts)
    assert "tapestry build rebase" in (caught.value.hint or "")


def grown(old: Path, to: Path, tokens: list[str], *, first: int = 0) -> Path:
    """A base with other weights and more tokens; `first` other tokens stand before them."""
    words = Tokenizer.from_json((old / "tokenizer.json").read_bytes())
    more = words.with_added([*(f"other{n}" for n in range(first)), *tokens])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        module = models.open_model(old)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        with models.quiet():
            module.resize_token_embeddings(more.size, mean_resizing=False)
    made.save(module, to, more)
    return to


@pytest.mark.parametrize("adapter", [False, True])
def test_a_vocabulary_that_grew(tmp_path: Path, adapter: bool) -> None:
    old = made.base(tmp_path / "old", tie_word_embeddings=False)
    new = grown(old, tmp_path / "new", ["wóda", "zemja"])
    folder = tmp_path / "d"
    if adapter:
        made.with_adapter(old, folder, targets=["q_proj", "embed_tokens", "lm_head"])
    else:
        made.changed(old, folder / "model", made.noise(6))
        made.finished(folder, old)
    found = carried(folder, new, None if adapter else old)
    assert found.tokens_added == 2
    table = "model.embed_tokens.weight"
    with Tensors(old) as o, Tensors(new) as n, Tensors(folder / "model") as d, Tensors(found.home.model) as p:
        assert p.shape(table) == (259, 32)
        assert torch.equal(p.read(table)[257:], n.read(table)[257:]), "rows of new tokens are the new base's"
        expected = n.read(table)[:257] + (d.read(table) - o.read(table))
        assert torch.allclose(p.read(table)[:257], expected, atol=1e-6)
    assert json.loads((found.home.model / "config.json").read_bytes())["vocab_size"] == 259
    if adapter:
        attached = made.logits(new, found.home.adapter)
        assert torch.allclose(attached, made.logits(found.home.model), atol=1e-4)


def test_rows_are_matched_by_token_not_by_place(tmp_path: Path) -> None:
    plain = made.base(tmp_path / "plain")
    old = grown(plain, tmp_path / "old", ["wóda"])
    new = grown(plain, tmp_path / "new", ["wóda"], first=3)
    made.changed(old, tmp_path / "d" / "model", made.noise(6))
    made.finished(tmp_path / "d", old)
    (tmp_path / "d" / "model" / "generation_config.json").write_text('{"eos_token_id": [256, 257]}')
    found = carried(tmp_path / "d", new, old)
    kept = json.loads((found.home.model / "generation_config.json").read_bytes())
    assert kept["eos_token_id"] == [256, 260], "what ends an answer is the token, not its number"
    table = "model.embed_tokens.weight"
    with (
        Tensors(old) as o,
        Tensors(new) as n,
        Tensors(tmp_path / "d/model") as d,
        Tensors(found.home.model) as p,
    ):
        change = d.read(table)[257] - o.read(table)[257]
        assert torch.equal(p.read(table)[260], n.read(table)[260] + change)
        assert torch.equal(p.read(table)[257:260], n.read(table)[257:260])


names = st.lists(st.text(min_size=1, max_size=3), unique=True, max_size=12)


@given(names, names, st.randoms())
def test_rows_by_token(old: list[str], added: list[str], order: Any) -> None:
    everything = list(dict.fromkeys([*old, *added]))
    order.shuffle(everything)
    before, after = {t: n for n, t in enumerate(old)}, {t: n for n, t in enumerate(everything)}
    rows = Rows.of_tokens(before, after)
    pairs = dict(zip(rows.to.tolist(), rows.of.tolist(), strict=True))
    assert pairs == {after[token]: before[token] for token in old}
    assert rows.added == len(everything) - len(old)


def test_a_tokenizer_that_lost_a_token(tmp_path: Path) -> None:
    plain = made.base(tmp_path / "plain")
    old = grown(plain, tmp_path / "old", ["wóda"])
    assert matched(plain, old).added == 1
    cut = tmp_path / "cut"
    cut.mkdir()
    value = json.loads((old / "tokenizer.json").read_bytes())
    (cut / "tokenizer.json").write_text(json.dumps({**value, "normalizer": {"type": "NFC"}}))
    with pytest.raises(ModelError, match="other normalizer"):
        matched(plain, cut)
    with pytest.raises(ModelError, match="no token 'wóda'") as caught:
        matched(old, plain)
    assert "tapestry build rebase" in (caught.value.hint or "")


UNRELATED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"model_type": "qwen2"}, "another architecture"),
    "another width": ({"hidden_size": 64}, "is another architecture"),
    "more layers": ({"num_hidden_layers": 3}, "num_hidden_layers is 3"),
    "other heads": ({"num_key_value_heads": 4}, "num_key_value_heads is 4"),
}


@pytest.mark.parametrize("what", UNRELATED)
@pytest.mark.parametrize("adapter", [False, True])
def test_unrelated_bases_are_refused(
    what: str, adapter: bool, scene: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    old, _, folder = scene
    if adapter:
        folder = made.with_adapter(old, tmp_path / "a").root
    config, says = UNRELATED[what]
    other = made.base(tmp_path / "other", **config)
    with pytest.raises(ModelError, match=says) as caught:
        carried(folder, other, old)
    assert "tapestry build rebase" in (caught.value.hint or "")
    assert not (folder.with_name("out")).exists()
    assert not list(folder.parent.glob(".*.tmp"))


def test_what_else_is_refused(scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, folder = scene
    with pytest.raises(ModelError, match=r"stands on .* already"):
        carried(folder, old, old)
    with pytest.raises(ModelError, match="is not the base that the derivative stands on"):
        carried(folder, new, new)
    with pytest.raises(ModelError, match="is needed"):
        carried(folder, new, None)
    with pytest.raises(InputError, match="does not exist"):
        Source.open(tmp_path / "nothing")
    out = folder.with_name("out")
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(InputError, match="is not empty"):
        carried(folder, new, old)
    assert (out / "mine").read_text() == "kept"
    shutil.rmtree(out)
    assert carried(folder, new, old).method == "full", "the control"


def test_a_damaged_base_and_values_that_are_not_finite(
    scene: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    old, new, folder = scene
    broken = made.changed(new, tmp_path / "broken", lambda n, v: v * float("nan") if "norm" in n else v)
    with pytest.raises(ModelError, match="is not finite"):
        carried(folder, broken, old)
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        carried(folder, broken, old)


ODD_ADAPTERS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "no plain LoRA"),
    "directions": ({"use_dora": True}, "use_dora"),
}


@pytest.mark.parametrize("what", ODD_ADAPTERS)
def test_odd_adapters(what: str, scene: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, _ = scene
    home = made.with_adapter(old, tmp_path / "a")
    path = home.adapter / "adapter_config.json"
    change, says = ODD_ADAPTERS[what]
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(ModelError, match=says) as caught:
        carried(home.root, new, old)
    assert "--full" in (caught.value.hint or "")
    assert carried(home.root, new, old, full=True).method == "full"


def test_no_more_than_three_tensors_are_in_memory(scene: tuple[Path, Path, Path], monkeypatch: Any) -> None:
    """Each tensor is read once from each of the three models, just before it is written."""
    old, new, folder = scene
    order: list[str] = []
    real = directory.Tensors.read

    def read(self: Tensors, name: str) -> torch.Tensor:
        order.append(name)
        return real(self, name)

    monkeypatch.setattr(Tensors, "read", read)
    monkeypatch.setattr("tapestry.sovereign.port.carry.weights_digest", lambda folder: weights_digest(old))
    with Tensors(old) as o, Tensors(new) as n, Tensors(folder / "model") as d:
        tables = arithmetic.Tables(frozenset(), matched(old, new))
        change = arithmetic.difference(o, d, n, tables)
        order.clear()
        arithmetic.carry(n, change, folder / "sum.safetensors")
    assert order == [name for name in sorted(set(order)) for _ in range(3)]


figures = st.floats(0.1, 10, allow_nan=False)


@given(figures, figures, figures)
def test_the_gain_recovered(base: float, ported: float, rebuilt: float) -> None:
    found = Gain(name="de", new_base=base, ported=ported, rebuilt=rebuilt)
    assert found.denominator == base - rebuilt
    if base - rebuilt < 0.01 * base:
        assert found.recovered is None and found.why_undefined
    else:
        assert found.recovered == (base - ported) / (base - rebuilt)
    mirrored = Gain(name="de", new_base=-base, ported=-ported, rebuilt=-rebuilt, lower_is_better=False)
    assert mirrored.recovered == found.recovered


def test_gains_by_name() -> None:
    found = gains({"de": 2.0, "fr": 2.0}, {"de": 1.9, "hi": 1.0}, {"de": 1.8})
    assert [(each.name, each.recovered) for each in found] == [("de", pytest.approx(0.5))]
    alone = gains({"de": 2.0}, {"de": 1.9}, None)[0]
    assert alone.recovered is None and alone.why_undefined == "no model was rebuilt on the new base"
    worse, better = (
        gains({"de": 2.0}, {"de": 1.9}, None, before={"de": b})[0] for b in (1.85, 1.95)
    )  # fmt: skip
    assert (worse.lost, better.lost, alone.lost) == (True, False, False)
    assert Gain(name="x", new_base=0.2, ported=0.4, rebuilt=None, before=0.5, lower_is_better=False).lost
    exact = Gain(name="x", new_base=100.0, ported=99.5, rebuilt=99.0)
    assert exact.recovered == pytest.approx(0.5), "one per cent is enough"


def test_gains_from_reports_are_over_the_same_things(tmp_path: Path) -> None:
    from tapestry.cli.build_port_work import from_reports
    from tapestry.protocol.leakage import Interval
    from tapestry.sovereign.evaluation.report import Data, EvaluationReport, Figure, Role, Subject

    def written(name: str, value: float, text: str, of: int) -> Path:
        subjects, figures = [], []
        roles: tuple[tuple[Role, float], ...] = (("model", value), ("base", 2.0))
        for role, one in roles:
            subjects.append(
                Subject(role=role, name="", weights=role[0].encode().hex() * 32, tokenizer="0" * 64,
                        parameters=1, model_type="")
            )  # fmt: skip
            at = Interval(value=one, low=one, high=one)
            figures.append(Figure(measure="bits-per-byte", part="de", role=role, count=3, of=of, value=at))
        report = EvaluationReport(
            at="2026-11-22T12:00:00.000Z", release="1", confidence=0.95, resamples=100, seed=0,
            isolation="netns", subjects=tuple(subjects),
            data=(Data(kind="text", name="de", sha256=text * 64, card=None),), figures=tuple(figures),
            changes=(), positions=(), distances=(), answered=(), notes=(), gates=None, unmet=(),
        )  # fmt: skip
        (tmp_path / name).write_bytes(report.to_bytes())
        return tmp_path / name

    ported = written("ported", 1.9, "a", 900)
    assert from_reports(ported, written("same", 1.8, "a", 900))[0].recovered == pytest.approx(0.5)
    for other in (written("text", 1.8, "b", 900), written("cut", 1.8, "a", 800)):
        with pytest.raises(InputError, match="over different things"):
            from_reports(ported, other)
