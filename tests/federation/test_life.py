"""The life of a consortium of five, with real processes: its guide, as it stands."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.host import processes
from tapestry.node.agent import KEEP_S, LOOK_S
from tests.federation.byhand import Hand

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "life-of-a-consortium.md"
SMALLER = {
    "hidden_size = 64": "hidden_size = 16",
    "intermediate_size = 168": "intermediate_size = 32",
    "num_hidden_layers = 2": "num_hidden_layers = 1",
    "total = 40": "total = 45",
    "steps = 40": "steps = 4",
    "steps = 60": "steps = 5",
    "max_tokens = 8192": "max_tokens = 512",
    'voting = "14 days"': 'voting = "8 seconds"',
}
COLD = "TAPESTRY_TEST_COLD" in os.environ
BUSY = os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)
if COLD or BUSY:  # a command takes a second to start, and 45 rounds would be over before a vote is
    SMALLER |= {'voting = "14 days"': 'voting = "25 seconds"', "total = 40": "total = 120"}
MEMBERS = ("aare", "birs", "inn", "rhone")


class Consortium(Hand):
    """What the test asks it between the parts of the page."""

    def decided(self, *names: str) -> list[tuple[str, bool]]:
        """Verdict of proposals, once their time is over, and whether they have had effect."""
        wanted = [self.names[name] for name in names]

        def outcomes() -> list[Any]:
            said = self.json("tapestry proposal list --member ./member", "aare")["proposals"]
            assert isinstance(said, list)
            held = {each["proposal"]: each["outcome"] for each in said}
            return [held[proposal] for proposal in wanted]

        self.until(lambda: None not in outcomes())
        return [(each["verdict"], each["in_force"]) for each in outcomes()]


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    one = Consortium(tmp_path, SMALLER, forked=not COLD)
    yield one
    one.stop()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_life_of_a_consortium_as_the_guide_tells_it(consortium: Consortium, tmp_path: Path) -> None:
    page = GUIDE.read_text(encoding="utf-8")
    parts = re.split(r"^## \d+\. ", page, flags=re.MULTILINE)
    passed = ("passed", True)

    def go(number: int) -> None:
        consortium.type_all(parts[number], together=False)

    def said(words: str) -> str:
        return next(text for block, text in consortium.output.items() if words in block)

    go(1)
    go(2)
    assert consortium.decided("ADMISSION") == [passed]
    go(3)
    assert consortium.decided("AMENDMENT") == [passed]
    go(4)
    assert "phase pilot, which is not open" in said("run start --core ./core\n")
    assert "no-go" in said("tapestry phase status pilot --member ./member\n")
    assert consortium.decided("OPENING", "PLAN") == [passed, passed]
    go(5)
    assert consortium.decided("REVISION") == [passed]

    def status() -> dict[str, Any]:
        return consortium.json("tapestry run status --core ./core", "hq")

    before = status()["plan"]
    go(6)
    consortium.until(lambda: status()["status"] == "finished")
    ended = status()
    assert ended["plan"] != before
    consortium.names["STATE"] = str(ended["head"]["state"])
    go(7)
    assert consortium.decided("RELEASE") == [passed]
    told = json.loads((consortium.root / "inn" / "node" / "consortium.json").read_bytes())
    consortium.names["CORE-KEY"] = told["core_key"]
    time.sleep(LOOK_S + KEEP_S + 1.0)  # by then a node's own copy of the ledger has the decision
    go(8)
    fetched = consortium.root / "rhone" / "base-1"
    assert (fetched / "model.safetensors").is_file()
    (measured,) = json.loads((fetched / "leakage.json").read_bytes())["reports"]
    assert measured["node"] == "birs-1"
    assert ended["head"]["state"] in {row["target"] for row in measured["inference"]}
    assert "| birs-1 | base, round " in (fetched / "README.md").read_text(encoding="utf-8")
    go(9)
    assert consortium.decided("EXPULSION", "REPLACEMENT") == [passed, passed]
    go(10)
    alone = [sys.executable, "-P", "-m", "tapestry.cli.main", "entitlement", "verify", "inn.json"]
    process = processes.spawn(
        "verify",
        [*alone, "--core-key", told["core_key"]],
        log_path=tmp_path / "alone.log",
        cwd=tmp_path / "inn",
        isolate_network=True,
    )
    assert process.wait(60) == 0, (tmp_path / "alone.log").read_text()
