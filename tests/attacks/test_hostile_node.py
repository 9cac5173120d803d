"""A node that has joined and enrolled, and then lies in what it signs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx

from tapestry.core import operator
from tapestry.protocol.messages import Progress
from tapestry.protocol.plan import Merge
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.support import EVE, Game, refused
from tests.attacks.switches import Switches
from tests.core.support import make_plan

WHO = "an enrolled node, by what it signs"
Given = tuple[Any, ...]


# -- contributions ------------------------------------------------------------------------------


def _another_run(game: Game) -> httpx.Response:
    if "another" not in game.core.core.runs.names():
        folder = game.core.root.parent / "another"
        operator.plan(game.core.root, make_plan(folder, run="another"), folder)
    return game.tried(run="another")


def _stale(game: Game) -> httpx.Response:
    """Trained from what no round started from."""
    return game.tried(state="5" * 64)


@attacks(
    case(
        "another-nodes-envelope",
        "hands in under its own name what bob has signed",
        "the sender must be the signer (`Runs._opened`)",
        lambda g: g.eve.contribute(
            g.bob.contribution(g.plan, g.eve.send_delta(EVE), round=g.round, state=g.state), g.run
        ),
        "key",
        ("tapestry.core.runs.Runs._opened", "(signer.member, signer.node) != (by.member, by.node)"),
    ),
    case(
        "contribution-of-another-run",
        "hands in what was signed for another run",
        "the envelope names its run",
        _another_run,
        "refused",
        ("tapestry.core.runs.Runs._opened", "message.run != run"),
    ),
    case(
        "contribution-of-another-consortium",
        "hands in what was signed for another consortium",
        "the envelope names its consortium",
        lambda g: g.tried(consortium="1" * 64),
        "refused",
        ("tapestry.core.runs.Runs._opened", "message.consortium != self.consortium.id"),
    ),
    case(
        "update-of-an-old-state",
        "hands in under the new round's number an update that was trained from another base",
        "the envelope names the state it was trained from",
        _stale,
        "refused",
        ("tapestry.rounds.machine.contribute", "given.state != trained.state"),
    ),
    case(
        "update-under-another-plan",
        "hands in what was trained by other rules than those in force",
        "the envelope names the plan's digest",
        lambda g: g.tried(plan="5" * 64),
        "refused",
        ("tapestry.rounds.machine.contribute", "given.plan != state.plan.digest"),
    ),
    case(
        "more-tokens-than-the-plan-allows",
        "claims tokens no round has, to weigh more",
        "tokens are held against the plan's steps and batches",
        lambda g: g.tried(tokens=1 << 40),
        "refused",
        ("tapestry.rounds.machine.contribute", "given.steps > steps or given.tokens > tokens"),
    ),
    case(
        "more-steps-than-the-plan-allows",
        "claims more steps than a round has, and the tokens of them",
        "steps are held against the plan",
        lambda g: g.tried(steps=10_000, tokens=1 << 24),
        "refused",
        ("tapestry.rounds.machine.contribute", "given.steps > steps or given.tokens > tokens"),
    ),
    case(
        "contribution-before-its-round-opens",
        "hands in for a round that is still to come",
        "a round is looked up by its number",
        lambda g: g.tried(round=g.round + 5),
        "not-found",
        (
            "tapestry.rounds.machine.contribute",
            "state.find(given.round, given.fragment)",
            "state.current",
            "state",
        ),
    ),
    case(
        "contribution-to-another-fragment",
        "hands in for a part of the model that is not due",
        "a round is looked up by number and fragment",
        lambda g: g.tried(fragment=1),
        "refused",
        (
            "tapestry.rounds.machine.contribute",
            "state.find(given.round, given.fragment)",
            "state.current",
            "state",
        ),
    ),
)
def test_what_is_signed_for_something_else(game: Game, switches: Switches, given: Given) -> None:
    tried, expected, (target, check, *instead) = given
    before = game.sequence
    refused(tried(game), expected)
    assert game.sequence == before
    game.goes_on()
    with ExitStack() as stack:
        value: Callable[..., Any] = (lambda s: s.current) if instead else (lambda *_: False)
        stack.enter_context(switches.check_off(target, check, value, given=instead[1] if instead else ""))
        if expected == "refused" and instead:  # its shards are looked for too
            stack.enter_context(switches.off("tapestry.protocol.layout.Layout.fragment", _first))
        tried(game)
        assert game.outcome("bob-1" if "signer.node" in check else "eve-1") == ("accepted", None)


def _first(layout: Any, _number: int) -> Any:
    return layout.fragment_at(0)


@attack(
    "contribution-after-its-round-closed",
    tries="hands in another update once the round is merged, for a receipt that says it counts",
    stopped_by="only a round in training takes anything; the rest is recorded as late",
)
def test_after_the_round(game: Game, switches: Switches) -> None:
    old = {"round": game.round, "state": game.state, "nonce": "b" * 32}
    game.goes_on()
    refused(game.tried(**old), "refused")
    assert game.values(game.view().head.state) == {1.0 - 0.375}
    with (
        switches.check_off("tapestry.rounds.machine.contribute", 'at.phase != "training"'),
        switches.check_off(
            "tapestry.rounds.machine.contribute", 'one is not None and one.status != "refused"'
        ),
    ):
        pass_on = game.tried(**old | {"nonce": "c" * 32})
        assert pass_on.status_code == 200, "a receipt for what no merge holds"


@attack(
    "second-update-for-one-round",
    tries="replaces its update after it was accepted, once it has seen the others'",
    stopped_by="a node contributes once a round",
)
def test_a_second_update(play: Any, switches: Switches) -> None:
    game: Game = play()
    first = game.tried(game.eve.send_delta(0.375), tokens=2000)
    assert first.status_code == 200
    refused(game.tried(nonce="2" * 32), "conflict")
    view = game.ended()
    assert game.values(view.head.state) == {0.625}
    game.round, game.state = 2, view.head.state
    assert game.tried(game.eve.send_delta(0.375), tokens=2000).status_code == 200
    game.outcome()
    with switches.check_off(
        "tapestry.rounds.machine.contribute",
        'any(one is not None and one.status != "refused" for one in (own, before))',
    ):
        assert game.tried(nonce="2" * 32).status_code == 200
    assert game.values(game.ended().head.state) != {0.625 - 0.375}


@attack(
    "contribution-of-a-node-that-is-not-enrolled",
    tries="hands in without taking part",
    stopped_by="a round names the nodes it expects",
)
def test_not_expected(play: Any, switches: Switches) -> None:
    game: Game = play(eve_enrols=False)
    refused(game.tried(), "refused")
    game.goes_on()
    with switches.check_off(
        "tapestry.rounds.machine.contribute", "given.node not in trained.nodes or given.node not in at.nodes"
    ):
        assert game.tried().status_code == 200
    assert game.outcome() == ("accepted", None)


@attack(
    "withdrawn-node-comes-back",
    tries="enrols again after the operator has withdrawn it",
    stopped_by="a withdrawn node may not enrol",
)
def test_withdrawn(game: Game, switches: Switches) -> None:
    operator.withdraw(game.core.root, game.run, "eve-1")
    refused(game.eve.enrol(game.plan), "refused")
    game.with_eve = False
    game.goes_on()
    with switches.check_off("tapestry.rounds.machine._enrol", "given.node in state.withdrawn"):
        assert game.eve.enrol(game.plan).status_code == 200
    assert "eve-1" in game.view().enrolled


@attack(
    "influence-far-above-the-others",
    tries="claims all the tokens the plan allows, twenty times the others', to steer the merge",
    stopped_by="`merge.influence_cap`: no member weighs more, whatever it claims",
)
def test_influence(play: Any, switches: Switches) -> None:
    capped = Merge(outer="fedavg", outer_rate=1.0, outer_momentum=0.0, influence_cap=0.5)
    game: Game = play(merge=capped)
    assert game.tried(tokens=20_480).status_code == 200
    game.round, game.state = 2, game.ended().head.state
    weights = game.weights(1)
    assert weights["eve-1"] == 1 << 23 and weights["ada-1"] == weights["bob-1"] == 1 << 22
    with (
        switches.off("tapestry.rounds.weights.capped", lambda shares, cap: dict(shares)),
        switches.check_off("tapestry.rounds.weights._whole_units", "min(int(part), most)", int, given="part"),
    ):
        assert game.tried(tokens=20_480).status_code == 200
        game.ended()
    assert game.weights(2)["eve-1"] > 0.9 * (1 << 24)


# -- scores and progress ------------------------------------------------------------------------


@attack(
    "score-of-another-state",
    tries="publishes a figure for a base the run never had",
    stopped_by="a score names a state of the run",
)
def test_a_score_of_nothing(game: Game, switches: Switches) -> None:
    def tried() -> httpx.Response:
        return game.eve.score(game.plan, 0.01, state="7" * 64)

    refused(tried(), "conflict")
    game.goes_on()
    with switches.check_off(
        "tapestry.core.runs.Runs.score", "known.get(score.merges, score.state) != score.state"
    ):
        assert tried().status_code == 200


@attack(
    "score-changed-afterwards",
    tries="publishes a better figure once it knows the others'",
    stopped_by="one score a node and base",
)
def test_another_score(game: Game, switches: Switches) -> None:
    assert game.eve.score(game.plan, 3.0).status_code == 200
    refused(game.eve.score(game.plan, 1.0), "conflict")
    game.goes_on()
    with switches.check_off("tapestry.core.runs.Runs.score", "before.node == score.node"):
        assert game.eve.score(game.plan, 1.0).status_code == 200


@attack(
    "progress-of-a-stranger",
    tries="shows up in the view of a run it takes no part in",
    stopped_by="only enrolled nodes are shown",
)
def test_progress(play: Any, switches: Switches) -> None:
    game: Game = play(eve_enrols=False)
    body = Progress(round=1, step=1, steps=10, loss=0.0).to_bytes()
    api = game.core.api
    assert _post(game, f"/v1/runs/{game.run}/progress", body).status_code == 200
    assert "eve-1" not in api._telling.of(game.run)
    game.goes_on()
    with switches.check_off(
        "tapestry.core.api.Api.progress", "call.by.node in standing.state.enrolled", lambda: True
    ):
        _post(game, f"/v1/runs/{game.run}/progress", body)
    assert "eve-1" in api._telling.of(game.run)


def _post(game: Game, path: str, body: bytes) -> httpx.Response:
    return game.eve.ask("POST", path, body)
