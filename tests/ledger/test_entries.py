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
