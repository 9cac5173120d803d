"""A real core's ledger holds; hundreds of changed ones do not, though their core has signed them anew."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit import file as ledger
from tapestry.audit.file import Line
from tapestry.audit.verify import Found, Verifier
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import FormatError, InputError, IntegrityError, TapestryError
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import Entry
from tests.core.support import CoreUnderTest, make_plan

UNSEEN = {
    ("round-committed", "base"),
    ("round-committed", "outer"),
    ("round-committed", "state"),
    ("run-finished", "state"),
    ("score-published", "bits_per_byte"),
    ("score-published", "bytes"),
    ("score-published", "member"),
    ("score-published", "merges"),
    ("score-published", "node"),
    ("score-published", "state"),
    ("contribution-refused", "reason"),
    ("founded", "title"),
}
"""What bytes alone do not show: what a merge gives (repeat it), figures that a node published, why the core
found a contribution's form wrong, and a title; where such a value is part of what follows, it is found."""


FREE = {
    ("run-started", "node-enrolled"),
    ("node-enrolled", "node-enrolled"),
    ("member-admitted", "member-admitted"),
    ("key-certified", "member-admitted"),
    ("key-certified", "node-enrolled"),
    ("run-started", "member-admitted"),
}
"""Neighbours that may stand either way."""


@dataclass(frozen=True)
class Ledger:
    lines: list[Line]
    key: KeyPair

    @property
    def entries(self) -> list[Entry]:
        return [value for kind, value in self.lines if kind == "entry"]

    def of(self, type_: str, number: int = 0) -> int:
        """Place among the lines of the n-th entry of a type."""
        found = [i for i, (k, v) in enumerate(self.lines) if k == "entry" and v.type == type_]
        return found[number]

    def changed(self, place: int, **body: Any) -> Ledger:
        lines = copy.copy(self.lines)
        entry: Entry = lines[place][1]
        lines[place] = ("entry", entry.model_copy(update={"body": {**entry.body, **body}}))
        return replace(self, lines=lines)

    def signed_anew(self) -> Ledger:
        """Numbered without a gap, and signed by the core itself: it lies."""
        lines, nodes, size = [], {}, 0
        for kind, value in self.lines:
            if kind == "checkpoint":
                continue
            if kind == "entry":
                value = value.model_copy(update={"sequence": size + 1})
                leaf = tree.leaf_hash(value.to_bytes())
                for level, index, found in tree.new_nodes(size, leaf, lambda *at: nodes[at]):
                    nodes[level, index] = found
                size += 1
            lines.append((kind, value))
        genesis = next(value for kind, value in lines if kind == "entry")
        origin = origin_of(genesis.digest)
        note = Note(Checkpoint(origin, size, tree.root(size, lambda *at: nodes[at])).text)
        return Ledger([*lines, ("checkpoint", note.signed(origin, self.key).to_bytes().decode())], self.key)


def verify(given: Ledger) -> Found:
    return Verifier().take(given.lines)


