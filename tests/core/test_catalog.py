"""What members publish of their datasets: taken from whom it is, the newest kept, taken back when asked."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.core import catalog
from tapestry.core.service import Core
from tapestry.errors import Refused
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import Signer
from tests.catalog.made import card
from tests.core.support import CoreUnderTest, Member, as_json, code, time_at


def entry(by: Member, name: str = "letters", *, at: str | None = None, **changed: Any) -> Envelope:
    what, public = shown(card(name=name))
    fields: dict[str, Any] = {
        "consortium": by.consortium, "member": by.name, "node": by.node, "dataset": name,
        "at": at or time_at(), "card": what, "public": public,
    }  # fmt: skip
    return sign(CatalogEntry(**(fields | changed)), by.key)


def publish(by: Member, envelope: Envelope) -> Any:
    return by.ask("POST", "/v1/catalog", envelope.to_bytes())


def listed(by: Member) -> list[CatalogEntry]:
    answer = by.ask("GET", "/v1/catalog").json()
    return [Envelope.from_json(value).unverified(CatalogEntry) for value in answer["entries"]]


def test_members_list_and_see_each_others(serving: CoreUnderTest) -> None:
    ada, bob = serving.member("ada"), serving.member("bob")
    for by, name in ((ada, "letters"), (ada, "law"), (bob, "letters")):
        answer = publish(by, entry(by, name))
        assert answer.status_code == 200, answer.text
        assert answer.json()["dataset"] == name
    assert [(each.member, each.dataset) for each in listed(bob)] == [
        ("ada", "law"),
        ("ada", "letters"),
        ("bob", "letters"),
    ]
    envelope = bob.ask("GET", "/v1/catalog").json()["entries"][0]
    assert Envelope.from_json(envelope).open_as(CatalogEntry, ada.key.public_key).dataset == "law"


def test_pages_hold_all_of_it(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    for number in range(5):
        assert publish(ada, entry(ada, f"d{number}")).status_code == 200
    first = ada.ask("GET", "/v1/catalog?after=0&limit=2").json()
    rest = ada.ask("GET", "/v1/catalog?after=2&limit=256").json()
    assert (len(first["entries"]), len(rest["entries"]), rest["total"]) == (2, 3, 5)


def test_the_newest_word_counts_and_an_older_one_does_not_come_back(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    old = entry(ada, at=time_at(-100))
    new = entry(ada, at=time_at(-50), card=None, public=())
    assert publish(ada, old).status_code == 200
    assert publish(ada, old).status_code == 200, "again is no matter"
    assert publish(ada, new).status_code == 200
    assert [each.card for each in listed(ada)] == [None]
    assert code(publish(ada, old)) == "conflict"
    assert [each.card for each in listed(ada)] == [None]


def test_it_survives_a_kill(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    assert publish(ada, entry(ada)).status_code == 200
    serving.kill()
    serving.start()
    assert [each.dataset for each in listed(ada)] == ["letters"]


def test_who_may_not(serving: CoreUnderTest) -> None:
    ada, bob = serving.member("ada"), serving.member("bob")
    of_ada = entry(ada)
    assert code(publish(bob, of_ada)) == "key", "sent by another"
    assert code(publish(bob, entry(bob, member="ada", node=ada.node))) == "key", "signed by another"
    assert code(publish(ada, entry(ada, consortium="0" * 64))) == "refused"
    assert code(publish(ada, entry(ada, at=time_at(3600)))) == "refused"
    stranger = serving.member("eve", join=False)
    assert code(publish(stranger, entry(stranger))) == "unknown-member"
    assert code(stranger.ask("GET", "/v1/catalog")) == "unknown-member"
    value = as_json(of_ada)
    value["signatures"][0]["sig"] = "A" * 86 + "=="
    assert code(ada.ask("POST", "/v1/catalog", Envelope.from_json(value).to_bytes())) == "signature"
    assert listed(ada) == []
    assert publish(ada, of_ada).status_code == 200, "the control"


def test_what_is_no_entry(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    assert code(ada.ask("POST", "/v1/catalog", b"{}")) == "format"
    assert code(ada.ask("GET", "/v1/catalog?text=1")) == "format"


def test_there_is_an_end_to_it(serving: CoreUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = serving.member("ada")
    with Core.open(serving.root) as core:
        api = catalog.CatalogApi(core)
        by = Signer("ada", ada.node, "node", ada.key.key_id)
        monkeypatch.setattr(catalog, "MAX_OF_MEMBER", 1)
        api.take(entry(ada, "one"), by)
        with pytest.raises(Refused, match="lists 1 datasets"):
            api.take(entry(ada, "two"), by)
        monkeypatch.setattr(catalog, "MAX_OF_MEMBER", 9)
        monkeypatch.setattr(catalog, "MAX_LISTED", 1)
        with pytest.raises(Refused, match="the catalog lists 1"):
            api.take(entry(ada, "two"), by)
        monkeypatch.setattr(catalog, "MAX_LISTED", 9)
        api.take(entry(ada, "two"), by)
