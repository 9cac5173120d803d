"""Whoever sits between node and core, or listens and sends again later."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapestry.protocol import canonical
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.support import Game, HereCore, refused
from tests.attacks.switches import Switches
from tests.core.support import EMPTY, time_at

WHO = "the network"
Given = tuple[Any, ...]
MISSING = "/v1/blobs/missing"
PROOF = "tapestry.core.api.check_proof"


# -- requests that were overheard ---------------------------------------------------------------


def _send(game: Game, header: str, method: str, target: str, body: bytes = b"") -> httpx.Response:
    return game.eve.http.request(
        method, game.eve.url + target, content=body, headers={"Authorization": header}
    )


def _body(game: Game, **_: Any) -> httpx.Response:
    overheard = game.ada.proof("POST", MISSING, canonical.sha256(b'{"blobs":[]}'))
    return _send(game, overheard, "POST", MISSING, b'{"blobs":["%b"]}' % (b"0" * 64))


def _target(game: Game) -> httpx.Response:
    overheard = game.ada.proof("GET", "/v1/runs", EMPTY)
    return _send(game, overheard, "GET", "/v1/events?after=0")


def _method(game: Game) -> httpx.Response:
    target = f"/v1/blobs/{EMPTY}?bytes=0"
    return _send(game, game.ada.proof("GET", target, EMPTY), "PUT", target)


def _other_consortium(game: Game) -> httpx.Response:
    return _send(game, game.ada.proof("GET", "/v1/runs", EMPTY, consortium="1" * 64), "GET", "/v1/runs")


def _stale(game: Game) -> httpx.Response:
    return _send(game, game.ada.proof("GET", "/v1/runs", EMPTY, at=time_at(-301)), "GET", "/v1/runs")


def _early(game: Game) -> httpx.Response:
    return _send(game, game.ada.proof("GET", "/v1/runs", EMPTY, at=time_at(400)), "GET", "/v1/runs")


COMPARED = "stated != actual"
TIME = "abs(seconds_between(proof.at, now)) > WINDOW_S"


@attacks(
    case(
        "proof-with-another-body",
        "sends an overheard proof with a body of its own",
        "a proof states the body's hash",
        _body,
        COMPARED,
    ),
    case(
        "proof-for-another-target",
        "sends an overheard proof to another address",
        "a proof states path and query",
        _target,
        COMPARED,
    ),
    case(
        "proof-for-another-method",
        "makes an upload of an overheard download",
        "a proof states the method",
        _method,
        COMPARED,
    ),
    case(
        "proof-for-another-consortium",
        "sends a proof that was made for another core",
        "a proof states the consortium",
        _other_consortium,
        COMPARED,
    ),
    case(
        "stale-request",
        "sends an overheard request five minutes later",
        "a proof states its time",
        _stale,
        TIME,
    ),
    case(
        "request-from-the-future",
        "keeps requests of a node with a wrong clock for later",
        "a proof states its time",
        _early,
        TIME,
    ),
)
def test_a_request_that_was_overheard(game: Game, switches: Switches, given: Given) -> None:
    tried, check = given
    refused(tried(game), "signature")
    game.goes_on()
    with switches.check_off(PROOF, check):
        assert tried(game).status_code == 200


@attack(
    "request-without-a-proof",
    tries="asks without saying who it is",
    stopped_by="every request but `hello`, `join` and reads of what is public is signed",
)
def test_no_proof(game: Game, switches: Switches) -> None:
    refused(game.eve.http.get(game.eve.url + "/v1/derivatives"), "auth")
    game.goes_on()
    from tapestry.identity.keyring import Signer

    anybody = Signer("eve", "eve-1", "node", "0" * 64)
    with (
        switches.check_off("tapestry.transport.server._check", "len(headers) != 1"),
        switches.check_off("tapestry.transport.server._check", "headers[0]", lambda: ""),
        switches.check_off("tapestry.core.api.Api._check", "check_proof", lambda: lambda *_, **__: anybody),
    ):
        # the name of the function is switched for one that lets everybody in
        assert game.eve.http.get(game.eve.url + "/v1/derivatives").status_code == 200


@attack(
    "request-sent-again",
    tries="sends a whole overheard contribution once more, to have it counted twice",
    stopped_by="requests are idempotent: the same envelope is the same entry",
)
def test_sent_again(game: Game, switches: Switches) -> None:
    delta = game.ada.send_delta(0.5)
    envelope = game.ada.contribution(game.plan, delta, round=game.round, state=game.state)
    target, body = f"/v1/runs/{game.run}/contributions", envelope.to_bytes()
    header = game.ada.proof("POST", target, canonical.sha256(body))
    first = _send(game, header, "POST", target, body)
    assert first.status_code == 200
    game.outcome("ada-1")
    before = game.sequence
    again = _send(game, header, "POST", target, body)
    assert again.content == first.content and game.sequence == before
    with (
        switches.check_off(
            "tapestry.core.runs.Runs.contribute",
            "(receipt := self._receipt(contribution, digest)) is not None",
        ),
        switches.check_off(
            "tapestry.rounds.machine.contribute", "own is not None and own.contribution == given.contribution"
        ),
        switches.check_off(
            "tapestry.rounds.machine.contribute",
            'any(one is not None and one.status != "refused" for one in (own, before))',
        ),
    ):
        _send(game, header, "POST", target, body)
    assert game.sequence > before, "it is in the ledger twice"
    game.eve.hand_in(game.plan, 0.375, tokens=2000)
    game.bob.hand_in(game.plan, 0.25)
    assert game.values(game.wait(lambda v: v.head.round == 1).head.state) == {0.625}


@attack(
    "connections-held-open",
    tries="opens as many connections as the core allows, without a key, and sends half a head on each",
    stopped_by="a connection that brings no whole request is closed after a while",
)
def test_connections_held_open(tmp_path: Path, switches: Switches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry.transport.listening.HEAD_S", head_s := 1.0)
    small = HereCore(tmp_path / "core", connections=8).start()
    address = ("127.0.0.1", int(small.url.rpartition(":")[2]))

    def hello() -> int:
        return httpx.get(small.url + "/v1/hello").status_code

    def held(wait_s: float) -> list[int]:
        """What a good request is answered at once, and within so many seconds."""
        with ExitStack() as stack:
            for _ in range(9):
                sock = stack.enter_context(socket.create_connection(address))
                sock.sendall(b"GET /v1/hel")
            time.sleep(0.1)
            first, until = hello(), time.monotonic() + wait_s
            while (later := hello()) != 200 and time.monotonic() < until:
                time.sleep(0.2)
            return [first, later]

    try:
        assert held(30 * head_s) == [503, 200]
        with switches.off("tapestry.transport.listening.Connection._look"):
            assert held(2.5 * head_s) == [503, 503], "for as long as they like"
    finally:
        small.close()
