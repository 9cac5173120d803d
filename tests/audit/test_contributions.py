"""Votes by contribution: what merges give is what the ledger states, and both verifiers count the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit.verify import Verifier
from tapestry.errors import IntegrityError
from tapestry.governance import proposal as subjects
from tapestry.rounds import machine
from tests.attacks.switches import Switches
from tests.audit import second
from tests.audit.council import USUAL, Council
from tests.audit.support import Ledger, verify

NAMES = ("ada", "bob", "cyd", "dan")
BY: dict[str, Any] = {"voting": {"weights": "contribution", "equal_part": "1/2", "cap": "1/3"}}


@pytest.fixture
def council(tmp_path: Path) -> Iterator[Council]:
    council = Council(tmp_path / "core", *NAMES)
    with council.core:
        yield council


def merged(council: Council, run: str, *rounds: tuple[str, ...]) -> None:
    """A run of so many merges, with an update of each of these members."""
    everybody = sorted({name for names in rounds for name in names})
    plan = council.plan(run=run, rounds_total=9, rounds_min_nodes=len(everybody), rounds_quorum=1)
    if council.votes.assembly().governance.charter is not None:
        council.ratified(plan)
    council.put(machine.Start(), run)
    for name in everybody:
        council.enrol(council.nodes[name], run)
    for names in rounds:
        for name in names:
            council.send(council.nodes[name], run)
        if len(names) < len(everybody):
            council.wait(61, run)
        council.merge(run)


def opened(council: Council) -> dict[str, int]:
    proposal = council.propose("dan", subjects.OpenPhase(phase=f"p{council.now}"))
    item = council.votes.item(proposal)
    assert item.contributions is not None
    return item.contributions


def holds(given: Ledger) -> None:
    verify(given)
    second.verify(given.to_bytes().splitlines(keepends=True))


def test_what_is_merged_is_what_votes_weigh(council: Council) -> None:
    merged(council, "before", ("ada", "bob"))  # before votes went by it
    council.adopt(**BY)
    assert opened(council) == dict.fromkeys(NAMES, 0)
    merged(council, "run", ("ada", "bob"), ("ada",), ("ada", "bob", "cyd"))
    assert opened(council) == {"ada": 3, "bob": 2, "cyd": 1, "dan": 0}
    for yes, verdict in ((["ada", "bob"], "passed"), (["cyd", "dan"], "not-approved")):
        no = [name for name in NAMES if name not in yes]
        proposal = council.decided("dan", subjects.OpenPhase(phase=f"of-{yes[0]}"), yes=yes, no=no)
        outcome = council.votes.item(proposal).outcome
        assert outcome is not None and outcome.verdict == verdict
    holds(council.ledger())


@pytest.mark.parametrize(
    ("rules", "given"),
    [
        ({"window_rounds": 2}, {"ada": 2, "bob": 1, "cyd": 1, "dan": 0}),
        ({"measure": "weight"}, None),
    ],
)
def test_the_charter_says_what_counts(council: Council, rules: dict[str, Any], given: Any) -> None:
    council.adopt(**BY, contribution=rules)
    merged(council, "run", ("ada", "bob"), ("ada",), ("ada", "bob", "cyd"))
    found = opened(council)
    if given is None:
        assert (
            sum(found.values()) == 3 << 24 and found["ada"] > found["bob"] > found["cyd"] > found["dan"] == 0
        )
    else:
        assert found == given
    holds(council.ledger())


def test_a_core_that_states_other_contributions(council: Council) -> None:
    council.adopt(**BY)
    merged(council, "run", ("ada", "bob"))
    opened(council)
    given = council.ledger()
    place = given.of("proposal-opened", -1)
    for other in ({"ada": 9, "bob": 1, "cyd": 0, "dan": 0}, {"ada": 1, "bob": 1}, None):
        lie = given.changed(place, contributions=other).signed_anew()
        with pytest.raises(IntegrityError):
            verify(lie)
        with pytest.raises(ValueError, match=r"contributed something else|is no proposal-opened"):
            second.verify(lie.to_bytes().splitlines(keepends=True))
    lie = given.changed(place, contributions={"ada": 9, "bob": 1, "cyd": 0, "dan": 0}).signed_anew()
    with Switches().check_off("tapestry.audit.governance.repeated", "step.event != event"):
        verify(lie)


def test_a_verification_that_is_taken_up_again_knows_the_merges(council: Council) -> None:
    council.adopt(**BY, usual=USUAL)
    merged(council, "run", ("ada", "bob"), ("ada",))
    opened(council)
    lines = council.ledger().lines
    for place in range(1, len(lines) - 1):
        first = Verifier()
        for line in lines[:place]:
            first.line(line)
        try:
            kept = json.loads(json.dumps(first.to_json()))
        except IntegrityError:  # in the middle of what one input led to
            continue
        if first._blobs:
            continue
        again = Verifier()
        again.restore(kept, bytes(first.roots))
        again.take(lines[place:])
