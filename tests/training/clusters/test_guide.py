"""The settings that the guide shows are settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tapestry.training.clusters import settings
from tapestry.training.clusters.opening import describe

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "islands.md"
SHOWN = re.findall(r"^```toml\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", SHOWN)
def test_settings_of_the_guide_are_settings(text: str, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[node]\nmember = "m"\nname = "n"\n' + text)
    assert settings.load(tmp_path).training.launcher == describe(tmp_path)["launcher"]


def test_it_shows_both_kinds() -> None:
    assert {
        kind for text in SHOWN for kind in re.findall(r"^\[(slurm|kubernetes)\]", text, re.MULTILINE)
    } == {
        "slurm",
        "kubernetes",
    }
