"""A build on two ranks that share the model, killed on the way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tapestry.sovereign import launcher
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.status import Status
from tapestry.training import launcher as training_launcher
from tests.sovereign import support


def run(home: BuildHome, **env: str) -> int:
    """Started as the command does, from nothing: torchrun's ranks are not forked from anything."""
    given = {
        **os.environ,
        **training_launcher.environment(1),
        **training_launcher.LOOPBACK,
        **launcher.OFFLINE,
    }
    with (home.root / "build.log").open("ab") as log:
        return subprocess.run(
            launcher.command(home.root, 2),
            env={name: value for name, value in (given | env).items() if value is not None},
            stdout=log,
            stderr=log,
            timeout=1200,
            check=False,
        ).returncode


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_ranks_learn_what_one_does_and_go_on_when_killed(tmp_path: Path, optimizer: str) -> None:
    cpt = support.CPT.rstrip() + f'\noptimizer = "{optimizer}"\n\n'
    text = support.HEAD + cpt + support.DPO
    one = support.make_all(tmp_path, text)
    assert support.run(one)[0] == 0
    two = support.make_build(tmp_path / "two", text.replace("threads = 1", "threads = 1\nprocesses = 2"))
    assert run(two, TAPESTRY_FAILPOINT="build.step:3") != 0
    names = [path.name for path in (two.stage(1, "cpt") / "checkpoints").iterdir()]
    assert "00000002" in names
    shards = (two.stage(1, "cpt") / "checkpoints" / "00000002").glob("shard-*.safetensors")
    rows = [len(load_file(shard)["parameter.model.embed_tokens.weight"]) for shard in shards]
    assert sorted(rows) == [128, 129], "each rank has its rows of each parameter"
    assert run(two) == 0, (two.root / "build.log").read_text()[-4000:]
    status = Status.load(two.status)
    assert status is not None
    assert status.phase == "done"
    for mine, other in zip(Lineage.load(one.lineage).stages, Lineage.load(two.lineage).stages, strict=True):
        assert mine.loss_last == pytest.approx(other.loss_last, rel=1e-3)
