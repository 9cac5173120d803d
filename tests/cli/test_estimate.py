"""`tapestry run estimate`: the sample, a node's own rounds, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli import calibration, membersfile
from tapestry.errors import InputError, NotFound, PlanError
from tapestry.node import lines, settings
from tapestry.node.home import Home, round_name
from tapestry.protocol.messages import Merged
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore
from tests.cli.conftest import Call
from tests.governance.planner.made import layout, member, members
from tests.governance.planner.made import plan as made_plan

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAN, MEMBERS = EXAMPLES / "plan-70b.toml", EXAMPLES / "members-70b.toml"
SHA = "0" * 64


def test_the_sample(call: Call, tmp_path: Path) -> None:
    code, out, err = call("run", "estimate", PLAN, "--members", MEMBERS, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["parameters"] == 70_553_706_496, "as published for this shape"
    assert found["nodes"] == 20 and found["tokens"] >= 1_400_000_000_000
    assert 1.7 < found["loss"]["low"] < found["loss"]["middle"] < found["loss"]["high"] < 2.2
    assert found["loss"]["beyond"] is True
    missing = {(one["what"], one["who"]) for one in found["missing"]}
    assert {("memory", "ministry"), ("time", "run"), ("funds", "run"), ("text", "run")} <= missing
    assert ("memory", "centre") not in missing
    assert all(one["source"] for one in found["formulas"] + found["constants"])
    period = found["period_s"]
    assert period["low"] < period["middle"] < period["high"]


GOOD = """
format = "tapestry.members-file"
version = 1
[[members]]
name = "a"
tokens_per_s = [900.0, 1100.0]
up_mbit = 8.0
down_mbit = 8.0
[members.committed]
funds = 5.0
"""


@pytest.mark.parametrize(
    ("old", "new", "says", "hint"),
    [
        ("version = 1\n", "", "does not state its version", "version = 1"),
        ("version = 1", "version = 2", "version 2 is not supported", "another release"),
        ("members-file", "plan-file", "format 'tapestry.plan-file' is not supported", "another release"),
        ("up_mbit = 8.0", "up_mbit = -8.0", "line 7: members.0.up_mbit: input should be", "planner.md"),
        ("down_mbit", "donw_mbit", "donw_mbit: there is no such field", "down_mbit"),
        (
            "funds",
            "fun",
            "line 10: members.0.committed.fun: there is no such field",
            "accelerator_hours, tokens, funds",
        ),
        ("[900.0, 1100.0]", "[1100.0, 900.0]", "larger figure first", "planner.md"),
        ("[[members]]", "[[members]", "is not TOML", None),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, says: str, hint: str | None) -> None:
    assert membersfile.parse(GOOD.encode(), what="m").nodes == 1
    assert old in GOOD
    with pytest.raises(PlanError) as refused:
        membersfile.parse(GOOD.replace(old, new, 1).encode(), what="m")
    assert says in refused.value.message
    assert hint is None or hint in (refused.value.hint or "")


def test_a_file_that_is_not_there(call: Call, tmp_path: Path) -> None:
    code, _, err = call("run", "estimate", PLAN, "--members", tmp_path / "none.toml")
    assert code == 2 and "cannot read" in err and "hint:" in err


# -- recorded rounds ----------------------------------------------------------------------------


def node(root: Path, name: str = "a", rounds: int = 6, *, called: str | None = None) -> Path:
    """A node's home after some rounds of two nodes, as far as calibration reads it."""
    home = Home(root)
    home.make_folders()
    home.settings.write_text(
        settings.render(settings.make(member=name, name=called or f"{name}-1", corpus="text"))
    )
    store, of = BlobStore.open(home.blobs), layout()
    plan = made_plan(layout=of.digest)
    for message in (of, plan):
        store.put(message.to_bytes())
    merged = [
        Merged(node=f"{one}-1", member=one, contribution=SHA, delta=SHA, weight=1 << 23) for one in ("a", "b")
    ]
    for number in range(1, rounds + 1):
        record = RoundRecord(
            run="r",
            round=number,
            fragment=0,
            plan=plan.digest,
            before=SHA,
            after=SHA,
            merged=tuple(merged),
            envelopes=("{}", "{}"),
        )
        (home.records / f"{round_name('r', number)}.json").write_bytes(record.to_bytes())
        first = 9.0 if number < 3 else 0.0
        lines.append(home.times, [line(number, first)], durable=False)
    return root


