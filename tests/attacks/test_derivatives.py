"""A member that speaks of others' models, or again of one taken back; and a core that makes words up."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.errors import SignatureError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.node import people
from tapestry.node.people import Holder
from tapestry.protocol.derivative import DerivativeRecord, ShownFigure
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.support import Game, refused
from tests.attacks.switches import Switches
from tests.core.support import as_json, time_at
from tests.core.test_derivatives import SHOWN, publish, record

WHO = "a member or a core that speaks of models that are not its own"
NEWEST = "tapestry.core.newest.Newest.take"
RING = "tapestry.identity.keyring.KeyRing.verify"


def _bobs_name(game: Game) -> Envelope:
    return record(game.eve, "worse", member="bob", node="bob-1")


def _bobs_record(game: Game) -> Envelope:
    return record(game.bob, "relayed")


def _elsewhere(game: Game) -> Envelope:
    return record(game.eve, "elsewhere", consortium="7" * 64)


def _tomorrow(game: Game) -> Envelope:
    return record(game.eve, "tomorrow", at=time_at(86_400))


def _replayed(game: Game) -> Envelope:
    first = record(game.eve, "shown", at=time_at(-60))
    assert publish(game.eve, first).is_success
    assert publish(game.eve, record(game.eve, "shown", at=time_at(-30), shown=None, public=())).is_success
    return first


@attacks(
    case(
        "derivative-in-anothers-name",
        "publishes a model as bob's, signed with its own key",
        "a record names the member and the node whose key has signed it",
        _bobs_name, "key", RING, "own is not None and named != own",
    ),
    case(
        "derivative-sent-by-another",
        "sends bob's signed record, which he showed it and did not publish",
        "only its owner's node publishes a record",
        _bobs_record, "key", NEWEST, "(signer.member, signer.node) != (by.member, by.node)",
    ),
    case(
        "derivative-of-another-consortium",
        "publishes here what was signed for another consortium",
        "a record names its consortium",
        _elsewhere, "refused", NEWEST, "consortium != self.core.consortium.id",
    ),
    case(
        "derivative-of-tomorrow",
        "dates a record ahead, so that nothing its owner says later counts",
        "a record is at most 300 s ahead of the core's time",
        _tomorrow, "refused", NEWEST, "at > add_seconds(now, self.ahead_s)",
    ),
    case(
        "derivative-shown-again",
        "sends an old record again after its owner has taken it back",
        "an older word never takes the place of a newer one",
        _replayed, "conflict", NEWEST, "before[0] >= at",
    ),
)  # fmt: skip
def test_records(game: Game, switches: Switches, given: tuple[Any, ...]) -> None:
    make, expected, place, check = given
    envelope = make(game)
    refused(publish(game.eve, envelope), expected)
    with switches.check_off(place, check):
        answer = publish(game.eve, envelope)
        assert answer.status_code == 200, answer.text


@attack(
    "derivative-with-a-forged-signature",
    tries="changes a word of its record after it was signed",
    stopped_by="the signature is over every byte",
)
def test_a_forged_signature(game: Game, switches: Switches) -> None:
    value = as_json(record(game.eve, "forged"))
    value["signatures"][0]["sig"] = "A" * 86 + "=="
    envelope = Envelope.from_json(value)
    refused(publish(game.eve, envelope), "signature")
    with switches.off("tapestry.identity.envelope.Envelope._verify"):
        assert publish(game.eve, envelope).status_code == 200


@attack(
    "derivative-of-many-words",
    tries="publishes a record of 120 KiB, all of it within the schema",
    stopped_by="a record has at most 64 KiB",
)
def test_a_large_record(game: Game, switches: Switches) -> None:
    figure = ShownFigure(measure="m" * 200, part="p" * 200, value=1.0, base=None)
    shown = SHOWN.model_copy(update={"figures": (figure,) * 200})
    envelope = record(game.eve, "large", shown=shown)
    refused(publish(game.eve, envelope), "too-large")
    with switches.off("tapestry.protocol.derivative.DerivativeRecord.MAX_BYTES", 1 << 20):
        assert publish(game.eve, envelope).status_code == 200


@attack(
    "derivative-made-up-by-the-core",
    tries="lists a record in ada's name that another member's key has signed",
    stopped_by="readers verify each record against the keys of the member it names",
)
def test_a_record_that_the_core_made_up(switches: Switches) -> None:
    key = KeyPair.generate()
    known = {key.key_id: Holder(member="eve", node="eve-1", public_key=key.public_key)}
    said = DerivativeRecord(
        consortium="7" * 64, member="ada", node="ada-1", derivative="x", at=time_at(), shown=None, public=()
    )
    envelope = sign(said, key)
    with pytest.raises(SignatureError, match="names ada, and eve signed"):
        people.said_by_member(envelope, DerivativeRecord, known, "7" * 64)
    check = "named != (holder.member, holder.node, consortium)"
    with switches.check_off("tapestry.node.people.said_by_member", check):
        found = people.said_by_member(envelope, DerivativeRecord, known, "7" * 64)
    assert found.member == "ada"
