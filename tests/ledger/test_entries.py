"""Entries: what a typed event becomes as bytes, and back."""

from __future__ import annotations

import pytest

from tapestry.errors import FormatError
from tapestry.ledger.entries import (
    CONSORTIUM,
    Entry,
    Founded,
    MemberAdmitted,
    consortium_event,
    make_entry,
)
from tapestry.protocol import canonical
from tapestry.protocol.messages import Merged
from tapestry.rounds import events as ev

AT = "2026-11-21T00:00:00.000Z"


def test_an_event_survives_as_an_entry() -> None:
    founded = Founded(title="first", core_key="0" * 64, nonce="1" * 32)
    entry = make_entry(1, AT, CONSORTIUM, founded)
    again = Entry.from_bytes(entry.to_bytes())
    assert again == entry
    assert consortium_event(again) == founded

    started = ev.RunStarted()
    run_entry = make_entry(2, AT, "run", started)
    assert ev.parse_event(run_entry.type, run_entry.body) == started


def test_a_round_of_as_many_nodes_as_a_plan_may_ask_for() -> None:
    sha = "0" * 64
    merged = tuple(
        Merged(node=f"{number:064}", member=f"{number:064}", contribution=sha, delta=sha, weight=1)
        for number in range(10_000)
    )
    data = make_entry(1, AT, "run", ev.RoundClosed(round=1, fragment=0, merged=merged)).to_bytes()
    assert len(data) > canonical.MAX_MESSAGE_BYTES
    entry = Entry.from_bytes(data)
    assert ev.parse_event(entry.type, entry.body) == ev.RoundClosed(round=1, fragment=0, merged=merged)


def test_a_foreign_event_is_refused() -> None:
    admitted = MemberAdmitted(member="a", root_key="0" * 64, envelope="{}")
    entry = make_entry(1, AT, CONSORTIUM, admitted)
    assert consortium_event(entry) == admitted
    for body in ({**entry.body, "role": "owner"}, {"member": "a"}, {**entry.body, "member": "../a"}):
        with pytest.raises(FormatError):
            consortium_event(entry.model_copy(update={"body": body}))
    with pytest.raises(FormatError):
        consortium_event(entry.model_copy(update={"type": "member-crowned"}))
    with pytest.raises(FormatError):
        ev.parse_event("round-opened", {"round": 0})
