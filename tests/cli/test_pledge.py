"""Three members pledge, confirm and open a phase with the commands they would type, on a real core."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.node.member import member_init
from tests.cli.conftest import Call
from tests.cli.test_proposal import CHARTER, NAMES, VOTING_S, running
from tests.core.support import CoreUnderTest

__all__ = ["running"]
STEWARD = '{ roles = ["member", "steward"] }'
PHASES = """
[phases.pilot]
title = "To learn how it goes"
needs = { compute = "100 accelerator-hours", funds = "5000 EUR" }
members = 2
runs = ["run"]
"""
TEXT = CHARTER.replace("{}", STEWARD) + PHASES


def test_a_phase_is_pledged_for_and_opened(running: CoreUnderTest, call: Call, tmp_path: Path) -> None:
    def ask(*arguments: object, fails: int = 0) -> Any:
        code, out, err = call(*arguments, "--json")
        assert code == fails, (arguments, out, err)
        return json.loads(out) if not fails else err

    charter = tmp_path / "charter.toml"
    charter.write_text(TEXT)
    folder, signed = {name: tmp_path / name for name in NAMES}, []
    for name in NAMES:
        member_init(folder[name], name)
        token = operator.invite(running.root, name)
        ask("member", "key", "vote", folder[name], "--core", running.url, "--invitation", token)
        signed += ["--signature", tmp_path / f"{name}.json"]
        ask("charter", "sign", charter, "--member", folder[name], "--out", signed[-1])
    ask("charter", "adopt", charter, "--core", running.root, *signed)

    def pledge(name: str, *arguments: object, fails: int = 0) -> Any:
        return ask("pledge", "new", *arguments, "--member", folder[name], fails=fails)

    refused = ask("run", "start", "--core", running.root, fails=5)
    assert "belongs to phase pilot" in refused and "tapestry phase status pilot" in refused
    unknown = pledge("acme", "compute", "20 gpu-days", fails=2)
    assert "in no unit that is known" in unknown and '"2000 accelerator-hours"' in unknown
    assert "one of: compute" in pledge("acme", "computers", "20", fails=2)
    assert "pledge it in the unit of the charter" in pledge("acme", "funds", "7 CHF", fails=5)
    assert "has no phase two" in pledge("acme", "funds", "7 EUR", "--phase", "two", fails=5)
    odd = pledge("acme", "funds", "7 EUR", "--dataset", "My Letters", fails=2)
    assert "cannot be signed: dataset" in odd and "publish its card" in odd
    assert "write at most" in pledge("acme", "funds", "7 EUR", "--text", "x" * 100_000, fails=2)
    assert "needs no storage" in pledge("acme", "storage", "7 TB", fails=5)
    hours = pledge("acme", "compute", "40 accelerator-hours")["pledge"]
    assert pledge("acme", "compute", "100 accelerator-hours")["number"] == 2
    funds = pledge("birch", "funds", "5000 EUR", "--text", "from the budget of this year")["pledge"]
    hours = ask("pledge", "list", "--member", folder["cedar"])["pledges"][0]["pledge"]
    assert "its own pledge" in ask("pledge", "confirm", hours[:8], "--member", folder["acme"], fails=5)
    ask("pledge", "confirm", hours[:8], "--text", "seen it", "--member", folder["cedar"])

    code, out, err = call("phase", "status", "pilot", "--member", folder["cedar"])
    assert code == 0 and "no-go" in out and "funds: 0 EUR of 5000 EUR confirmed" in out, (out, err)
    assert "not measured" in out and "too little" in out
    early = ask("proposal", "new", "open-phase", "--phase", "pilot", "--member", folder["acme"])["proposal"]
    plan = ask("proposal", "new", "ratify-plan", "--run", "run", "--member", folder["acme"])["proposal"]
    code, out, _ = call("proposal", "show", early, "--member", folder["birch"])
    assert code == 0 and "lacks funds: 0 EUR of 5000 EUR confirmed" in " ".join(out.split()), out
    for name in NAMES:
        ask("vote", early, "yes", "--member", folder[name])
        ask("vote", plan, "yes", "--member", folder[name])

    def decided(proposal: str, later_s: int) -> Any:
        (running.root / "later").write_text(str(later_s * 1000))
        for _ in range(100):
            shown = ask("proposal", "show", proposal, "--member", folder["cedar"])
            if shown["outcome"] is not None:
                return shown["outcome"]
            time.sleep(0.1)
        raise AssertionError("nothing was decided")

    outcome = decided(early, VOTING_S + 1)
    assert (outcome["verdict"], outcome["in_force"]) == ("passed", False)
    assert "passed, but not opened" in call("proposal", "list", "--member", folder["acme"])[1]
    assert "it lacks funds: 0 EUR" in ask("run", "start", "--core", running.root, fails=5)
    ask("pledge", "confirm", funds, "--member", folder["acme"])
    (found,) = ask("phase", "status", "--member", folder["acme"])["phases"]
    assert found["go"] and not found["missing"] and found["open"] is None
    again = ask("proposal", "new", "open-phase", "--phase", "pilot", "--member", folder["acme"])["proposal"]
    for name in NAMES[:2]:
        ask("vote", again, "yes", "--member", folder[name])
    assert decided(again, 2 * VOTING_S + 2)["in_force"]
    assert ask("run", "start", "--core", running.root)["status"] == "running"
    code, out, _ = call("pledge", "list", "--member", folder["birch"])
    assert code == 0 and "5000 EUR" in out and "acme" in out and "from the budget of this year" in out
    listed = {
        each["resource"]: each for each in ask("pledge", "list", "--member", folder["birch"])["pledges"]
    }
    assert listed["compute"]["words"][0]["text"] == "seen it"

    file = tmp_path / "ledger.jsonl"
    ask("ledger", "export", "--core", running.root, file)
    ask("ledger", "verify", file, "--no-merges")
    (alone,) = ask("phase", "status", "pilot", "--ledger", file)["phases"]
    (asked,) = ask("phase", "status", "pilot", "--member", folder["acme"])["phases"]
    assert alone == asked and alone["open"] == again
    assert ask("phase", "status", fails=2) and ask("phase", "status", "two", "--ledger", file, fails=5)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    assert "cut off" in ask("phase", "status", "--ledger", cut, fails=3)


@pytest.mark.parametrize(
    ("old", "new", "says", "hint"),
    [
        ('"100 accelerator-hours"', '"20 gpu-days"', "in no unit that is known", None),
        ('"100 accelerator-hours"', '"20 TB"', "no amount of compute", "2000 accelerator-hours"),
        ("compute =", "computers =", "is no resource", "compute, data.LANG"),
        ("members = 2", "members = 9", "there are 3", "members = 3"),
        ("members = 2", "member = 2", "there is no such field", "needs, members, counts"),
        ('runs = ["run"]', 'override = "at least 3/4"', "harder than a change", "change-charter"),
    ],
)
def test_a_phase_that_is_wrong_is_told_with_its_line(
    old: str, new: str, says: str, hint: str | None, call: Call, tmp_path: Path
) -> None:
    file = tmp_path / "charter.toml"
    assert old in TEXT
    file.write_text(TEXT.replace(old, new))
    code, _, err = call("charter", "check", file)
    flat = " ".join(err.split())
    assert code == 2 and says in flat and "charter.toml, line " in flat, err
    assert hint is None or hint in flat


def test_the_example_with_phases_is_explained(call: Call) -> None:
    file = Path(__file__).parents[2] / "examples" / "charter-phases.toml"
    code, out, err = call("charter", "check", file, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["accepted"] and found["overrides"][0]["to_pass"] == 4
    assert "phase below its thresholds" in call("charter", "check", file)[1]
    code, out, _ = call("charter", "explain", file)
    said = " ".join(out.split())
    assert code == 0 and "Until phase pilot is open, pilot-1 or pilot-2 does not start." in said
    assert "Below its thresholds it opens where at least three quarters of all votes are yes: 4" in said
    assert "Nothing opens phase base below its thresholds" in said


def test_a_need_is_written_once(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "charter.toml"
    for needs, fails in (("data.fr = '3 GB'", 0), ("data.fr = '3 GB', 'data.fr' = '5 GB'", 2)):
        file.write_text(TEXT.replace('compute = "100 accelerator-hours"', needs))
        code, _, err = call("charter", "check", file)
        assert code == fails, err
    assert "phases.pilot.needs.data.fr is written twice" in " ".join(err.split())
