"""The core holds pledges of data against the catalog, shows what was delivered, and lists page by page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.core import pledges
from tapestry.core.catalog import CatalogApi
from tapestry.errors import Conflict, IntegrityError, NotFound, Refused
from tapestry.governance import proposal as subjects
from tapestry.governance.delivered import Delivered
from tapestry.governance.phase_status import shown as as_shown
from tapestry.governance.pledge import Pledged
from tapestry.identity.envelope import sign
from tapestry.node.pledging import SIGNED, _check_sums, _held, _not_without_end
from tapestry.rounds import machine
from tests.audit import second
from tests.audit.promising import PILOT, Promising
from tests.audit.support import verify
from tests.catalog.made import card
from tests.core.support import time_at

TEXT: dict[str, Any] = {"needs": {"data.fr": "3 GB"}, "counts": "pledged"}


@pytest.fixture
def council(tmp_path: Path) -> Iterator[Promising]:
    council = Promising(tmp_path / "core", "ada", "bob", "cyd", "dan")
    with council.core:
        council.founded(text=TEXT)
        yield council


def shows(council: Promising, name: str, dataset: str, *, gone: bool = False, **fields: Any) -> None:
    """A member publishes the card of a dataset, or takes it back."""
    node = council.nodes[name]
    what, _ = shown(card(name=dataset))
    what = what.model_copy(update={"languages": ("fr",), "bytes": 2_000_000_000, **fields})
    said = CatalogEntry(
        consortium=council.consortium,
        member=name,
        node=node.name,
        dataset=dataset,
        at=time_at(1 if gone else 0),
        card=None if gone else what,
        public=(),
    )
    CatalogApi(council.core).take(sign(said, node.key), node.signer)


def test_data_is_pledged_from_the_catalog(council: Promising) -> None:
    def pledge(amount: str, **fields: Any) -> None:
        council.pledge("ada", "data.fr", amount, phase="text", **{"dataset": "letters", **fields})

    with pytest.raises(Refused, match="shows no dataset letters in the catalog") as caught:
        pledge("1 GB")
    assert "tapestry catalog publish" in str(caught.value.hint)
    shows(council, "bob", "letters")
    with pytest.raises(Refused, match="member ada shows no dataset"):
        pledge("1 GB")
    shows(council, "ada", "letters")
    shows(council, "ada", "briefe", languages=("de", "de-CH"))
    shows(council, "ada", "quiet", languages=None, bytes=None)
    with pytest.raises(Refused, match="is in de, de-CH, not in fr"):
        pledge("1 GB", dataset="briefe")
    with pytest.raises(Refused, match="has 2000000000 bytes by its card, and 3 GB are pledged"):
        pledge("3 GB")
    pledge("2 GB")
    pledge("5 GB", dataset="quiet")
    assert council.reckoned("text").go


def test_what_the_catalog_shows_no_more_can_be_taken_back(council: Promising) -> None:
    shows(council, "ada", "letters")
    council.pledge("ada", "data.fr", "2 GB", phase="text", dataset="letters")
    shows(council, "ada", "letters", gone=True)
    for amount in ("1 GB", "0.0 GB"):
        with pytest.raises(Refused):
            council.pledge("ada", "data.fr", amount, phase="text", dataset="letters")
    council.pledge("ada", "data.fr", "0 B", phase="text", dataset="letters")
    assert not council.reckoned("text").members


def test_no_byte_is_pledged_in_two_languages(tmp_path: Path) -> None:
    council = Promising(tmp_path / "core", "ada", "bob", "cyd", "dan")

    def pledge(language: str, amount: str, **fields: Any) -> None:
        council.pledge("ada", f"data.{language}", amount, **{"phase": "text", "dataset": "both", **fields})

    with council.core:
        needs = {"data.de": "2 GB", "data.fr": "2 GB"}
        council.founded(text={"needs": needs}, more={"needs": needs})
        for dataset in ("both", "two"):
            shows(council, "ada", dataset, languages=("de", "fr"))
        pledge("fr", "2 GB")
        with pytest.raises(
            Refused, match="1 B are pledged, beside 2000000000 bytes of it in other languages"
        ):
            pledge("de", "1 B")
        pledge("de", "2 GB", dataset="two")
        pledge("de", "2 GB", phase="more")
        pledge("fr", "500 MB")
        pledge("de", "1500 MB")
        with pytest.raises(Refused, match="501 MB are pledged"):
            pledge("fr", "501 MB")


def test_what_was_delivered_is_shown_as_far_as_the_ledger_goes(council: Promising) -> None:
    council.brought("ada", "compute", "100 accelerator-hours", by="bob")
    council.brought("bob", "funds", "5000 EUR", by="ada")
    council.passed(subjects.OpenPhase(phase="pilot"))
    plan = council.plan(rounds_total=2, rounds_quorum=2)
    council.ratified(plan)
    council.put(machine.Start())
    for name in ("ada", "bob"):
        council.enrol(council.nodes[name])
    asked = council.pledges
    (pilot, _) = asked.phases()["phases"]
    assert (
        pilot["open"] and pilot["work"] == [] and pilot["resources"][0]["delivered"].startswith("at most 0.0")
    )
    council.now += 3_600_000 // 2
    council.send(council.nodes["ada"], environment={"accelerator": "Made Up 1", "ranks": "4"})
    council.send(council.nodes["bob"])
    council.merge()
    for fresh in (asked, council.pledges):  # what goes on from before, and what begins anew
        (pilot, _) = fresh.phases()["phases"]
        ada, bob = pilot["work"]
        assert (ada["member"], ada["contributions"], ada["tokens"], ada["steps"]) == ("ada", 1, 1000, 4)
        assert ada["accelerator_hours_at_most"] == pytest.approx(2.0, abs=0.01)
        assert bob["accelerator_hours_at_most"] is None
        compute = pilot["resources"][0]
        assert [row["delivered"] for row in compute["members"]] == ["at most 2.0 accelerator-hours", None]
    council.send(council.nodes["bob"])
    (pilot, _) = asked.phases()["phases"]
    assert [each["contributions"] for each in pilot["work"]] == [1, 2]


def test_pages_hold_every_pledge(council: Promising, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [council.pledge(name, "compute", "1 accelerator-hours") for name in reversed(council.nodes)]
    first, rest = council.pledges.page(0, 3), council.pledges.page(3, 256)
    assert (len(first["pledges"]), len(rest["pledges"]), first["total"]) == (3, 1, 4)
    assert [each["pledge"] for each in (*first["pledges"], *rest["pledges"])] == made
    council.core.journal._cache.clear()  # as after a start
    again = council.pledges.page(0, 256)["pledges"]
    assert [each["pledge"] for each in again] == made, "in the same order, so that pages fit together"
    monkeypatch.setattr(pledges, "MAX_PAGE_BYTES", 10)
    assert len(council.pledges.page(1, 256)["pledges"]) == 1, "a large one ends its page"


def test_a_table_that_is_not_of_the_pledges_is_noticed(council: Promising) -> None:
    council.pledge("ada", "compute", f"{10**18} accelerator-hours")
    council.brought("bob", "compute", f"{10**18} accelerator-hours", by="ada")
    council.brought("cyd", "compute", "60 accelerator-hours", by="ada")
    council.pledge("dan", "compute", "0 accelerator-hours")
    held: list[Pledged] = list(council.votes.assembly().governance.pledges.values())

    def table() -> tuple[dict[str, Any], dict[str, Any]]:
        """And its compute."""
        found = as_shown(council.reckoned(), {})
        return found, next(each for each in found["resources"] if each["resource"] == "compute")

    _check_sums(table()[0], held)
    for place, lie in (
        (lambda of: of["members"][0], {"pledged": "70 accelerator-hours"}),
        (lambda of: of["members"][0], {"confirmed": f"{10**18} accelerator-hours"}),
        (lambda of: of["members"][2], {"confirmed": "61 accelerator-hours"}),
        (lambda of: of["members"][2], {"member": "bob"}),
        (lambda of: of, {"confirmed": f"{10**18} accelerator-hours"}),
        (lambda of: of, {"pledged": "100 accelerator-hours"}),
        (lambda of: of, {"met": False}),
    ):
        lied, compute = table()
        place(compute).update(lie)
        with pytest.raises(IntegrityError, match="is not of the pledges it shows"):
            _check_sums(lied, held)
    lied, _ = table()
    assert not lied["go"], "no funds"
    with pytest.raises(IntegrityError, match="is not of the pledges it shows"):
        _check_sums({**lied, "go": True}, held)


@pytest.mark.parametrize("field", SIGNED)
def test_a_pledge_that_is_shown_otherwise_than_signed_is_noticed(field: str, council: Promising) -> None:
    """So that a steward confirms what it has read."""
    council.pledge("ada", "compute", "100 accelerator-hours")
    (view,) = council.pledges.page(0, 1)["pledges"]
    keys = {node.vote.key_id: (name, node.vote.public_key) for name, node in council.nodes.items()}
    assert _held(view, keys).pledge.amount == "100 accelerator-hours"
    other = {"member": "bob", "amount": "1 accelerator-hours", "number": 7, "resource": "storage"}
    with pytest.raises(IntegrityError, match="shows another pledge than ada has signed"):
        _held({**view, field: other.get(field, "other")}, keys)


def test_a_pledge_ends_with_its_phase(tmp_path: Path) -> None:
    """One that the charter drops and names again, with other needs, is another phase: what was pledged and
    confirmed before does not open it, and takes nobody's room."""
    council = Promising(tmp_path / "core", "ada", "bob", "cyd", "dan")

    def change(phases: dict[str, Any]) -> None:
        held = council.votes.assembly().governance.charter
        assert held is not None
        every = council.charter(phases=phases).phases
        subject = held.model_copy(update={"revision": held.revision + 1, "phases": every})
        council.passed(subjects.ChangeCharter(charter=subject))

    other = {"needs": {"storage": "1 TB"}}
    with council.core:
        council.founded(other=other)
        old = council.said("ada", "compute", "100 accelerator-hours")
        confirmed = council.pledges.pledge(old).pledge
        council.confirm("bob", confirmed)
        council.brought("bob", "funds", "5000 EUR", by="ada")
        council.brought("cyd", "storage", "1 TB", by="ada", phase="other")
        council.pledge("dan", "storage", "0 B", phase="other")
        assert council.reckoned().go and council.reckoned("other").go
        change({"other": other})
        held = council.votes.assembly().governance.pledges
        assert [each.member for each in held.values()] == ["cyd"] and council.reckoned("other").go
        with pytest.raises(NotFound, match="there is no pledge"):
            council.confirm("cyd", confirmed)
        change({"other": other, "pilot": {**PILOT, "override": None}})
        assert not council.reckoned().go and not council.reckoned().members
        with pytest.raises(Conflict, match="was written under charter"):
            council.pledges.pledge(old)
        council.brought("ada", "compute", "100 accelerator-hours", by="bob")
        change({"pilot": {**PILOT, "needs": {"compute": "1 accelerator-hours", "funds": "7 CHF"}}})
        council.brought("bob", "funds", "7 CHF", by="ada")
        council.passed(subjects.OpenPhase(phase="pilot"))
        ledger = council.ledger()
    verify(ledger)
    assert second.verify(ledger.to_bytes().splitlines(keepends=True))


def test_who_waits_for_the_first_look_holds_up_nobody_else(
    council: Promising, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    follow = pledges.Pledges._follow

    def slowly(self: pledges.Pledges, runs: tuple[str, ...]) -> Delivered:
        reading.set()
        assert go_on.wait(20)
        return follow(self, runs)

    monkeypatch.setattr(pledges.Pledges, "_follow", slowly)

    async def ask() -> None:
        api = pledges.PledgesApi(council.core)
        request = Request({"type": "http", "query_string": b"", "headers": []})
        looks = [asyncio.create_task(api.phases(request, None)) for _ in range(64)]  # type: ignore[arg-type]
        try:
            await asyncio.to_thread(reading.wait, 10)
            await asyncio.wait_for(asyncio.to_thread(council.votes.assembly), 5)
        finally:
            go_on.set()
        answers = await asyncio.gather(*looks)
        assert {each.status_code for each in answers} == {200}

    asyncio.run(ask())


def test_the_last_of_a_hundred_says_so() -> None:
    _not_without_end(99, "pledges for this")
    with pytest.raises(Conflict, match="signed 100 pledges for this") as caught:
        _not_without_end(100, "pledges for this")
    assert "change-charter" in str(caught.value.hint)
