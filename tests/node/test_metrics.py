"""Of many runs of a node the series are of those that go on, then of those that it took part in last."""

from __future__ import annotations

from tapestry.node.metrics import MAX_RUNS, kept


def test_runs_that_go_on_come_first_and_then_the_last_that_were_timed() -> None:
    over = {f"a{number:02}": {"finished": True} for number in range(MAX_RUNS + 5)}
    runs = {**over, "y": {"finished": False}, "z": {}}
    timed = ["a00", *list(over)[:0:-1], "gone", "y", "a20"]
    found = kept(runs, timed)
    assert len(found) == MAX_RUNS
    assert found[:2] == ["y", "z"], "whatever its name, and before any round"
    assert found[2:5] == ["a20", "gone", "a01"] and "a00" not in found
