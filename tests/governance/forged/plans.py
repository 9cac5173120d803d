"""Runs that start on a plan which the members did not ratify for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from tapestry.protocol.clock import add_seconds, parse_time
from tapestry.rounds import machine as rounds
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import DAY, World, entry_at

WHO = "A run on a plan that members did not ratify"
RATIFIED = ("tapestry.governance.effects._ratified", "found is None or found.run != plan.run")


def starting(run: str) -> Callable[[World, Random], Forged]:
    def make(world: World, draw: Random) -> Forged:
        tip = replace(world.tip, at=add_seconds(world.at, 5 * DAY * draw.random()))
        state = rounds.plan_run(world.plans[run]).state
        now_ms = round(parse_time(tip.at).timestamp() * 1000)
        event = rounds.step(state, rounds.Start(), now_ms).events[0]
        return Forged(entries=(entry_at(tip, event, scope=run),), tip=tip)

    return make


forged(
    "plan-of-another-run",
    "starts a run on a plan that was ratified for another",
    "a decision names the run and the plan",
    RATIFIED,
)(starting("elsewhere"))
forged(
    "plan-voted-down",
    "starts a run on a plan that members have voted down",
    "a plan starts by a decision that passed",
    RATIFIED,
)(starting("lost"))
forged(
    "plan-never-voted-on",
    "starts a run on a plan that nobody was asked about",
    "a plan starts by a decision that passed",
    RATIFIED,
)(starting("unasked"))
