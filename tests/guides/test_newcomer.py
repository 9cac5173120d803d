"""What is typed on the first day: README, the first ten minutes, the rehearsal; and the fault simulator."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.federation.support import free_port
from tests.guides.pages import ROOT
from tests.guides.typist import Typist, scene
from tests.sovereign import evaluated, support

TYPES = {
    "README.md": (),
    "docs/guides/ten-minutes.md": (),
    "docs/guides/rehearse.md": (),
    "docs/guides/simulator.md": (),
}
SHORT = "--rounds 3 --steps 3"
"""Of a demo, in place of its 48 rounds of 20 steps."""
START, REHEARSE = "docs/guides/ten-minutes.md", "docs/guides/rehearse.md"
SIMULATOR = "docs/guides/simulator.md"


EXCHANGED = {
    "DEMO_ARGS=--build": f'DEMO_ARGS="--build {SHORT} --no-web"',
    "tapestry demo --": f"tapestry demo {SHORT} --no-web --",
    "tapestry rehearse\n": "tapestry rehearse --quick --fault killed-core --fault leaving\n",
    "make sim  ": 'make sim SIM_ARGS="--seeds 3" ',
    "--minutes 60 --seeds 1000000": "--minutes 0.05 --seeds 4",
    "--split --seeds 100": "--split --seeds 2",
}
WAIT_S = 900.0


@contextmanager
def clone(root: Path, *chosen: str) -> Iterator[Typist]:
    """A folder `clone` with the environment that `make` would make, and these pages."""
    serve = {"tapestry serve tapestry-demo": f"tapestry serve --port {free_port()} tapestry-demo"}
    (root / "clone").mkdir()
    (root / "clone" / ".venv").symlink_to(sys.prefix)
    with scene(root, {page: TYPES[page] for page in chosen}, exchanged=EXCHANGED | serve) as hand:
        hand.wait_s = WAIT_S
        yield hand


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_first_ten_minutes(tmp_path: Path) -> None:
    with clone(tmp_path, START) as hand:
        hand.section(START, "1. Train", at="clone")
        result = json.loads((hand.root / "clone/tapestry-demo/result.json").read_bytes())
        assert result["ledger"]["merges_repeated"] == result["rounds"] == 3
        said = hand.section(START, "2. Look at it", at="clone")
        assert "contribution" in said
        hand.section(START, "3. A model of your own", at="clone")
        hand.section(START, "4. Break it", at="clone")
        assert (hand.root / "clone/tapestry-rehearsal/report.html").is_file()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_rehearsal(tmp_path: Path) -> None:
    with clone(tmp_path, REHEARSE) as hand:
        hand.section(REHEARSE, "Rehearsing faults", at="clone")
        hand.section(REHEARSE, "The report", at="clone")


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_readme(tmp_path: Path) -> None:
    with clone(tmp_path, "README.md") as hand:
        home = hand.root / "clone"
        corpora(home / "corpora")
        hand.section("README.md", "To look at", at="clone")
        compared = json.loads((home / "compared/result.json").read_bytes())
        assert all(each["bits_per_byte_alone"] for each in compared["members"])
        support.make_base(home / "base")
        support.write_lines(home / "text", support.texts(60))
        evaluated.corpus(home / "held-out")
        shutil.copy(ROOT / "examples" / "constitution.toml", home)
        hand.words(
            "tapestry catalog add ./text --name text --license CC0-1.0 --language hsb --residency DE "
            "--category private --stage private-cpt",
            at="clone",
        )
        hand.section("README.md", "A model of your own", at="clone")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_simulator(tmp_path: Path) -> None:
    with clone(tmp_path, SIMULATOR) as hand:
        hand.section(SIMULATOR, "The fault simulator", at="clone")
        totals = json.loads((hand.root / "clone/sim-results/totals.json").read_bytes())
        assert totals


def corpora(folder: Path) -> None:
    for number in range(4):
        evaluated.corpus(folder / f"m{number}", seed=number, words=[f"wort{number}{n}" for n in range(20)])
