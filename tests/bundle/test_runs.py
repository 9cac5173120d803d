"""Random small runs, each of whose nodes takes leave; `make exits` does a hundred."""

from __future__ import annotations

from tests.bundle.campaign import Tally, one


def test_every_node_of_some_runs_takes_leave_whole() -> None:
    tally = Tally()
    for seed in (3, 7, 9, 13, (1 << 32) + 1):
        one(seed, tally)
    assert not tally.refused
    assert not tally.incomplete
    assert tally.bundles >= 10
    assert tally.contributions > 10
