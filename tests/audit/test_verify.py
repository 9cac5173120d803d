"""A real core's ledger holds; hundreds of changed ones do not, though their core has signed them anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tapestry.audit import file as ledger
from tapestry.audit.verify import Verifier
from tapestry.errors import FormatError, InputError, IntegrityError
from tapestry.ledger import tree
from tests.audit.support import Ledger, changes, rearranged, refused, verify

UNSEEN = {
    ("round-committed", "base"),
    ("round-committed", "outer"),
    ("contribution-refused", "reason"),
}
"""What bytes alone do not show: what a merge gives (repeat it), and why the core found a contribution's form
wrong; where such a value is part of what follows, it is found."""


FREE = {
    ("node-enrolled", "run-started"),
    ("node-enrolled", "node-enrolled"),
    ("member-admitted", "member-admitted"),
    ("key-certified", "member-admitted"),
    ("key-certified", "node-enrolled"),
    ("member-admitted", "run-started"),
    ("key-certified", "key-certified"),
    ("contribution-accepted", "contribution-received"),
    ("contribution-received", "contribution-received"),
    ("contribution-received", "score-published"),
}
"""Neighbours that may stand either way, each pair by its alphabet; contributions where they are two."""


LOOSE = {("without", "score-published"), ("twice", "score-published"), ("without", "key-certified")}
"""Nothing follows from a score, nor from a key that signs nothing. Whoever has seen the ledger's head with it
finds that it is gone."""


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


def test_no_changed_value_holds(real: Ledger) -> None:
    """Each value of each entry in turn, by a core that signs what it has changed."""
    tried, passed = _tried(real)
    assert tried > 200
    assert passed == UNSEEN, passed ^ UNSEEN


def _tried(given: Ledger) -> tuple[int, set[tuple[str, str]]]:
    """How many values were changed, and which of them nobody notices."""
    tried, passed = 0, set()
    for entry, path, changed in changes(given):
        tried += 1
        if not refused(changed.signed_anew()):
            passed.add((entry.type, path[0]))
    return tried, passed


def test_what_witnesses_have_signed_cannot_be_changed_at_all(attested: Ledger) -> None:
    """They sign the tree that ends with a merge, so all before the last of them stands: what bytes alone do
    not show, and the order of what does not depend on each other."""
    assert verify(attested).attestations == 4
    tried, passed = _tried(attested)
    assert tried > 200 and not passed, passed
    for how, entry, _, changed in rearranged(attested):
        assert refused(changed.signed_anew()), f"{how} {entry.type}"


def test_an_envelope_that_no_entry_names(real: Ledger) -> None:
    """Before any line but the first: nothing may travel along that nothing speaks of."""
    kind, envelope = next(line for line in real.lines if line[0] == "blob")
    for place, (line, _) in enumerate(real.lines):
        more = replace(real, lines=[*real.lines[:place], (kind, envelope + b" "), *real.lines[place:]])
        with pytest.raises(IntegrityError, match=r"envelope that (it does not name|no entry names)"):
            verify(more.signed_anew() if line == "entry" else more)


def test_nothing_can_be_left_out_or_come_twice_or_elsewhere(real: Ledger) -> None:
    """But for what does not depend on each other, which a core may take in either order."""
    free, loose = set(), set()
    for how, entry, after, changed in rearranged(real):
        if not refused(changed.signed_anew()):
            if how == "swapped" and after is not None:
                own = entry.body.get("contribution")
                assert own is None or own != after.body.get("contribution"), (entry, after)
                free.add(tuple(sorted((entry.type, after.type))))
            else:
                loose.add((how, entry.type))
    assert free <= FREE, free - FREE
    assert loose == LOOSE, loose ^ LOOSE


def test_where_it_stands_has_the_peaks_of_the_tree(real: Ledger) -> None:
    """In the form in which nodes keep them; without one of them there is no going on."""
    first, grown = Verifier(), tree.Tree(tree.leaf_hash(entry.to_bytes()) for entry in real.entries)
    first.take(real.lines)
    kept, roots = first.to_json(), bytes(first.roots)
    peaks = tree.peaks(0, grown.size)
    assert kept["nodes"] == [[level, index, grown.node(level, index).hex()] for level, index in peaks]
    Verifier().restore(kept, roots)
    with pytest.raises(FormatError, match="not where a verification stood"):
        Verifier().restore({**kept, "nodes": kept["nodes"][1:]}, roots)


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
