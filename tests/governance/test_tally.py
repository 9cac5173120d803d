"""Votes are counted exactly, in any order, and nobody decides alone."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import FormatError
from tapestry.governance import capture
from tapestry.governance.charter import Charter, Voting
from tapestry.governance.electorate import Standing, founding, may_propose, shares
from tapestry.governance.tally import Ballot, Question, Tally, tally
from tapestry.governance.words import ABOUT_ONE, KINDS
from tapestry.protocol.clock import add_seconds
from tests.governance import second
from tests.governance.made import NAMES, OPENED, ballots, charter, question, standings

DAYS_14 = 14 * 86400


def test_two_thirds_of_three_is_exactly_two() -> None:
    """1/3 + 1/3 reaches 2/3; in rounded numbers it would not."""
    made = charter((1, 1, 1), usual={"approval": "at least 2/3", "of": "all"})
    found = tally(made, question(), founding(made), ballots({"a": "yes", "b": "yes", "c": "no"}))
    assert (found.yes, found.no, found.verdict) == ("2/3", "1/3", "passed")
    assert found.approval.needed == "at least 2/3"
    strict = charter((1, 1, 1), usual={"approval": "more than 2/3", "of": "all"})
    found = tally(strict, question(), founding(strict), ballots({"a": "yes", "b": "yes", "c": "no"}))
    assert found.verdict == "not-approved"


def test_seats_with_a_cap() -> None:
    """Seats 5, 2, 2, 1: shares 1/2, 1/5, 1/5, 1/10. With a cap of 2/5 the first has 2/5 and the others 3/5 in
    proportion 2:2:1, so 6/25, 6/25, 3/25. The first and the last say yes: 13/25, just more than half."""
    made = charter((5, 2, 2, 1), voting={"cap": "2/5"})
    found = tally(made, question(), founding(made), ballots({"a": "yes", "b": "no", "c": "no", "d": "yes"}))
    assert {each.member: each.share for each in found.electors} == {
        "a": "2/5",
        "b": "6/25",
        "c": "6/25",
        "d": "3/25",
    }
    assert (found.yes, found.no, found.verdict) == ("13/25", "12/25", "passed")


def test_votes_by_contribution() -> None:
    """60, 30, 10 and nothing, half of the votes split equally: 1/8 + 6/20 = 17/40, 1/8 + 3/20 = 11/40,
    1/8 + 1/20 = 7/40, 1/8 = 5/40. Capped at 3/10, the first gives 1/8 up; the others share 7/10 as 11:7:5."""
    made = charter((1, 1, 1, 1), voting={"weights": "contribution", "equal_part": "1/2", "cap": "3/10"})
    # 11/23 of 7/10 is 77/230 and above the cap as well, so two are at it and 4/10 is left, as 7:5.
    found = shares(made.voting, standings((1, 1, 1, 1), (60, 30, 10, 0)))
    assert found == {
        "a": Fraction(3, 10),
        "b": Fraction(3, 10),
        "c": Fraction(7, 30),
        "d": Fraction(1, 6),
    }
    assert shares(made.voting, standings((1,) * 4)) == dict.fromkeys("abcd", Fraction(1, 4))


def test_abstaining_makes_a_quorum_and_nothing_else() -> None:
    made = charter(usual={"quorum": "at least 3/5"})
    members = founding(made)
    few = tally(made, question(), members, ballots({"a": "yes", "b": "yes"}))
    assert (few.verdict, few.quorum.reached) == ("no-quorum", "2/5")
    enough = tally(made, question(), members, ballots({"a": "yes", "b": "yes", "c": "abstain"}))
    assert (enough.verdict, enough.quorum.reached, enough.approval.reached) == ("passed", "3/5", "1")
    alone = tally(made, question(), members, ballots({"a": "yes", "b": "abstain", "c": "abstain"}))
    assert alone.verdict == "too-few-yes"


def test_who_is_interested_does_not_vote() -> None:
    made = charter((1, 1, 1, 1), usual={"approval": "at least 2/3", "of": "all"})
    cast = ballots({"a": "yes", "b": "yes", "c": "no", "d": "no"})
    found = tally(made, question("expel", "d"), founding(made), cast)
    assert [(each.member, each.reason) for each in found.left_out] == [("d", "interested")]
    assert [(each.member, each.reason) for each in found.discarded] == [("d", "interested")]
    assert (found.yes, found.verdict) == ("2/3", "passed")
    # Where the charter lets it vote, its no counts: 2/4.
    lets = charter((1, 1, 1, 1), usual={"approval": "at least 2/3", "of": "all", "interested": "votes"})
    assert tally(lets, question("expel", "d"), founding(lets), cast).verdict == "not-approved"


def test_a_decision_is_about_one_party_or_none() -> None:
    made = charter()
    for kind in KINDS:
        wrong = question(kind, None if kind in ABOUT_ONE else "a")
        with pytest.raises(FormatError, match="is about"):
            tally(made, wrong, founding(made), [])


def test_ballots_that_do_not_count_are_named_with_the_reason() -> None:
    made = charter((1, 1, 1, 1, 0, 1))
    members = [
        Standing(member=each.member, seats=each.seats, suspended=each.member == "f")
        for each in founding(made)
    ]
    closes = add_seconds(OPENED, DAYS_14)
    cast = [
        Ballot(member="a", choice="no", at=OPENED, sequence=10),
        Ballot(member="b", choice="yes", at=add_seconds(OPENED, -0.001), sequence=11),
        Ballot(member="a", choice="yes", at=closes, sequence=12),
        Ballot(member="b", choice="yes", at=add_seconds(closes, 0.001), sequence=13),
        Ballot(member="e", choice="yes", at=closes, sequence=14),
        Ballot(member="f", choice="yes", at=closes, sequence=15),
        Ballot(member="x", choice="yes", at=closes, sequence=16),
        Ballot(member="a", choice="no", at=add_seconds(closes, 1), sequence=17),
    ]
    found = tally(made, question(), members, cast)
    assert [(each.sequence, each.reason) for each in found.discarded] == [
        (10, "replaced"),
        (11, "early"),
        (13, "late"),
        (14, "no-seat"),
        (15, "suspended"),
        (16, "unknown"),
        (17, "late"),
    ]
    assert [(each.member, each.choice, each.sequence) for each in found.votes] == [("a", "yes", 12)]
    assert found.closes == closes == "2026-05-15T12:00:00.000Z"
    assert {each.member for each in found.electors} == set("abcd")


def test_input_that_states_a_thing_twice_is_refused() -> None:
    made = charter()
    twice = [*ballots({"a": "yes"}), *ballots({"b": "no"})]
    with pytest.raises(FormatError, match="position 1"):
        tally(made, question(), founding(made), twice)
    with pytest.raises(FormatError, match="stands twice"):
        tally(made, question(), [*founding(made), Standing(member="a")], [])
    with pytest.raises(FormatError, match="no ballot"):
        tally(made, question(), founding(made), ballots({"a": "Yes"}))  # type: ignore[dict-item]


def test_nobody_votes_and_nobody_is_left() -> None:
    made = charter(usual={"quorum": "at least 0", "yes_members": 1})
    assert tally(made, question(), founding(made), []).verdict == "no-quorum"
    gone = [Standing(member="a", suspended=True)]
    found = tally(made, question(), gone, ballots({"a": "yes"}))
    assert (found.verdict, found.electors) == ("no-quorum", ())


def test_a_tally_is_a_message() -> None:
    made = charter()
    found = tally(made, question(), founding(made), ballots({"a": "yes", "c": "no"}))
    assert Tally.from_bytes(found.to_bytes()) == found
    assert found.charter == made.digest


def test_a_suspended_member_may_appeal_and_no_more() -> None:
    made = charter(kinds={"hear-appeal": {"proposers": ("member",)}})
    gone = Standing(member="a", suspended=True)
    assert [kind for kind in KINDS if may_propose(made, kind, gone)] == ["hear-appeal"]
    assert all(may_propose(made, kind, Standing(member="a")) for kind in KINDS)
    assert not may_propose(made, "admit", Standing(member="a", roles=("auditor",)))


THRESHOLDS = st.sampled_from(
    ["more than 1/2", "at least 3/5", "at least 2/3", "more than 2/3", "at least 3/4"]
)
QUORUMS = st.sampled_from(["at least 0", "at least 1/3", "at least 1/2", "more than 1/2", "at least 2/3"])


@st.composite
def charters(draw: st.DrawFn) -> Charter:
    """Any that does not contradict itself."""
    size = draw(st.integers(3, 7))
    weights = draw(st.sampled_from(["equal", "seats", "contribution"]))
    seats = [draw(st.integers(1, 5)) if weights == "seats" else 1 for _ in range(size)]
    usual = {
        "approval": draw(THRESHOLDS),
        "of": draw(st.sampled_from(["cast", "all"])),
        "quorum": draw(QUORUMS),
        "quorum_of": draw(st.sampled_from(["members", "votes"])),
        "yes_members": draw(st.integers(1, 2)),
        "interested": draw(st.sampled_from(["out", "votes"])),
    }
    cap = draw(st.sampled_from([f"1/{size}", "2/5" if size > 2 else "1/2", "1"]))
    voting: dict[str, Any] = {"weights": weights, "cap": cap}
    if weights == "contribution":
        voting["equal_part"] = draw(st.sampled_from(["1/10", "1/2", "1"]))
    return charter(seats, usual=usual, voting=voting)


@st.composite
def votes(draw: st.DrawFn) -> tuple[Charter, Question, list[Standing], list[Ballot]]:
    made = draw(charters())
    members = [
        Standing(
            member=one.member,
            seats=one.seats,
            suspended=draw(st.integers(0, 5)) == 0,
            contribution=draw(st.integers(0, 10**6)),
        )
        for one in founding(made)
    ]
    kind = draw(st.sampled_from(KINDS))
    about = draw(st.sampled_from([*(one.member for one in members), "x"])) if kind in ABOUT_ONE else None
    cast = [
        Ballot(
            member=draw(st.sampled_from([*(one.member for one in members), "x"])),
            choice=draw(st.sampled_from(["yes", "yes", "no", "abstain"])),
            at=add_seconds(OPENED, draw(st.sampled_from([-0.001, 0, 0.001, 60, DAYS_14, DAYS_14 + 0.001]))),
            sequence=at,
        )
        for at in range(1, draw(st.integers(1, 12)))
    ]
    return made, Question(kind=kind, about=about, opened=OPENED), members, cast


QUICK = settings(max_examples=50, deadline=None)


@QUICK
@given(votes(), st.randoms(use_true_random=False))
def test_the_order_of_ballots_and_members_changes_nothing(case: Any, random: Any) -> None:
    made, asked, members, cast = case
    shuffled, others = list(cast), list(members)
    random.shuffle(shuffled)
    random.shuffle(others)
    assert tally(made, asked, others, shuffled) == tally(made, asked, members, cast)


@QUICK
@given(votes(), st.data())
def test_one_more_yes_never_turns_passed_into_failed(case: Any, data: st.DataObject) -> None:
    """Also where it replaces that member's no, or its abstention."""
    made, asked, members, cast = case
    before = tally(made, asked, members, cast)
    one = data.draw(st.sampled_from(members))
    more = Ballot(member=one.member, choice="yes", at=add_seconds(OPENED, 60), sequence=99)
    after = tally(made, asked, members, [*cast, more])
    assert after.passed or not before.passed
    assert Fraction(after.yes) >= Fraction(before.yes)


