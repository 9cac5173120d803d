"""Repeated merges: the same on an honest core, found out where anything differs, said where blobs lack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.cli import corehome, recompute
from tapestry.core.service import Core
from tapestry.protocol.artifact import State
from tapestry.protocol.views import RoundRecord
from tests.cli.conftest import Call
from tests.core.support import CoreUnderTest, make_plan


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a core with two committed rounds, stopped."""
    folder = tmp_path_factory.mktemp("merged")
    core = CoreUnderTest(folder / "core")
    try:
        plan = make_plan(folder / "seed")
        members = core.start().running(plan, folder / "seed", "acme", "birch")
        state = plan.initial_state
        for number in (1, 2):
            for i, member in enumerate(members):
                tokens = 1000 * (i + 1)
                member.hand_in(plan, 0.1 * number + 0.01 * i, round=number, state=state, tokens=tokens)
            state = members[0].wait(lambda view, due=number: view.head.merges == due).head.state
        members[0].wait(lambda view: view.status == "finished")
        core.stop()
        yield core.root
    finally:
        core.close()


def records(root: Path) -> list[RoundRecord]:
    with Core.open(root) as opened:
        return corehome.records(opened, "run")


def repeat(root: Path, changed: list[RoundRecord]) -> list[tuple[str, str]]:
    with Core.open(root) as opened:
        found = recompute.recompute(opened.store, changed, scratch_parent=root)
    return [(one.verdict, one.note) for one in found]


def test_every_way_a_record_can_differ(merged: Path, call: Call) -> None:
    root = merged
    code, out, err = call("run", "recompute", "--core", root, "--json")
    assert code == 0, err
    assert [(r["round"], r["verdict"]) for r in json.loads(out)["rounds"]] == [(1, "same"), (2, "same")]
    code, out, _ = call("run", "recompute", "--core", root, "--round", 2)
    assert code == 0
    assert "same" in out
    assert call("run", "recompute", "--core", root, "--round", 3)[0] == 5
    assert call("run", "recompute", "--core", root, "--run", "other")[0] == 5

    first, second = records(root)
    a, b = first.merged
    moved = (a.model_copy(update={"weight": a.weight + 1}), b.model_copy(update={"weight": b.weight - 1}))
    swapped = (a.model_copy(update={"delta": b.delta}), b)
    found = repeat(
        root,
        [
            first.model_copy(update={"after": second.after}),
            first.model_copy(update={"merged": moved}),
            first.model_copy(update={"merged": swapped}),
            first.model_copy(update={"envelopes": first.envelopes[::-1]}),
            second.model_copy(update={"merged": first.merged, "envelopes": first.envelopes}),
        ],
    )
    assert found == [
        ("differs", ""),
        ("differs", "round 1 of run run was merged with other weights than its plan gives"),
        ("differs", f"round 1 of run run: the record states {a.node} otherwise than {a.node} signed"),
        ("gone", "the record of round 1 lacks a contribution's signed envelope"),
        ("differs", f"round 2 of run run: the contribution of {a.node} was signed for something else"),
    ]
    assert not list(root.glob(".recompute-*")), "scratch is left behind"


def test_a_mismatch_has_exit_code_3(merged: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = records(merged)
    wrong = first.model_copy(update={"after": second.after})
    monkeypatch.setattr(corehome, "records", lambda *_: [wrong, second])
    code, out, err = call("run", "recompute", "--core", merged)
    assert code == 3
    assert "differs" in out
    assert "does not come out as recorded" in err


def test_blobs_that_were_erased_are_said(merged: Path, call: Call, tmp_path: Path) -> None:
    merged = shutil.copytree(merged, tmp_path / "copy")
    first, _ = records(merged)
    with Core.open(merged) as opened:
        opened.store.delete(first.merged[0].delta)
    code, out, err = call("run", "recompute", "--core", merged, "--json")
    assert code == 0, err
    assert [r["verdict"] for r in json.loads(out)["rounds"]] == ["gone", "same"]
    with Core.open(merged) as opened:
        for one in records(merged):
            opened.store.delete(one.merged[1].delta)
    assert call("run", "recompute", "--core", merged)[0] == 5


def test_one_round_whose_beginning_is_not_kept(merged: Path, call: Call, tmp_path: Path) -> None:
    """As at a node, which keeps few states: it is repeated from an earlier one."""
    merged = shutil.copytree(merged, tmp_path / "copy")
    first, second = records(merged)
    with Core.open(merged) as opened:
        opened.store.delete(second.before)
    code, out, err = call("run", "recompute", "--core", merged, "--round", 2, "--json")
    assert code == 0, err
    assert [(r["round"], r["verdict"]) for r in json.loads(out)["rounds"]] == [(2, "same")]
    with Core.open(merged) as opened:
        opened.store.delete(first.merged[0].delta)  # then there is no way to it
    assert call("run", "recompute", "--core", merged, "--round", 2)[0] == 5


def test_status_of_a_run_that_was_merged(merged: Path, call: Call) -> None:
    code, out, _ = call("run", "status", "--core", merged)
    assert code == 0
    assert "2 of 2" in out
    value = json.loads(call("run", "status", "--core", merged, "--json")[1])
    assert (value["status"], value["rounds"]) == ("finished", 2)
    with Core.open(merged) as opened:
        assert corehome.merged_tokens(opened, "run") == {"acme-1": 2000, "birch-1": 4000}
        State.from_bytes(opened.store.read(value["head"]["state"], State.MAX_BYTES))


def test_a_ledger_is_exported_and_holds_until_it_is_changed(merged: Path, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    code, out, _ = call("ledger", "export", "--core", merged, file, "--json")
    assert code == 0 and json.loads(out) == {"file": str(file), "bytes": file.stat().st_size}
    for where in (file, merged, merged.parent):
        code, out, err = call("ledger", "verify", where, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert (found["merges"], found["members"], found["contributions"]) == (2, 2, 4)
    data = file.read_bytes()
    assert data.count(b'"weight":') == 4
    file.write_bytes(data.replace(b'"tokens":2000', b'"tokens":2001', 1))
    code, _, err = call("ledger", "verify", file)
    assert code == 3 and "by the rules comes contribution-received" in err
    assert call("ledger", "verify", tmp_path / "none")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == [file.name], "nothing half-written is left"
