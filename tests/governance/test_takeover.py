"""Who could change the charter after suspending others: held against every order of votes there could be."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.cli import charterfile
from tapestry.governance import capture
from tapestry.governance.charter import Charter
from tapestry.governance.electorate import Standing, founding, may_propose
from tapestry.governance.takeover import takeover
from tapestry.governance.tally import tally
from tapestry.governance.words import Kind
from tests.attacks.switches import Switches
from tests.governance.made import ballots, charter, question

EXAMPLES = Path(__file__).parents[2] / "examples"


def sample(count: int) -> Charter:
    return charterfile.load(EXAMPLES / f"charter-{count}.toml")


class Search:
    """Every vote that a group can win against all others, one after the other, counted by the tally."""

    def __init__(self, made: Charter, group: frozenset[str]) -> None:
        self.made, self.group = made, group
        self.seen: set[frozenset[str]] = set()

    def wins(self, kind: Kind, gone: frozenset[str], about: str | None = None) -> bool:
        """Though the others say no, and though they stay away."""
        standings = [replace(one, suspended=one.member in gone) for one in founding(self.made)]
        mine = [one for one in standings if one.member in self.group]
        if not any(may_propose(self.made, kind, one) for one in mine):
            return False
        yes = dict.fromkeys(sorted(self.group), "yes")
        others = {one.member: "no" for one in standings if one.member not in self.group}
        asked = question(kind, about)
        return all(
            tally(self.made, asked, standings, ballots(cast)).passed  # type: ignore[arg-type]
            for cast in (yes | others, yes)
        )

    def changes(self, gone: frozenset[str] = frozenset()) -> bool:
        """Whether some order of suspensions and expulsions leads to a change of the charter."""
        if gone in self.seen:
            return False
        self.seen.add(gone)
        if self.wins("change-charter", gone):
            return True
        for name in sorted(set(self.made.voters) - self.group - gone):
            if any(self.wins(kind, gone, name) for kind in ("suspend", "expel")) and self.changes(
                gone | {name}
            ):
                return True
        return False


def fewest(made: Charter, *, removing: bool) -> int | None:
    voters = made.voters
    for number in range(1, len(voters) + 1):
        for group in combinations(voters, number):
            search = Search(made, frozenset(group))
            if search.changes() if removing else search.wins("change-charter", frozenset()):
                return number
    return None


RULES = st.fixed_dictionaries(
    {
        "approval": st.sampled_from(["more than 1/2", "at least 2/3", "at least 3/4"]),
        "of": st.sampled_from(["cast", "all"]),
        "quorum": st.sampled_from(["at least 1/3", "more than 1/2", "at least 3/4"]),
        "quorum_of": st.sampled_from(["members", "votes"]),
    }
)


@settings(max_examples=20, deadline=None)
@given(RULES, RULES, st.lists(st.integers(1, 3), min_size=3, max_size=5), st.sampled_from(["1", "2/5"]))
def test_it_finds_what_every_order_of_votes_finds(
    usual: dict[str, Any], change: dict[str, Any], seats: list[int], cap: str
) -> None:
    try:
        made = charter(seats, usual=usual, kinds={"change-charter": change}, voting={"cap": cap})
    except ValueError:  # a change that is easier than the rest
        made = charter(seats, usual=usual, voting={"cap": cap})
    found = takeover(made)
    assert (found.directly, found.after) == (fewest(made, removing=False), fewest(made, removing=True))


@pytest.mark.parametrize(("count", "directly", "after"), [(3, 2, 2), (5, 4, 3)])
def test_the_samples(count: int, directly: int, after: int) -> None:
    made = sample(count)
    found = takeover(made)
    assert (found.directly, found.after) == (directly, after)
    assert (fewest(made, removing=False), fewest(made, removing=True)) == (directly, after)
    assert not capture.refusals(made)


def test_the_sample_for_fifty() -> None:
    """All weigh the same in it as long as nobody has contributed; who acts alone has contributed all."""
    made = sample(50)
    found = takeover(made)
    assert (found.exact, found.easier) == (False, True)
    assert found.after is not None and found.directly is not None
    for number, able in ((found.after, True), (found.after - 1, False)):
        group = ["institute-01", *[name for name in made.voters if name != "institute-01"]][:number]
        members = [
            Standing(member=one.member, seats=1, roles=one.roles, contribution=int(one.member in group))
            for one in founding(made)
        ]
        about = next(name for name in made.voters if name not in group)
        cast = {one.member: "yes" if one.member in group else "no" for one in members}
        wins = [
            tally(made, question("suspend", about), members, ballots(each)).passed  # type: ignore[arg-type]
            for each in (cast, dict.fromkeys(group, "yes"))
        ]
        assert all(wins) == able


def test_a_charter_under_which_removing_helps_nobody() -> None:
    found = takeover(charter(usual={"of": "all"}))
    assert (found.voters, found.directly, found.after, found.removed) == (5, 3, 3, 0)
    assert not found.easier


def test_the_search_would_notice_a_check_that_looks_at_the_present_alone() -> None:
    """The positive control: without removals the sample for five looks safer than it is."""
    with Switches().off("tapestry.governance.takeover._removed", lambda _c, _m, others: (list(others), ())):
        assert takeover(sample(5)).after == 4 != fewest(sample(5), removing=True)
