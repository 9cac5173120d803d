"""A core that lies about what it has, and an operator that changes the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.errors import (
    PlanError,
    SignatureError,
)
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.protocol.plan import Plan
from tapestry.transport.client import CoreClient
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.scene import Sending
from tests.attacks.support import FEDAVG, Game
from tests.attacks.switches import Switches
from tests.transport.stub import StubCore

WHO = "a core, against a node"
Given = tuple[Any, ...]


# -- receipts and requests for blobs ------------------------------------------------------------


@pytest.fixture
def sending(tmp_path: Path, stub: StubCore, client: CoreClient) -> Sending:
    return Sending(tmp_path, stub, client)


KEEP = "tapestry.node.submit.Submitter._keep_receipt"


@attacks(
    case(
        "forged-receipt",
        "signs a receipt with another key, to deny it later",
        "a receipt is signed by the core's key that was joined",
        True,
        {},
        ("tapestry.identity.envelope.Envelope.open_as", None, lambda self, kind, _: self.unverified(kind)),
    ),
    case(
        "receipt-for-another-contribution",
        "signs a receipt for other bytes, to drop these",
        "a receipt names the envelope",
        False,
        {"contribution": "0" * 64},
        (KEEP, "(said.run, said.round, said.node, said.contribution) != (", None),
    ),
    case(
        "receipt-for-another-round",
        "signs a receipt for another round",
        "a receipt names its round",
        False,
        {"round": 2},
        (KEEP, "(said.run, said.round, said.node, said.contribution) != (", None),
    ),
)
def test_a_receipt(sending: Sending, switches: Switches, given: Given) -> None:
    forged, fields, off = given
    key = KeyPair.generate() if forged else sending.core_key
    sending.answers(key, **fields)
    with pytest.raises(SignatureError):
        sending.submitter.hand_in("run")
    assert sending.outcome == "signed" and not list(sending.home.receipts.iterdir()), "it is sent again"
    sending.goes_on()
    sending.answers(key, **fields)
    if forged:
        with switches.off(off[0], off[2]):
            sending.submitter.hand_in("run")
    else:
        with switches.check_off(KEEP, RECEIPT_CHECK):
            sending.submitter.hand_in("run")
    assert sending.outcome == "receipted"


RECEIPT_CHECK = """(said.run, said.round, said.node, said.contribution) != (
        run,
        own.round,
        self._node.name,
        contribution,
    )"""


@attack(
    "asks-for-blobs-that-are-not-its-business",
    tries="says that it lacks a blob of the node that is no part of the contribution",
    stopped_by="a node sends what it has signed for, and stops where more is asked",
)
def test_asks_for_more(sending: Sending, switches: Switches) -> None:
    secret = sending.store.put(b"of another run")
    body = canonical.encode(
        {"error": {"code": "conflict", "hint": None, "message": "blobs lack"}, "missing": [secret]}
    )
    asked: list[int] = []

    def answer() -> Any:
        asked.append(1)
        return 409, {}, body

    sending.stub.answers["/v1/runs/run/contributions"] = answer
    sending.submitter.hand_in("run")
    assert sending.outcome == "refused" and asked == [1] and secret not in sending.stub.blobs
    sending.goes_on()
    sending.stub.answers["/v1/runs/run/contributions"] = answer
    with switches.check_off(
        "tapestry.node.submit.Submitter._deliver", "not known.issuperset(answer.missing)"
    ):
        sending.submitter.hand_in("run")
    assert len(asked) > 2, "it goes on sending"


@attack(
    "lists-blobs-that-were-not-asked-about",
    tries="answers which blobs it lacks with the name of another one",
    stopped_by="only what was asked about is looked at",
)
def test_lists_more(sending: Sending, client: CoreClient, switches: Switches) -> None:
    secret = sending.store.put(b"of another run")
    blob = Blob(sha256=sending.store.put(b"mine"), bytes=4)
    body = canonical.encode({"missing": {secret: 0}})
    sending.stub.answers["/v1/blobs/missing"] = lambda: (200, {}, body)
    assert client.upload_blobs([blob], sending.store) == 0 and not sending.stub.blobs
    with (
        switches.check_off(
            "tapestry.transport.transfers.Transfers._missing",
            "{sha: found[sha] for sha in shas if sha in found}",
            lambda found: found,
            given="found",
        ),
        pytest.raises(KeyError),
    ):
        client.upload_blobs([blob], sending.store)  # an error that is no typed one
    del sending.stub.answers["/v1/blobs/missing"]
    sending.goes_on()


# -- the operator -------------------------------------------------------------------------------


def _fixed(plan: Plan) -> Plan:
    return plan.model_copy(update={"revision": 2, "parameters": 7})


def _skipped(plan: Plan) -> Plan:
    return plan.model_copy(update={"revision": 9})


def _infeasible(plan: Plan) -> Plan:
    return plan.model_copy(update={"revision": 2, "merge": FEDAVG.model_copy(update={"influence_cap": 0.3})})


def _shortened(plan: Plan) -> Plan:
    return plan.model_copy(update={"revision": 2, "rounds": plan.rounds.model_copy(update={"total": 1})})


REVISE = "tapestry.rounds.machine._revise"


@attacks(
    case(
        "revision-of-a-fixed-field",
        "smuggles another model into a revision of the plan",
        "some fields never change",
        _fixed,
        (REVISE, "if changed"),
    ),
    case(
        "revision-out-of-order",
        "skips a revision that members have seen",
        "revisions are counted",
        _skipped,
        (REVISE, "plan.revision != newest.revision + 1"),
    ),
    case(
        "cap-that-cannot-be-met",
        "revises the cap so that no merge is possible",
        "a cap is held against the quorum",
        _infeasible,
        ("tapestry.rounds.machine.check_plan", "not cap_can_be_met(cap, quorum)"),
    ),
    case(
        "revision-that-ends-the-past",
        "revises the rounds below those done, to undo merges",
        "a run has at least the merges done",
        _shortened,
        (REVISE, "plan.rounds.total < state.merges"),
    ),
)
def test_a_revision(game: Game, switches: Switches, given: Given) -> None:
    make, off = given
    game.goes_on()
    if make is _shortened:
        game.goes_on_again()
    before = game.sequence
    with pytest.raises(PlanError):
        operator.revise(game.core.root, make(game.plan))
    assert game.sequence == before
    with switches.check_off(*off):
        operator.revise(game.core.root, make(game.plan))
    assert game.sequence > before