def refused(given: Ledger) -> bool:
    try:
        verify(given)
    except TapestryError:
        return True
    return False


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Three merges of two members; one contribution refused for its form, its replacement merged late."""
    folder = tmp_path_factory.mktemp("audit")
    core = CoreUnderTest(folder / "core")
    core.start()
    plan = make_plan(folder, total=3, quorum=1, staleness=1, deadline_s=2.0)
    ada, bob = core.running(plan, folder, "ada", "bob")
    ada.hand_in(plan, 0.5)
    late = plan.initial_state
    ada.wait(lambda v: v.head.merges == 1)
    bob.hand_in(plan, float("nan"), state=late)
    bob.hand_in(plan, 0.25, state=late, nonce="1" * 32)
    head = ada.view().head.state
    ada.hand_in(plan, 0.5, round=2, state=head)
    ada.wait(lambda v: v.head.merges == 2)
    head = ada.view().head.state
    for member in (ada, bob):
        member.hand_in(plan, 0.125, round=3, state=head)
    ada.wait(lambda v: v.status == "finished")
    core.close()
    with Core.open(core.root) as opened:
        lines = list(Proofs(opened.journal, opened.consortium).lines(opened.store))
        yield Ledger(lines, opened.consortium.core_key)


def test_a_real_ledger_holds(real: Ledger, tmp_path: Path) -> None:
    found = verify(real)
    assert (found.members, found.merges, found.entries) == (2, 3, len(real.entries))
    assert found.contributions == 6
    assert found.runs == {"run": real.entries[real_last(real)].body["state"]}
    path = tmp_path / "ledger.jsonl"
    with path.open("wb") as out:
        ledger.write(out, real.lines)
    assert Verifier().take(ledger.read(path)) == found
    assert verify(real.signed_anew()) == found, "the control: signing anew alone changes nothing"


def real_last(real: Ledger) -> int:
    return max(i for i, e in enumerate(real.entries) if e.type == "round-committed")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from leaves(each, (*path, number))
    else:
        yield path, value


def other(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return "x" if value is None else not value
    if isinstance(value, int | float):
        return value + 1
    if len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return ("0" if value[0] != "0" else "1") + value[1:]
    return value[:-1] + ("a" if value[-1:] != "a" else "b")


def test_no_changed_value_holds(real: Ledger) -> None:
    """Each value of each entry in turn, by a core that signs what it has changed."""
    tried, passed = 0, set()
    for place, (kind, entry) in enumerate(real.lines):
        if kind != "entry":
            continue
        for path, value in leaves(entry.body):
            body = copy.deepcopy(entry.body)
            inside = body
            for step in path[:-1]:
                inside = inside[step]
            inside[path[-1]] = other(value)
            tried += 1
            if not refused(real.changed(place, **body).signed_anew()):
                passed.add((entry.type, path[0]))
    assert tried > 200
    assert passed <= UNSEEN, passed - UNSEEN


def test_nothing_can_be_left_out_or_come_twice_or_elsewhere(real: Ledger) -> None:
    """But for what does not depend on each other, which a core may take in either order."""
    free = set()
    places = [i for i, (kind, _) in enumerate(real.lines) if kind == "entry"]
    for number, place in enumerate(places):
        without = replace(real, lines=[*real.lines[:place], *real.lines[place + 1 :]])
        if number < len(places) - 1:
            assert refused(without.signed_anew()), f"without {real.lines[place][1].type}"
        twice = replace(real, lines=[*real.lines[: place + 1], *real.lines[place:]])
        assert refused(twice.signed_anew()), f"twice {real.lines[place][1].type}"
        if number + 1 < len(places):
            swapped = list(real.lines)
            after = places[number + 1]
            swapped[place], swapped[after] = swapped[after], swapped[place]
            if not refused(replace(real, lines=swapped).signed_anew()):
                free.add((real.lines[place][1].type, real.lines[after][1].type))
    assert free <= FREE, free - FREE


def test_times_are_part_of_the_rules(real: Ledger) -> None:
    for place, (kind, entry) in enumerate(real.lines):
        if kind == "entry" and entry.type in ("round-opened", "contribution-received", "round-closed"):
            lines = list(real.lines)
            lines[place] = ("entry", entry.model_copy(update={"at": "2020-01-01T00:00:00.000Z"}))
            assert refused(replace(real, lines=lines).signed_anew()), entry.type


def test_weights_are_the_plans(real: Ledger) -> None:
    place = real.of("round-closed", 2)
    merged = real.lines[place][1].body["merged"]
    assert len(merged) == 2
    moved = [
        {**merged[0], "weight": merged[0]["weight"] + 5},
        {**merged[1], "weight": merged[1]["weight"] - 5},
    ]
    for wrong in (moved, merged[:1], merged[::-1], [merged[0], merged[0]]):
        with pytest.raises(IntegrityError, match=r"entry \d+: by the rules comes round-closed"):
            verify(real.changed(place, merged=wrong).signed_anew())


def test_who_has_signed_what(real: Ledger) -> None:
    stranger = KeyPair.generate()
    with pytest.raises(IntegrityError, match="is not in the ledger's file"):
        verify(replace(real, lines=[line for line in real.lines if line[0] != "blob"]))
    entries = real.entries
    note = Note.from_bytes(real.lines[-1][1].encode())
    foreign = Note(note.text).signed(origin_of(entries[0].digest), stranger).to_bytes().decode()
    unsigned = replace(real, lines=[*real.lines[:-1], ("checkpoint", foreign)])
    with pytest.raises(IntegrityError, match="checkpoint: the note is not signed"):
        verify(unsigned)
    assert refused(replace(real, lines=real.lines[:-1])), "cut off"
    assert refused(replace(real, lines=[*real.lines, real.lines[-1]])), "goes on"
    shorter = [line for line in real.lines[:-2] if line[0] == "entry"]
    assert refused(replace(real, lines=[*real.lines[:-2], real.lines[-1]])), (
        f"{len(shorter)} of the signed entries"
    )


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b'"tapestry.ledger"', b'"tapestry.other"', FormatError),
        (b'{"entry":', b'{"entry" :', FormatError),
        (b'{"entry":', b'{"more":1,"entry":', FormatError),
        (b'{"blob":"', b'{"blob":"!', FormatError),
        (b'{"checkpoint":', b'{"notes":', FormatError),
    ],
)
def test_a_file_of_another_form(
    real: Ledger, tmp_path: Path, old: bytes, new: bytes, error: type[Exception]
) -> None:
    path = tmp_path / "ledger.jsonl"
    with path.open("wb") as out:
        ledger.write(out, real.lines)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(error):
        Verifier().take(ledger.read(path))
    path.write_bytes(data[:-30])
    with pytest.raises(FormatError, match="cut off"):
        Verifier().take(ledger.read(path))
    with pytest.raises(InputError):
        Verifier().take(ledger.read(tmp_path / "none"))