@QUICK
@given(votes())
def test_no_share_is_above_the_cap_and_all_add_up(case: Any) -> None:
    made, asked, members, cast = case
    electors = tally(made, asked, members, cast).electors
    if electors:
        assert sum(Fraction(each.share) for each in electors) == 1
        cap = max(Fraction(made.voting.cap), Fraction(1, len(electors)))
        assert max(Fraction(each.share) for each in electors) <= cap


@QUICK
@given(votes())
def test_a_second_count_says_the_same(case: Any) -> None:
    made, asked, members, cast = case
    found = tally(made, asked, members, cast)
    plain = [
        {"member": m.member, "seats": m.seats, "suspended": m.suspended, "contribution": m.contribution}
        for m in members
    ]
    offsets = {
        add_seconds(OPENED, s): round(s * 1000) for s in (-0.001, 0, 0.001, 60, DAYS_14, DAYS_14 + 0.001)
    }
    rows = [(b.sequence, b.member, b.choice, offsets[b.at]) for b in cast]
    yes, no, abstain, verdict = second.count(
        json.loads(made.to_bytes()), asked.kind, asked.about, plain, rows
    )
    assert (str(yes), str(no), str(abstain), verdict) == (found.yes, found.no, found.abstain, found.verdict)


def passes_alone(made: Charter, members: list[Standing]) -> bool:
    """Whether any one yes passes anything, whatever else is cast or not."""
    for kind in ("ratify-plan", "expel"):
        for one in members:
            for rest in ("absent", "no", "abstain"):
                choices = {m.member: rest for m in members if m is not one and rest != "absent"}
                cast = ballots({**choices, one.member: "yes"})  # type: ignore[dict-item]
                about = "a" if kind == "expel" else None
                if tally(made, question(kind, about), members, cast).passed:  # type: ignore[arg-type]
                    return True
    return False


@settings(max_examples=25, deadline=None)
@given(charters(), st.sets(st.sampled_from(NAMES[:7])))
def test_under_an_accepted_charter_nobody_passes_anything_alone(made: Charter, gone: set[str]) -> None:
    """Not even when others are suspended; a charter under which one could is refused."""
    members = [
        Standing(member=each.member, seats=each.seats, suspended=each.member in gone)
        for each in founding(made)
    ]
    if passes_alone(made, members):
        assert capture.refusals(made)
    if made.decisions["admit"].yes_members == 1:
        last = [Standing(member=each.member, suspended=each.member != "b") for each in members]
        assert passes_alone(made, last), "the refusal would be for nothing"


def test_shares_of_nobody() -> None:
    assert shares(Voting(), ()) == {}
