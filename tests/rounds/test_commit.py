"""Commit, then reveal: nobody's bytes are seen before everybody has said what they will send."""

from __future__ import annotations

import pytest

from tapestry.errors import Busy, FormatError, NotFound, Refused
from tapestry.protocol.canonical import encode
from tapestry.protocol.plan import Plan
from tapestry.rounds import events as ev
from tapestry.rounds import machine as m
from tapestry.rounds.waiting import waiting_for
from tests.rounds.test_machine import Run, contribution, make_plan


def committing(**rounds: object) -> Run:
    return Run(make_plan(**{"total": 9, "reveal_s": 4.0, **rounds}))


def reveal(given: m.Contribute) -> m.Reveal:
    return m.Reveal(node=given.node, contribution=given.contribution)


def names(run: Run) -> list[str]:
    return [event.type for event in run.events]


def sealed(*nodes: str, **rounds: object) -> tuple[Run, dict[str, m.Contribute]]:
    """Round 1 with what each of them committed."""
    run = committing(**rounds)
    run.begin(*nodes)
    sent = {node: contribution(run.state, node) for node in nodes}
    for given in sent.values():
        run.give(given)
    return run, sent


def phase(run: Run) -> str | None:
    return run.state.current.phase if run.state.current is not None else None


def test_a_round_is_sealed_when_all_have_committed_and_merged_when_all_have_revealed() -> None:
    run = committing()
    run.begin("a", "b")
    sent = {node: contribution(run.state, node) for node in "ab"}
    run.give(sent["a"])
    assert phase(run) == "training" and not m.work(run.state).screen, "there are no bytes to look at"
    with pytest.raises(Busy, match="not sealed"):
        run.give(reveal(sent["a"]))
    run.give(sent["b"])
    assert phase(run) == "revealing" and run.state.current.deadline_ms == run.now + 4000  # type: ignore[union-attr]
    assert waiting_for(run.state, run.now) == "the bytes of a, b"
    for given in sent.values():
        run.give(reveal(given))
        assert run.give(reveal(given)).events == () == run.give(given).events, "both may come twice"
        run.screen_all()
    assert [s.node for s in m.work(run.state).merge[0].merged] == ["a", "b"]
    run.merge_all()
    assert names(run)[4:-1] == [
        "round-opened",
        *["contribution-committed"] * 2,
        "round-sealed",
        *["contribution-revealed", "contribution-accepted"] * 2,
        "round-closed",
        "round-committed",
    ]


def test_what_another_has_committed_is_refused() -> None:
    """Whoever sees an envelope before the round is sealed can name its bytes, and has none."""
    for reveal_s, taken in ((4.0, False), (None, True)):  # the second is the control
        run = Run(make_plan(reveal_s=reveal_s))
        run.begin("a", "b")
        first = contribution(run.state, "a")
        run.give(first)
        copy = contribution(run.state, "b", delta=first.delta)
        if taken:
            run.give(copy)
            assert "b" in run.state.current.submissions  # type: ignore[union-attr]
        else:
            with pytest.raises(Refused, match="the bytes that node a is to send"):
                run.give(copy)


def test_nothing_is_committed_once_bytes_may_be_seen() -> None:
    run = committing(quorum=1)
    run.begin("a", "b")
    late = contribution(run.state, "b")
    run.give(contribution(run.state, "a"))
    run.now += 10_000
    run.give(m.Tick())
    assert phase(run) == "revealing"
    assert isinstance(run.give(late).refusal, Refused)
    with pytest.raises(NotFound, match="was not committed"):
        run.give(reveal(late))


def test_bytes_that_do_not_come_in_time_are_done_without() -> None:
    run, sent = sealed("a", "b", "c", min_nodes=3)
    for node in "ab":
        run.give(reveal(sent[node]))
        run.screen_all()
    assert phase(run) == "revealing" and m.work(run.state).wake_ms == run.now + 4000
    run.now += 4000
    run.give(m.Tick())
    assert run.state.current.submissions["c"].reason == "not-revealed"  # type: ignore[union-attr]
    assert [s.node for s in m.work(run.state).merge[0].merged] == ["a", "b"]
    with pytest.raises(Refused, match="too late"):
        run.give(reveal(sent["c"]))
    run.merge_all()
    run.give(contribution(run.state, "c"))  # the next round is open to it


@pytest.mark.parametrize("below", ["wait", "abandon"])
def test_a_sealed_round_below_quorum_is_abandoned(below: str) -> None:
    """It cannot wait for others: they would have seen what the first revealed."""
    run, sent = sealed("a", "b", below_quorum=below)
    run.give(reveal(sent["a"]))
    run.screen_all()
    run.now += 4000
    run.give(m.Tick())
    assert names(run)[-3:] == ["contribution-refused", "round-abandoned", "round-opened"]
    assert run.state.merges == 0


def test_nobody_waits_for_the_bytes_of_a_node_that_left() -> None:
    run, sent = sealed("a", "b", "c", min_nodes=3)
    for node in "ab":
        run.give(reveal(sent[node]))
        run.screen_all()
    run.give(m.Withdraw(node="c", reason="left"))
    assert phase(run) == "merging"


def test_too_few_commitments_wait_or_are_abandoned() -> None:
    for below, number in (("wait", 1), ("abandon", 2)):
        run = committing(below_quorum=below)
        run.begin("a", "b")
        run.give(contribution(run.state, "a"))
        run.now += 10_000
        run.give(m.Tick())
        assert run.state.current is not None and run.state.current.round == number
    waiting = committing()
    waiting.begin("a", "b")
    waiting.give(contribution(waiting.state, "a"))
    waiting.now += 10_000
    assert "1 of 2 contributions committed" in str(waiting_for(waiting.state, waiting.now))


def test_what_is_late_is_committed_to_the_round_then_open() -> None:
    run = committing(quorum=1, staleness=1)
    run.begin("a", "b")
    late, first = contribution(run.state, "b"), contribution(run.state, "a")
    run.give(first)
    run.now += 10_000
    run.give(m.Tick())
    with pytest.raises(Busy, match="not open yet"):
        run.give(late)
    run.give(reveal(first))
    run.screen_all()
    run.merge_all()
    second = contribution(run.state, "a")
    for given in (late, second):
        run.give(given)
    for given in (late, second):
        run.give(reveal(given))
    run.screen_all()
    assert [(s.node, s.weight) for s in m.work(run.state).merge[0].merged] == [
        ("a", 11184811),
        ("b", 5592405),
    ]


def test_a_plan_without_it_is_written_as_before() -> None:
    """Ledgers of before verify for ever: the field is in the canonical form only where it says something."""
    plan = make_plan()
    assert b"reveal_s" not in plan.to_bytes() and Plan.from_bytes(plan.to_bytes()) == plan
    stated = plan.model_dump(mode="json")
    stated["rounds"]["reveal_s"] = None
    with pytest.raises(FormatError, match="leaves out"):
        Plan.from_bytes(encode(stated))
    assert b'"reveal_s":4' in committing().state.plan.to_bytes()


def test_the_state_survives_a_snapshot() -> None:
    run, sent = sealed("a", "b")
    run.give(reveal(sent["a"]))
    assert type(run.state).from_bytes(run.state.to_bytes()) == run.state
    for event in run.events:
        body = event.model_dump(mode="json")
        assert ev.parse_event(body.pop("type"), body) == event
