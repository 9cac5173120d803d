"""What is typed on the first day: README, the first ten minutes, the rehearsal; and the fault simulator."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.federation.support import free_port
from tests.guides.typist import scene
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


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_first_day(tmp_path: Path) -> None:
    exchanged = {
        "DEMO_ARGS=--build": f'DEMO_ARGS="--build {SHORT} --no-web"',
        "tapestry serve tapestry-demo": f"tapestry serve --port {free_port()} tapestry-demo",
        "tapestry demo --": f"tapestry demo {SHORT} --no-web --",
        "tapestry rehearse\n": "tapestry rehearse --quick --fault killed-core --fault leaving\n",
        "make sim  ": 'make sim SIM_ARGS="--seeds 3" ',
        "--minutes 60 --seeds 1000000": "--minutes 0.05 --seeds 4",
        "--split --seeds 100": "--split --seeds 2",
    }
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with scene(tmp_path, TYPES, exchanged=exchanged) as hand:
        hand.wait_s = 900.0
        for place in ("clone", "rehearsal"):
            (hand.root / place).mkdir()
            (hand.root / place / ".venv").symlink_to(sys.prefix)
        hand.section(START, "1. Train", at="clone")
        result = json.loads((hand.root / "clone/tapestry-demo/result.json").read_bytes())
        assert result["ledger"]["merges_repeated"] == result["rounds"] == 3
        said = hand.section(START, "2. Look at it", at="clone")
        assert "contribution" in said
        hand.section(START, "3. A model of your own", at="clone")
        hand.section(START, "4. Break it", at="clone")
        assert (hand.root / "clone/tapestry-rehearsal/report.html").is_file()

        hand.section(REHEARSE, "Rehearsing faults", at="rehearsal")
        said = hand.section(REHEARSE, "The report", at="rehearsal")
        assert said

        corpora(hand.root / "again" / "corpora")
        hand.section("README.md", "To look at", at="again")
        compared = json.loads((hand.root / "again/tapestry-demo/result.json").read_bytes())
        assert compared["members"]
        own = hand.root / "clone"
        support.make_base(own / "base")
        support.write_lines(own / "text", support.texts(60))
        evaluated.corpus(own / "held-out")
        hand.section("README.md", "A model of your own", at="clone")
        hand.end_all()
        hand.section("docs/guides/simulator.md", "The fault simulator", at="clone")


def corpora(folder: Path) -> None:
    for number in range(4):
        evaluated.corpus(folder / f"m{number}", seed=number, words=[f"wort{number}{n}" for n in range(20)])
