"""Who could block or force what: held against every way the others could vote, counted by the tally."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import CharterError
from tapestry.governance import capture, coalitions
from tapestry.governance.capture import Capture, Power
from tapestry.governance.charter import Charter
from tapestry.governance.electorate import Standing, founding
from tapestry.governance.tally import Tally, tally
from tapestry.governance.words import ABOUT_ONE, KINDS, Kind, bound
from tests.governance.made import ballots, charter, question, standings

QUORUMS = ["at least 0", "at least 1/3", "at least 1/2", "more than 1/2", "at least 1"]
WAYS = ("yes", "no", "absent")


def of(made: Charter, kind: Kind = "ratify-plan") -> Capture:
    return next(each for each in capture.check(made) if each.kind == kind)


def sets(power: Power, size: int) -> set[frozenset[str]]:
    return set(power.ones if size == 1 else power.twos)


def vote(made: Charter, kind: Kind, about: str | None, choices: dict[str, str]) -> Tally:
    cast = {name: way for name, way in choices.items() if way != "absent"}
    return tally(made, question(kind, about), founding(made), ballots(cast))  # type: ignore[arg-type]


class Brute:
    """The same questions, answered by counting every vote there could be."""

    def __init__(self, made: Charter, kind: Kind, about: str | None, group: tuple[str, ...]) -> None:
        self.made, self.kind, self.about = made, kind, about
        self.group = group
        self.others = [
            name
            for name in made.voters
            if name not in group and not (about == name and made.counts_out(kind))
        ]

    def passed(self, mine: str, others: tuple[str, ...]) -> bool:
        choices = dict(zip(self.others, others, strict=True)) | dict.fromkeys(self.group, mine)
        return vote(self.made, self.kind, self.about, choices).passed

    def quorum(self, others: tuple[str, ...]) -> bool:
        choices = dict(zip(self.others, others, strict=True)) | dict.fromkeys(self.group, "abstain")
        found = vote(self.made, self.kind, self.about, choices)
        reached = found.verdict != "no-quorum"
        assert reached == (bound(found.quorum.needed).reached(Fraction(found.quorum.reached)))
        return reached

    def answers(self) -> tuple[bool, bool, bool, bool]:
        """Forces, forces when few vote, blocks, blocks when few vote."""
        every = list(product(WAYS, repeat=len(self.others)))
        forces = all(self.passed("yes", others) for others in every)
        no_or_absent = [others for others in every if "yes" not in others]
        forces_few = any(self.quorum(others) and self.passed("yes", others) for others in no_or_absent)
        all_yes = ("yes",) * len(self.others)
        blocks = not self.passed("no", all_yes) or not self.passed("absent", all_yes)
        blocks_few = any(
            self.quorum(others) and self.passed("yes", others) and not self.passed("no", others)
            for others in every
            if "no" not in others
        )
        return forces, forces_few, blocks, blocks_few


def brute(made: Charter, kind: Kind, size: int) -> list[set[frozenset[str]]]:
    """For each of the four questions, every coalition of that size for which some vote says so."""
    found: list[set[frozenset[str]]] = [set(), set(), set(), set()]
    outs = [None] if kind not in ABOUT_ONE else [*made.voters, "x"] if made.counts_out(kind) else ["x"]
    for about in outs:
        voters = [name for name in made.voters if name != about]
        for group in combinations(voters, size):
            for place, can in zip(found, Brute(made, kind, about, group).answers(), strict=True):
                if can:
                    place.add(frozenset(group))
    return found


RULES = st.fixed_dictionaries(
    {
        "approval": st.sampled_from(["more than 1/2", "at least 2/3", "more than 2/3", "at least 3/4"]),
        "of": st.sampled_from(["cast", "all"]),
        "quorum": st.sampled_from(
            ["at least 0", "at least 1/3", "at least 1/2", "more than 1/2", "at least 1"]
        ),
        "quorum_of": st.sampled_from(["members", "votes"]),
        "yes_members": st.integers(1, 2),
    }
)


@settings(max_examples=25, deadline=None)
@given(
    RULES,
    st.lists(st.integers(1, 4), min_size=3, max_size=4),
    st.sampled_from(["1", "2/5"]),
    st.sampled_from(["ratify-plan", "expel"]),
    st.sampled_from([1, 2]),
)
def test_the_check_says_what_every_possible_vote_says(
    rule: dict[str, Any], seats: list[int], cap: str, kind: Kind, size: int
) -> None:
    made = charter(seats, usual=rule, voting={"cap": cap})
    found = of(made, kind)
    assert found.exact
    said = [sets(power, size) for power in (found.forces, found.forces_few, found.blocks, found.blocks_few)]
    assert said == brute(made, kind, size)


def test_five_equal_members_by_hand() -> None:
    """Two thirds of those who vote, three must come: two against three block, two of three who come pass."""
    found = of(charter(usual={"approval": "at least 2/3", "quorum": "more than 1/2"}))
    assert (found.electors, found.to_pass, found.to_stop) == (5, 4, 2)
    assert not found.forces.ones and not found.forces.twos
    assert not found.blocks.ones and len(found.blocks.twos) == 10
    assert not found.forces_few.ones and len(found.forces_few.twos) == 10
    assert not found.refused


def test_two_of_three_force_everything() -> None:
    found = of(charter((1, 1, 1), usual={"of": "all"}))
    assert len(found.forces.twos) == 3
    assert not found.refused


def test_where_two_are_left_both_must_agree_and_that_is_not_refused() -> None:
    made = charter((1, 1, 1), usual={"of": "all"})
    found = of(made, "expel")
    assert found.unavoidable
    assert len(found.blocks.ones) == 3
    assert not capture.refusals(made)


@pytest.mark.parametrize(
    ("seats", "usual", "tables", "where", "says", "way_out"),
    [
        # One of five is enough when few vote.
        (
            (1,) * 5,
            {"quorum": "at least 1/5", "yes_members": 1},
            {},
            "yes_members",
            "pass admit alone when",
            "2",
        ),
        # Nobody can alone today, but the last who is not suspended could.
        ((1,) * 5, {"quorum": "more than 1/2", "yes_members": 1}, {}, "yes_members", "suspended", "2"),
        # 6 of 10 seats: passes alone, and with a second yes asked for still blocks alone.
        ((6, 1, 1, 1, 1), {"of": "all", "yes_members": 1}, {}, "yes_members", "a could pass", "2"),
        ((6, 1, 1, 1, 1), {"of": "all"}, {}, "approval", "a could block", "voting.cap"),
        # All must agree.
        (
            (1,) * 5,
            {"approval": "at least 1", "of": "all"},
            {},
            "approval",
            "block admit alone",
            "at least 4/5",
        ),
        # All must come.
        ((1,) * 5, {"quorum": "at least 1"}, {}, "quorum", "block admit alone", "at least 4/5"),
        # All must come, by votes: the heaviest has 2/6.
        (
            (2, 1, 1, 1, 1),
            {"quorum": "at least 1", "quorum_of": "votes"},
            {},
            "quorum",
            "block admit alone",
            '"at least 2/3"',
        ),
        ((1,) * 5, {"yes_members": 4}, {}, "yes_members", "expel alone", "yes_members = 3"),
        ((1,) * 5, {}, {"release": {"signatures": 1}}, "signatures", "sign a release alone", "2 or more"),
        ((1,) * 5, {}, {"release": {"signatures": 3}}, "signatures", "stop every release", "signatures = 2"),
    ],
)
def test_control_of_one_is_refused_with_the_way_out(
    seats: tuple[int, ...], usual: dict[str, Any], tables: dict[str, Any], where: str, says: str, way_out: str
) -> None:
    made = charter(seats, usual=usual, **tables)
    faults = capture.refusals(made)
    hits = [f for f in faults if says in f.rule]
    assert hits, [f.rule for f in faults]
    assert hits[0].where.endswith(where)
    assert way_out in hits[0].way_out
    with pytest.raises(CharterError) as caught:
        capture.accept(made)
    assert caught.value.hint


def test_the_way_out_leads_out() -> None:
    """What the refusal of a veto says to write is accepted, and one step more is not."""
    for approval, refused in (("at least 3/5", False), ("more than 3/5", True)):
        made = charter((2, 1, 1, 1), usual={"approval": approval, "of": "all", "interested": "votes"})
        # The heaviest has 2/5, so the others have 3/5.
        assert any("block" in fault.rule for fault in capture.refusals(made)) == refused


def test_who_alone_may_propose_could_block() -> None:
    members = {name: {"roles": ("member", "steward") if name == "a" else ("member",)} for name in "abcde"}
    made = charter(members=members, kinds={"open-phase": {"proposers": ("steward",)}})
    (fault,) = capture.refusals(made)
    assert (fault.where, "a alone may propose open-phase" in fault.rule) == (
        "decisions.open-phase.proposers",
        True,
    )
    two = {**members, "b": {"roles": ("member", "steward")}}
    made = charter(members=two, kinds={"open-phase": {"proposers": ("steward",)}})
    assert not capture.refusals(made)
    assert frozenset("ab") in of(made, "open-phase").blocks.twos


def test_contribution_is_looked_at_for_the_worst_case() -> None:
    """Whoever trains most may come to the cap: at a half it blocks, at a third it does not."""
    for cap, refused in (("1/2", True), ("1/3", False)):
        voting = {"weights": "contribution", "equal_part": "1/10", "cap": cap}
        made = charter(voting=voting, usual={"interested": "votes", "of": "all"})
        assert bool(capture.refusals(made)) == refused
        assert not of(made).exact
        # That worst case does come about.
        members = standings((1,) * 5, (10**9, 1, 1, 1, 1))
        cast = ballots({"a": "no", "b": "yes", "c": "yes", "d": "yes", "e": "yes"})
        assert tally(made, question(), members, cast).passed != refused
    # Two at a third each have more than half; but they are no quorum if the three others stay away.
    assert len(of(made).forces_few.twos) == 10
    assert not of(made).forces.twos


def test_the_check_follows_who_is_there_now() -> None:
    made = charter(usual={"approval": "at least 3/4", "of": "all", "interested": "votes"})
    assert not capture.refusals(made)
    now = [Standing(member=m.member, suspended=m.member in "de") for m in founding(made)]
    found = capture.check(made, now)
    assert all(each.blocks.ones for each in found)
    assert capture.check(made, [Standing(member="a", suspended=True)])[0].electors == 0


def test_fifty_and_more_members_are_checked_in_time() -> None:
    members = {f"m{at:03}": {"seats": 1 + at % 3} for at in range(50)}
    made = charter(members=members, release={"holders": ("m001", "m002", "m003")})
    began = time.process_time()
    found = capture.check(made)
    assert time.process_time() - began < 10
    assert len(found) == len(KINDS) and all(each.exact for each in found)
    many = {f"m{at:03}": {"seats": 1 + at % 10} for at in range(256)}
    made = charter(members=many, release={"holders": ("m001", "m002", "m003")})
    began = time.process_time()
    assert not any(each.exact for each in capture.check(made))
    assert time.process_time() - began < 10


@settings(max_examples=25, deadline=None)
@given(RULES, st.lists(st.integers(1, 4), min_size=3, max_size=6), st.integers(1, 2))
def test_what_is_not_exact_finds_more_and_never_less(
    rule: dict[str, Any], seats: list[int], size: int
) -> None:
    shares = [(Fraction(each, sum(seats)), 1) for each in seats]
    exact = coalitions.hall(shares)
    rough = coalitions.Hall(weights=exact.weights, counts=exact.counts, total=exact.total, exact=False)
    made = charter(seats, usual=rule).decisions["admit"]
    for group in combinations(exact.weights, size):
        for ask in (coalitions.forces_when_few_vote, coalitions.blocks_when_few_vote):
            assert ask(made, rough, group) >= ask(made, exact, group)
