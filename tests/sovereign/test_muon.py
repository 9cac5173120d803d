"""Muon in a stage: the same steps as in a run, and the same bits after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tapestry.errors import RecipeError
from tapestry.protocol.plan import Inner
from tapestry.sovereign import recipe
from tapestry.sovereign.muon import MuonAndAdamW, of_muon
from tapestry.training.optim import InnerOptimizer
from tests.sovereign import support
from tests.sovereign.support import CPT, HEAD, SFT
from tests.sovereign.test_build import here, stop

MUON = CPT.replace('method = "full"', 'method = "full"\noptimizer = "muon"')


def test_its_steps_are_those_of_a_run_with_muon(tmp_path: Path) -> None:
    folder = support.make_base(tmp_path / "base")
    ours, other, adamw = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(3))
    inner = Inner(
        steps=1, sequence_length=8, batch_sequences=1, learning_rate=1e-2, optimizer="muon",
        beta2=0.999, weight_decay=0.1, clip_norm=1e6, muon_momentum=0.95,
    )  # fmt: skip
    in_a_run = InnerOptimizer(dict(other.named_parameters()), inner)
    in_a_stage = MuonAndAdamW(dict(ours.named_parameters()), 1e-2, 0.1, 1)
    in_a_stage.load_state_dict(in_a_stage.state_dict())  # as accelerate does
    plain = torch.optim.AdamW(adamw.parameters(), lr=1e-2, weight_decay=0.1)
    ids = torch.arange(24).view(2, 12)
    for rate in (1e-2, 5e-3, 1e-3):
        for model in (ours, other, adamw):
            model(input_ids=ids, labels=ids).loss.backward()
        for group in (*in_a_stage.param_groups, *plain.param_groups):
            group["lr"] = rate
        in_a_run.step(rate)
        for optimizer in (in_a_stage, plain):
            optimizer.step()
            optimizer.zero_grad()
    mine = ours.state_dict()
    assert all(torch.allclose(mine[name], value, atol=1e-5) for name, value in other.state_dict().items())
    assert not all(torch.allclose(mine[name], value, atol=1e-5) for name, value in adamw.state_dict().items())


def test_it_moves_the_hidden_matrices_alone(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(support.make_base(tmp_path / "base"))
    found = of_muon(MuonAndAdamW(dict(model.named_parameters()), 1e-3, 0.0, 1))
    names = {name.split(".")[-2] for name, each in model.named_parameters() if id(each) in found}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    with pytest.raises(RecipeError, match="has 32 rows, on 33 ranks") as raised:
        MuonAndAdamW(dict(model.named_parameters()), 1e-3, 0.0, 33)
    assert raised.value.hint


def test_stopped_and_gone_on_with_it_comes_to_the_same_bits(tmp_path: Path) -> None:
    whole = support.make_all(tmp_path, HEAD + MUON)
    stopped = support.make_build(tmp_path / "stopped", HEAD + MUON)
    stop(stopped, after=2)
    names = [path.name for path in (stopped.stage(1, "cpt") / "checkpoints").iterdir()]
    assert names == ["00000002"]
    weights = {here(home).weights for home in (whole, stopped)}
    assert len(weights) == 1
    assert here(support.make_build(tmp_path / "adamw", HEAD + CPT)).weights not in weights


def test_a_recipe_that_names_no_optimizer_is_the_one_it_was() -> None:
    plain, named = (recipe.parse((HEAD + text).encode(), "").stage[0] for text in (CPT, MUON))
    assert "optimizer" not in plain.model_dump(mode="json")
    assert plain.settings != named.settings
    adamw = CPT.replace('method = "full"', 'method = "full"\noptimizer = "adamw"')
    assert recipe.parse((HEAD + adamw).encode(), "").stage[0].settings == plain.settings


def test_an_adapter_has_no_muon() -> None:
    text = SFT.replace("steps = 4", 'steps = 4\noptimizer = "muon"')
    with pytest.raises(RecipeError, match='optimizer = "muon" is of method "full" only'):
        recipe.parse((HEAD + text).encode(), "")
