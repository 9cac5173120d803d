"""The core holds pledges of data against the catalog, shows what was delivered, and lists page by page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.core import pledges
from tapestry.core.catalog import CatalogApi
from tapestry.errors import IntegrityError, Refused
from tapestry.governance import proposal as subjects
from tapestry.governance.phase_status import shown as as_shown
from tapestry.governance.pledge import Pledged
from tapestry.identity.envelope import sign
from tapestry.node.pledging import _check_sums
from tapestry.rounds import machine
from tests.audit.promising import Promising
from tests.catalog.made import card
from tests.core.support import time_at

TEXT: dict[str, Any] = {"needs": {"data.fr": "3 GB"}, "counts": "pledged"}


@pytest.fixture
def council(tmp_path: Path) -> Iterator[Promising]:
    council = Promising(tmp_path / "core", "ada", "bob", "cyd", "dan")
    with council.core:
        council.founded(text=TEXT)
        yield council


def shows(council: Promising, name: str, dataset: str, **fields: Any) -> None:
    """A member publishes the card of a dataset."""
    node = council.nodes[name]
    what, _ = shown(card(name=dataset))
    what = what.model_copy(update={"languages": ("fr",), "bytes": 2_000_000_000, **fields})
    said = CatalogEntry(
        consortium=council.consortium,
        member=name,
        node=node.name,
        dataset=dataset,
        at=time_at(),
        card=what,
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
    made = [council.pledge(name, "compute", "1 accelerator-hours") for name in council.nodes]
    first, rest = council.pledges.page(0, 3), council.pledges.page(3, 256)
    assert (len(first["pledges"]), len(rest["pledges"]), first["total"]) == (3, 1, 4)
    assert [each["pledge"] for each in (*first["pledges"], *rest["pledges"])] == made
    monkeypatch.setattr(pledges, "MAX_PAGE_BYTES", 10)
    assert len(council.pledges.page(1, 256)["pledges"]) == 1, "a large one ends its page"


def test_a_table_that_is_not_of_the_pledges_is_noticed(council: Promising) -> None:
    council.pledge("ada", "compute", f"{10**18} accelerator-hours")
    held: list[Pledged] = list(council.votes.assembly().governance.pledges.values())
    table = as_shown(council.reckoned(), {})
    _check_sums(table, held)
    row = next(each for each in table["resources"] if each["resource"] == "compute")["members"][0]
    row["pledged"] = "70 accelerator-hours"
    with pytest.raises(IntegrityError, match="is not of the pledges it shows"):
        _check_sums(table, held)
