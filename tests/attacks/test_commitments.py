"""A member that hands in as its own what another made in the same round, alone or with the core's help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tapestry.identity.envelope import Envelope
from tapestry.node.submit import Submitter
from tapestry.protocol import canonical
from tapestry.transport.client import CoreClient
from tests.attacks.catalog import attack
from tests.attacks.scene import Sending
from tests.attacks.support import BOB, EVE, Game, refused
from tests.attacks.switches import Switches
from tests.core.support import Member, artifact, shards
from tests.transport.stub import StubCore

WHO = "a member, against another in the same round"


@pytest.fixture
def game(play: Any) -> Game:
    """Without eve a merge has its two contributions."""
    made: Game = play(reveal_s=20.0, deadline_s=0.4)
    return made


def word(member: Member, game: Game, value: float, **other: Any) -> Envelope:
    """A contribution whose bytes nobody else has."""
    delta = canonical.sha256(artifact("delta", shards(value)).to_bytes())
    return member.contribution(game.plan, delta, round=game.round, state=game.state, **other)


def committed(member: Member, game: Game, value: float) -> Envelope:
    given = word(member, game, value)
    answer = member.contribute(given, game.run)
    assert answer.status_code == 200 and "committed" in answer.json(), answer.text
    return given


def revealed(member: Member, game: Game, given: Envelope, value: float) -> httpx.Response:
    member.send_delta(value)
    return member.contribute(given, game.run)


def sealed(game: Game) -> None:
    game.wait(lambda view: view.current is not None and view.current.phase == "revealing")


@attack(
    "names-what-another-has-committed",
    tries="sees bob's envelope before the round is sealed, and names the same bytes in its own",
    stopped_by="nobody commits the bytes of another",
)
def test_the_same_delta(game: Game, switches: Switches) -> None:
    def tried() -> httpx.Response:
        return game.eve.contribute(word(game.eve, game, BOB), game.run)

    committed(game.bob, game, BOB)
    refused(tried(), "refused")
    with switches.check_off("tapestry.rounds.taking._of_another", "s.delta == given.delta"):
        assert "committed" in tried().json(), "and takes bob's bytes for its own when he reveals them"


@attack(
    "copies-what-another-reveals",
    tries="waits until bob's bytes are there, and hands in the same",
    stopped_by="a sealed round takes no new contribution",
)
def test_after_the_reveal(game: Game, play: Any, switches: Switches) -> None:
    def copied(where: Game) -> httpx.Response:
        return where.eve.contribute(word(where.eve, where, BOB, nonce="e" * 32), where.run)

    of_ada, of_bob = committed(game.ada, game, EVE), committed(game.bob, game, BOB)
    sealed(game)
    assert revealed(game.bob, game, of_bob, BOB).is_success
    refused(copied(game), "refused")
    assert revealed(game.ada, game, of_ada, EVE).is_success
    game.wait(lambda view: view.head.round == 1)
    assert set(game.weights()) == {"ada-1", "bob-1"}
    open_: Game = play(deadline_s=20.0)  # the control: the plan has no such phase
    switches.switched.append("rounds.reveal_s")
    open_.bob.hand_in(open_.plan, BOB, round=open_.round, state=open_.state)
    assert copied(open_).status_code == 200 and open_.outcome() == ("accepted", None)


@attack(
    "reveals-other-bytes-than-committed",
    tries="commits anything, looks at what others reveal, and reveals that",
    stopped_by="what is revealed is what the committed envelope names",
)
def test_other_bytes(game: Game, switches: Switches) -> None:
    committed(game.ada, game, 0.5)
    of_bob = committed(game.bob, game, BOB)
    committed(game.eve, game, EVE)
    sealed(game)
    assert revealed(game.bob, game, of_bob, BOB).is_success
    other = word(game.eve, game, BOB / 2, nonce="e" * 32)
    refused(game.eve.contribute(other, game.run), "refused")
    place = "tapestry.rounds.taking.contribute"
    with (
        switches.check_off(place, 'at.phase != "training"'),
        switches.check_off(place, 'one is not None and one.status != "refused"'),
    ):
        assert "committed" in game.eve.contribute(other, game.run).json()
        assert revealed(game.eve, game, other, BOB / 2).is_success
    assert game.outcome() == ("accepted", None)


@attack(
    "asks-for-bytes-before-the-round-is-sealed",
    tries="tells a node that has committed to send its bytes now, to hand them to a friend",
    stopped_by="a node sends them when its own ledger shows the round as sealed",
)
def test_asked_too_early(tmp_path: Path, stub: StubCore, client: CoreClient, switches: Switches) -> None:
    sending = Sending(tmp_path, stub, client)
    said = sending.own.digest
    body = canonical.encode(
        {"error": {"code": "conflict", "hint": None, "message": "blobs lack"}, "missing": ["5" * 64]}
    )
    stub.answers["/v1/runs/run/contributions"] = lambda: (409, {}, body)
    sending.submitter.hand_in("run", commit=True)
    assert sending.outcome == "committed" and not stub.blobs and said
    deliver = Submitter._deliver
    with switches.off("tapestry.node.submit.Submitter._commit", deliver):
        sending.remember()
        sending.submitter.hand_in("run", commit=True)
    assert stub.blobs, "they are with the core"
