"""What owners show of their derivatives: taken from whom it is, the newest kept, taken back when asked."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.core.derivatives import DerivativesApi
from tapestry.core.service import Core
from tapestry.errors import Refused
from tapestry.identity.envelope import Envelope, sign, sign_bytes
from tapestry.identity.keyring import Signer
from tapestry.protocol import canonical, derivative
from tapestry.protocol.derivative import DerivativeRecord, ShownBase, ShownDerivative
from tests.core.support import CoreUnderTest, Member, as_json, code, time_at

SHOWN = ShownDerivative(
    description=None, base=ShownBase(weights="1" * 64, state=None, run="north", round=3), weights="2" * 64,
    lineage="3" * 64, parent=None, stages=("cpt", "sft"), licence="Apache-2.0", level="national",
    languages=("de", "gsw"), figures=None, entitlement=None,
)  # fmt: skip


def record(by: Member, name: str = "letters", *, at: str | None = None, **changed: Any) -> Envelope:
    fields: dict[str, Any] = {
        "consortium": by.consortium, "member": by.name, "node": by.node, "derivative": name,
        "at": at or time_at(), "shown": SHOWN, "public": ("licence",),
    }  # fmt: skip
    return sign(DerivativeRecord(**(fields | changed)), by.key)


def publish(by: Member, envelope: Envelope) -> Any:
    return by.ask("POST", "/v1/derivatives", envelope.to_bytes())


def listed(by: Member) -> list[DerivativeRecord]:
    answer = by.ask("GET", "/v1/derivatives").json()
    return [Envelope.from_json(value).unverified(DerivativeRecord) for value in answer["entries"]]


def test_members_see_each_others(serving: CoreUnderTest) -> None:
    ada, bob = serving.member("ada"), serving.member("bob")
    for by, name in ((ada, "letters"), (ada, "law"), (bob, "letters")):
        answer = publish(by, record(by, name))
        assert answer.status_code == 200, answer.text
        assert answer.json()["derivative"] == name
    assert [(r.member, r.derivative) for r in listed(bob)] == [
        ("ada", "law"),
        ("ada", "letters"),
        ("bob", "letters"),
    ]
    first = ada.ask("GET", "/v1/derivatives?after=0&limit=2").json()
    rest = ada.ask("GET", "/v1/derivatives?after=2&limit=9").json()
    assert (len(first["entries"]), len(rest["entries"]), rest["total"]) == (2, 1, 3)
    assert ada.ask("GET", "/v1/catalog").json()["total"] == 0, "it is not among the datasets"


def test_an_older_word_does_not_come_back_and_it_survives_a_kill(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    old = record(ada, at=time_at(-100))
    back = record(ada, at=time_at(-50), shown=None, public=())
    for envelope in (old, old, back):
        assert publish(ada, envelope).status_code == 200
    assert code(publish(ada, old)) == "conflict"
    serving.kill()
    serving.start()
    assert [r.shown for r in listed(ada)] == [None]
    assert code(publish(ada, old)) == "conflict"


def test_who_may_not(serving: CoreUnderTest) -> None:
    ada, bob = serving.member("ada"), serving.member("bob")
    of_ada = record(ada)
    assert code(publish(bob, of_ada)) == "key", "sent by another"
    assert code(publish(bob, record(bob, member="ada", node=ada.node))) == "key", "signed by another"
    assert code(publish(bob, record(bob, member="ada"))) == "key", "from another's node, in another's name"
    assert code(publish(ada, record(ada, consortium="0" * 64))) == "refused"
    assert code(publish(ada, record(ada, at=time_at(3600)))) == "refused"
    stranger = serving.member("eve", join=False)
    assert code(publish(stranger, record(stranger))) == "unknown-member"
    assert code(stranger.ask("GET", "/v1/derivatives")) == "unknown-member"
    value = as_json(of_ada)
    value["signatures"][0]["sig"] = "A" * 86 + "=="
    assert code(ada.ask("POST", "/v1/derivatives", Envelope.from_json(value).to_bytes())) == "signature"
    assert listed(ada) == []
    assert publish(ada, of_ada).status_code == 200, "the control"


SMUGGLED: dict[str, Any] = {
    "a field that is not in the schema": {"weights_url": "https://example.org/w"},
    "a name that is a path": {"derivative": "../x"},
    "another version": {"version": 2},
    "a field made public that is not shown": {"public": ["parent"]},
    "public not in order": {"public": ["weights", "licence"]},
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_is_no_record(what: str, serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    value = record(ada).unverified(DerivativeRecord).model_dump(mode="json") | SMUGGLED[what]
    envelope = sign_bytes("application/vnd.tapestry.derivative+json", canonical.encode(value), ada.key)
    assert code(publish(ada, envelope)) in ("format", "version")
    assert listed(ada) == []


def test_a_record_that_is_too_large(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    value = record(ada).unverified(DerivativeRecord).model_dump(mode="json")
    value["shown"]["description"] = "x" * (1 << 17)
    envelope = sign_bytes("application/vnd.tapestry.derivative+json", canonical.encode(value), ada.key)
    assert code(publish(ada, envelope)) == "too-large"
    assert code(ada.ask("POST", "/v1/derivatives", b"{}")) == "format"


def test_there_is_an_end_to_it(serving: CoreUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = serving.member("ada")
    with Core.open(serving.root) as core:
        api, by = DerivativesApi(core), Signer("ada", ada.node, "node", ada.key.key_id)
        monkeypatch.setattr(derivative, "MAX_OF_MEMBER", 1)
        api.take(record(ada, "one"), by)
        with pytest.raises(Refused, match="lists 1 derivatives"):
            api.take(record(ada, "two"), by)
        monkeypatch.setattr(derivative, "MAX_OF_MEMBER", 9)
        api.take(record(ada, "two"), by)
