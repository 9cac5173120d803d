"""Ledgers of real cores, and ways to change them as a core could that lies and signs anew."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from tapestry.audit import file as ledger
from tapestry.audit.file import Line
from tapestry.audit.verify import Found, Verifier
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import TapestryError
from tapestry.host.files import wait_for
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import Entry
from tests.core.support import CoreUnderTest, make_plan


@dataclass(frozen=True)
class Ledger:
    lines: list[Line]
    key: KeyPair
    """The core's."""

    @property
    def entries(self) -> list[Entry]:
        return [value for kind, value in self.lines if kind == "entry"]

    @property
    def places(self) -> list[int]:
        """Of the entries, among the lines."""
        return [place for place, (kind, _) in enumerate(self.lines) if kind == "entry"]

    def of(self, type_: str, number: int = 0) -> int:
        """Place among the lines of the n-th entry of a type."""
        return [place for place in self.places if self.lines[place][1].type == type_][number]

    def put(self, place: int, **fields: Any) -> Ledger:
        """With other fields of an entry."""
        lines = copy.copy(self.lines)
        lines[place] = ("entry", lines[place][1].model_copy(update=fields))
        return replace(self, lines=lines)

    def changed(self, place: int, **body: Any) -> Ledger:
        return self.put(place, body={**self.lines[place][1].body, **body})

    def signed_anew(self) -> Ledger:
        """Numbered without a gap, and signed by the core itself: it lies."""
        lines, grown = [], tree.Tree()
        for kind, value in self.lines:
            if kind == "checkpoint":
                continue
            if kind == "entry":
                value = value.model_copy(update={"sequence": grown.size + 1})
                grown.add(tree.leaf_hash(value.to_bytes()))
            lines.append((kind, value))
        genesis = next(value for kind, value in lines if kind == "entry")
        origin = origin_of(genesis.digest)
        note = Note(Checkpoint(origin, grown.size, grown.root()).text)
        return Ledger([*lines, ("checkpoint", note.signed(origin, self.key).to_bytes().decode())], self.key)

    def to_bytes(self) -> bytes:
        """The file."""
        out = io.BytesIO()
        ledger.write(out, self.lines)
        return out.getvalue()


def verify(given: Ledger) -> Found:
    return Verifier().take(given.lines)


def refused(given: Ledger) -> bool:
    try:
        verify(given)
    except TapestryError:
        return True
    return False


def file_refused(path: Path) -> bool:
    try:
        Verifier().take(ledger.read(path))
    except TapestryError:
        return True
    return False


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of a JSON value that holds no other, with the way to it."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from leaves(each, (*path, number))
    else:
        yield path, value


def other(value: Any) -> Any:
    """Another value of its kind."""
    if isinstance(value, bool) or value is None:
        return "x" if value is None else not value
    if isinstance(value, int | float):
        return value + 1
    if len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return ("0" if value[0] != "0" else "1") + value[1:]
    return value[:-1] + ("a" if value[-1:] != "a" else "b")


def with_value(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy in which another value stands at the end of a way."""
    found = copy.deepcopy(body)
    inside: Any = found
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return found


def changes(given: Ledger) -> Iterator[tuple[Entry, tuple[Any, ...], Ledger]]:
    """Each value of each entry changed in turn, not signed anew: the entry as it was, the way, the ledger."""
    for place in given.places:
        entry: Entry = given.lines[place][1]
        for path, value in leaves(entry.body):
            yield entry, path, given.changed(place, **with_value(entry.body, path, other(value)))


def rearranged(given: Ledger) -> Iterator[tuple[str, Entry, Entry | None, Ledger]]:
    """`without`, `twice` and `swapped` with the next entry: each entry in turn, with the envelopes before it
    and with the next one."""
    lines, ends = given.lines, [place + 1 for place in given.places]
    spans = list(pairwise([0, *ends]))
    for (start, end), after in zip(spans, [*spans[1:], None], strict=True):
        own, head, tail = lines[start:end], lines[:start], lines[end:]
        entry, following = own[-1][1], lines[after[1] - 1][1] if after is not None else None
        if following is not None:
            yield "without", entry, following, replace(given, lines=[*head, *tail])
        yield "twice", entry, following, replace(given, lines=[*head, *own, *own, *tail])
        if after is not None:
            swapped = [*head, *lines[slice(*after)], *own, *lines[after[1] :]]
            yield "swapped", entry, following, replace(given, lines=swapped)


def _done(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text


def made_by(core: CoreUnderTest, folder: Path, *, witnesses: int = 0) -> Ledger:
    """Three merges of two members; one contribution refused for its form, its replacement merged late; a
    score. With witnesses each merge is attested before the next round opens, and one contribution names a
    head of the ledger. The core has ended then."""
    plan = make_plan(folder, total=3, quorum=1, staleness=1, deadline_s=2.0, witnesses=witnesses)
    ada, bob = core.running(plan, folder, "ada", "bob")
    ada.hand_in(plan, 0.5)
    late = plan.initial_state
    ada.wait(lambda v: v.head.merges == 1)
    if witnesses:
        _done(ada.attest())
    bob.hand_in(plan, float("nan"), state=late)
    again = bob.contribution(plan, bob.send_delta(0.25), state=late, nonce="1" * 32)
    # Not before the first was looked at and refused, which takes a moment.
    assert wait_for(lambda: bob.contribute(again, plan.run).status_code == 200, timeout_s=60)
    head = ada.view().head.state
    note = ada.ask("GET", "/v1/ledger/checkpoint").text if witnesses else None
    ada.hand_in(plan, 0.5, round=2, state=head, checkpoint=note)
    ada.wait(lambda v: v.head.merges == 2)
    if witnesses:
        _done(bob.attest())
        _done(ada.attest())
    head = ada.view().head.state
    _done(bob.score(plan, 1.25, merges=2, state=head))
    for member in (ada, bob):
        member.hand_in(plan, 0.125, round=3, state=head)
    ada.wait(lambda v: v.head.merges == 3)
    if witnesses:
        _done(ada.attest())
    ada.wait(lambda v: v.status == "finished")
    core.close()
    with Core.open(core.root) as opened:
        lines = list(Proofs(opened.journal, opened.consortium).lines(opened.store))
        return Ledger(lines, opened.consortium.core_key)