def line(number: int, more_s: float) -> dict[str, Any]:
    """1,000 tokens in 2 s; the first rounds take longer."""
    times = dict.fromkeys(("evaluated_s", "encoded_s", "uploaded_s", "downloaded_s", "replayed_s"), 0.1)
    moved = dict.fromkeys(("uploaded_bytes", "downloaded_bytes"), 150_000)
    whole = {"tokens": 1000, "steps": 10, "whole_s": 3.0 + more_s, "trained_s": 2.0}
    said = {"sent_bytes": 190_000, "received_bytes": 190_000, "requests": 30}
    return {"run": "r", "round": number, **whole, **times, **moved, **said}


def test_rounds_of_a_node_are_read_with_their_plan(tmp_path: Path) -> None:
    who = members(member("a"), member("z"))
    (found,) = calibration.recorded([node(tmp_path / "a")], who)
    assert found.plan.run == "r" and found.layout == layout()
    assert [int(one["round"]) for one in found.all_lines] == [3, 4, 5, 6], "not the first two"
    assert [(one.name, one.count) for one in found.members.members] == [("a", 1), ("others", 1)]
    (both,) = calibration.recorded(
        [node(tmp_path / "1"), node(tmp_path / "2", "b")], members(member("a"), member("b"))
    )
    assert sorted(both.lines) == ["a", "b"] and both.members.nodes == 2


def test_two_nodes_of_one_member_are_two_nodes(tmp_path: Path) -> None:
    """Rounds of both count, and neither stands among the others, of whom there are none in rounds of two."""
    homes = [node(tmp_path / "1"), node(tmp_path / "2", called="a-2")]
    (found,) = calibration.recorded(homes, members(member("a"), member("z")))
    assert [(one.name, one.count) for one in found.members.members] == [("a", 2)]
    assert len(found.lines["a"]) == 8
    with pytest.raises(InputError, match="node a-1 is there twice"):
        calibration.recorded([homes[0], node(tmp_path / "copy")], members(member("a")))


def test_a_node_that_cannot_calibrate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not in the members file"):
        calibration.recorded([node(tmp_path / "a", "x")], members())
    with pytest.raises(NotFound, match="no recorded round"):
        calibration.recorded([node(tmp_path / "b", rounds=1)], members())


def test_a_calibrated_estimate_has_the_recorded_pace(call: Call, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(GOOD)
    arguments = ("run", "estimate", EXAMPLES / "plan.toml", "--members", tmp_path / "m.toml", "--json")
    code, out, err = call(*arguments, "--calibrate", node(tmp_path / "a"))
    assert code == 0, err
    found = json.loads(out)
    sources = {one["name"]: one["source"] for one in found["constants"]}
    assert sources["fixed_s"] == "recorded, 4 rounds"
    assert found["members"][0]["tokens_per_s"]["middle"] * found["flops_per_token"] == pytest.approx(
        500 * 263_040
    )
    assert ("recorded rounds", "run") not in {(one["what"], one["who"]) for one in found["missing"]}
    plain = json.loads(call(*arguments)[1])
    assert plain["members"][0]["tokens_per_s"]["middle"] == 1000.0
    shown = call(*arguments[:-1])[1]
    for said in ("What limits", "What is missing", "data parallel", "arXiv 2404.10102", "not calibrated"):
        assert said in shown
    short = call(*arguments[:-1], "--no-formulas")[1]
    assert "What is missing" in short and "arXiv 2404.10102" not in short
