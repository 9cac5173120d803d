"""Three members decide with the commands they would type, on a real core."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.cli import planfile, proposal
from tapestry.core import operator, serve
from tapestry.core.clock import now_ms
from tapestry.node.member import member_init
from tapestry.protocol.plan import Origin
from tests.cli.conftest import Call
from tests.core.support import CoreUnderTest, make_plan

NAMES = ("acme", "birch", "cedar")
VOTING_S = 3600
CHARTER = f"""\
format = "tapestry.charter-file"
version = 1
title = "Three"

[members]
acme = {{}}
birch = {{}}
cedar = {{}}

[decisions.usual]
approval = "more than 1/2"
quorum = "at least 1/2"
voting = "{VOTING_S} seconds"

[release]
signatures = 2
holders = ["acme", "birch", "cedar"]
"""


def _on_a_clock_of_its_own(later: Path) -> None:
    """Of the core's process: the milliseconds that a file says ahead of this machine's."""

    def clock() -> int:
        return now_ms() + (int(later.read_text()) if later.exists() else 0)

    assert serve.serve.__kwdefaults__ is not None
    serve.serve.__kwdefaults__["clock"] = clock


@pytest.fixture
def running(core: CoreUnderTest, tmp_path: Path) -> Iterator[CoreUnderTest]:
    plan = make_plan(tmp_path / "blobs")
    operator.plan(core.root, plan, tmp_path / "blobs")
    core.prepare = partial(_on_a_clock_of_its_own, core.root / "later")
    yield core.start()


def test_three_members_decide(running: CoreUnderTest, call: Call, tmp_path: Path) -> None:
    def ask(*arguments: object, fails: int = 0) -> Any:
        code, out, err = call(*arguments, "--json")
        assert code == fails, (arguments, out, err)
        return json.loads(out) if not fails else err

    charter = tmp_path / "charter.toml"
    charter.write_text(CHARTER)
    folder = {name: tmp_path / name for name in NAMES}
    signed = []
    for name in NAMES:
        member_init(folder[name], name)
        assert "vote key" in ask("proposal", "list", "--member", folder[name], fails=2)
        token = operator.invite(running.root, name)
        key = ask("member", "key", "vote", folder[name], "--core", running.url, "--invitation", token)
        assert (folder[name] / "vote.key").stat().st_mode & 0o777 == 0o600
        # A second call is another key, and the first one ends.
        assert ask("member", "key", "vote", folder[name], "--core", running.url) != key
        signed += ["--signature", tmp_path / f"{name}.json"]
        ask("charter", "sign", charter, "--member", folder[name], "--out", signed[-1])
    few = ask("charter", "adopt", charter, "--core", running.root, *signed[:4], fails=5)
    assert "cedar has not signed" in few
    ask("charter", "adopt", charter, "--core", running.root, *signed)
    ask("charter", "adopt", charter, "--core", running.root, *signed)

    refused = ask("run", "start", "--core", running.root, fails=5)
    assert "no decision of the members" in refused and "proposal new ratify-plan" in refused
    assert "no decision of the members admits eve" in ask("core", "invite", running.root, "eve", fails=5)

    def new(*arguments: object, by: str = "acme") -> str:
        return str(ask("proposal", "new", *arguments, "--member", folder[by])["proposal"])

    (tmp_path / "why.txt").write_text("It is time.\nReally.\n")
    plan = new("ratify-plan", "--run", "run", "--text", tmp_path / "why.txt", "--title", "First run")
    admit = new("admit", "--about", "eve", by="birch")
    lost = new("open-phase", "--phase", "two", by="cedar")
    for name in NAMES[:2]:
        ask("vote", plan, "no", "--member", folder[name])
        answer = ask("vote", plan[:8], "yes", "--reason", f"{name} is for it", "--member", folder[name])
        assert answer["number"] == 2
        ask("vote", admit, "yes", "--member", folder[name])
    code, out, _ = call("proposal", "show", plan[:12], "--member", folder["cedar"])
    assert code == 0 and "acme is for it" in out and "It is time." in out and "left" in out, out
    assert "no decision" in ask("run", "start", "--core", running.root, fails=5)
    (running.root / "later").write_text(str(VOTING_S * 1000 + 1))
    for _ in range(100):
        shown = ask("proposal", "show", plan, "--member", folder["cedar"])
        if shown["outcome"] is not None:
            break
        time.sleep(0.1)
    assert (shown["outcome"]["verdict"], shown["outcome"]["in_force"]) == ("passed", True)
    assert shown["tally"]["yes"] == "2/3" and len(shown["ballots"]) == 4
    late = ask("vote", plan, "no", "--member", folder["cedar"], fails=5)
    assert "voting on" in late and "a new vote needs a new proposal" in late
    proposals = ask("proposal", "list", "--member", folder["acme"])["proposals"]
    listed = {each["proposal"]: each for each in proposals}
    assert listed[lost]["outcome"]["verdict"] == "no-quorum"
    assert ask("proposal", "list", "--open", "--member", folder["acme"])["proposals"] == []
    assert ask("run", "start", "--core", running.root)["status"] == "running"
    assert ask("core", "invite", running.root, "eve")["member"] == "eve"
    wrong = ("account", "dispute", "--run", "run", "--claim", "3 rounds", "--reason", "we were there")
    disputed = ask(*wrong, "--what", "availability", "--member", folder["cedar"])["dispute"]
    assert ask(*wrong, "--what", "availability", "--member", folder["cedar"])["dispute"] == disputed
    assert "can be disputed" in ask(*wrong, "--what", "beauty", "--member", folder["cedar"], fails=2)
    no = ask(*wrong, "--what", "other", "--about", "eve", "--member", folder["cedar"], fails=5)
    assert "there is no member eve" in no
    file = tmp_path / "ledger.jsonl"
    ask("ledger", "export", "--core", running.root, file)
    assert ask("ledger", "verify", file, "--no-merges")["members"] == 3
    assert "tapestry proposal list" in call("vote", "1" * 64, "yes", "--member", folder["acme"])[2]
    assert ask("proposal", "new", "admit", "--member", folder["acme"], fails=2)
    assert ask("proposal", "new", "admit", "--about", "x", "--run", "y", "--member", folder["acme"], fails=2)
    code, out, err = call("proposal", "list", "--member", folder["acme"])
    assert code == 0 and "passed" in out and "too few took part" in out, (out, err)


def test_a_revision_that_is_proposed_keeps_the_origin_of_its_run(tmp_path: Path) -> None:
    """Else the plan that was voted for would be another than `run revise` makes, and never in force."""
    file = Path(__file__).parents[2] / "examples" / "plan.toml"
    read, sha = planfile.load(file), "a" * 64
    fixed = {"model": sha, "layout": sha, "initial_state": sha, "parameters": 1000}
    before = read.plan(**fixed, origin=Origin(run="earlier", round=2, merges=2, plan=sha))
    council: Any = SimpleNamespace(
        client=SimpleNamespace(run=lambda _: SimpleNamespace(plan=before.digest)),
        blob=lambda _: before.to_bytes(),
    )
    revised = proposal._revised(council, file)
    assert revised == read.plan(**fixed, origin=before.origin, revision=2) and revised.origin is not None
