"""The hand-driven path: the commands of docs/guides/first-consortium.md, as they stand there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.host import landlock
from tests.federation.byhand import Hand

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "first-consortium.md"
SMALLER = {
    "hidden_size = 64": "hidden_size = 16",
    "intermediate_size = 168": "intermediate_size = 32",
    "num_hidden_layers = 2": "num_hidden_layers = 1",
    "total = 6": "total = 2",
    "steps = 40": "steps = 4",
    "max_tokens = 8192": "max_tokens = 512",
}
ROUNDS = 2


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    one = Hand(tmp_path, SMALLER, forked="TAPESTRY_TEST_COLD" not in os.environ)
    yield one
    one.stop()


def finished(hand: Hand) -> bool:
    """By the node's own account, which costs no process to ask."""
    try:
        runs = [
            json.loads((hand.root / place / "node" / "status" / "agent.json").read_bytes())["runs"]["first"]
            for place in ("acme", "birch")
        ]
    except (OSError, ValueError, KeyError):
        return False
    return all(run.get("status") == "finished" for run in runs)


def test_the_guide_as_it_stands(hand: Hand) -> None:
    page = GUIDE.read_text(encoding="utf-8")
    for line in SMALLER:
        assert len(re.findall(rf"^{re.escape(line)}$", page, re.MULTILINE)) == 1, line
    before, after = page.split("## 6. What came out")
    hand.type_all(before)
    hand.until(lambda: finished(hand))
    level = hand.json("tapestry node status ./node", "acme")["level"]
    assert level in (("netns", "process") if landlock.version() >= 2 else ("none",))
    hand.type_all(after)

    printed = {
        name: next(text for block, text in hand.output.items() if name in block)
        for name in ("recompute --core", "recompute --node", "say.py", "key list")
    }

    for name in ("recompute --core", "recompute --node"):
        assert len(re.findall(r"\bsame\b", printed[name])) == ROUNDS, name
    assert len(printed["say.py"].encode()) > len("The ")
    assert "revoked" in printed["key list"]

    assert (hand.root / "hq" / "model" / "model.safetensors").is_file()

    status = hand.json("tapestry run status --core ./core", "hq")
    assert status["status"] == "finished"
    egress = hand.json("tapestry node egress ./node", "acme")["egress"]
    assert isinstance(egress, list)
    kinds = {row["kind"] for row in egress}
    assert {"result", "delta-manifest", "delta-shard", "enrolment", "contribution", "score"} <= kinds, kinds
    assert all(row["sha256"] and row["bytes"] for row in egress if row["kind"].startswith("delta"))

    refused = "tapestry member key list ./node && exit 1 || test $? -eq 4"
    hand.run(refused, hand.root / "birch")
    assert hand.process("acme").process.poll() is None, "the other node is not disturbed"
