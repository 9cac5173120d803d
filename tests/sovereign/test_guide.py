"""docs/guides/sovereign-build.md, typed as it stands."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.cli import main
from tapestry.host import processes
from tapestry.sovereign.lineage import Lineage
from tests import warm
from tests.sovereign import support

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "sovereign-build.md"
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = processes.spawn
    warm.spawns()
    monkeypatch.chdir(tmp_path)
    support.make_base(tmp_path / "base")
    yield tmp_path
    processes.spawn = before


def test_from_a_folder_of_text_to_a_model(typed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    assert len(blocks) == 6
    for block in blocks:
        for line in block.splitlines():
            words = shlex.split(line)
            if words[0] == "tapestry":
                assert main.call(words[1:]) == 0, (line, capsys.readouterr().err)
            else:
                subprocess.run(["bash", "-ec", line], check=True, cwd=typed)
    lineage = Lineage.load(typed / "ours" / "lineage.json")
    assert [each.kind for each in lineage.stages] == ["cpt", "sft", "dpo"]
    assert (lineage.owner, lineage.languages) == ("domowina", ("hsb",))
    capsys.readouterr()
    assert main.call(["build", "status", "./ours", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "done"
