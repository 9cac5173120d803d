"""A core that puts words into its members' mouths, and shows each of them another ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit import file as ledger
from tapestry.audit.verify import Verifier
from tapestry.errors import FormatError, IntegrityError
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing, make_certificate
from tapestry.identity.keys import KeyPair
from tapestry.ledger import tree
from tapestry.ledger.entries import Entry
from tapestry.protocol.messages import Contribution
from tests.attacks.catalog import attack
from tests.attacks.switches import Switches
from tests.audit.support import Ledger, verify
from tests.core.support import time_at

WHO = "a core, in its ledger"
Given = tuple[Any, ...]
VERIFIER = "tapestry.audit.verify.Verifier"
RULES = (f"{VERIFIER}._of_run", "not _says(entry, expected) or entry.at != self._due_at[entry.scope]")
SEQUENCE = (f"{VERIFIER}._entry", "entry.sequence != self.found.entries + 1")
HEAD = (f"{VERIFIER}._checkpoint", "(said.size, said.root) != (self.found.entries, root)")


def _without(given: Ledger, *places: int) -> Ledger:
    return replace(given, lines=[line for n, line in enumerate(given.lines) if n not in places])


def _lenient() -> tuple[tuple[Any, ...], ...]:
    """Without the rules there is no telling what comes next: each entry is then taken as it stands."""

    def taken(verifier: Verifier, _entry: Entry, event: Any) -> list[Any]:
        verifier._blobs.clear()
        return [event]

    return ((f"{VERIFIER}._expected", None, taken),)


# -- whose words --------------------------------------------------------------------------------


def _contribution_line(given: Ledger) -> tuple[int, Envelope]:
    place = given.of("contribution-received") - 1
    kind, data = given.lines[place]
    assert kind == "blob"
    return place, Envelope.from_bytes(data)


def _with_envelope(given: Ledger, place: int, envelope: Envelope) -> Ledger:
    """Its own contribution in the place of the first; all else as the rules then have it."""
    lines = list(given.lines)
    lines[place] = ("blob", envelope.to_bytes())
    old = given.lines[place + 1][1].body["contribution"]
    delta = envelope.unverified(Contribution).delta

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            own = value.get("contribution") == old
            new = {"contribution": envelope.digest} | ({"delta": delta} if "delta" in value else {})
            return {key: changed(each) for key, each in value.items()} | (new if own else {})
        return [changed(each) for each in value] if isinstance(value, list) else value

    for number, (kind, value) in enumerate(lines):
        if kind == "entry":
            lines[number] = ("entry", value.model_copy(update={"body": changed(value.body)}))
    return replace(given, lines=lines).signed_anew()


@attack(
    "key-certified-by-the-core",
    tries="certifies a key for ada's node itself",
    stopped_by="the certificate in the entry is signed by ada's root key",
)
def test_certified_by_the_core(lies: Ledger, switches: Switches) -> None:
    place = lies.of("key-certified")
    own, root = KeyPair.generate(), KeyPair.generate()
    made = make_certificate(
        root,
        member="ada",
        node="ada-1",
        role="node",
        public_key=own.public_key,
        not_before=time_at(-7200),
        expires=time_at(7200),
    )
    extra = lies.lines[place][1].model_copy(
        update={"body": {"member": "ada", "key_id": own.key_id, "envelope": made.to_bytes().decode()}}
    )
    lie = replace(
        lies, lines=[*lies.lines[: place + 1], ("entry", extra), *lies.lines[place + 1 :]]
    ).signed_anew()
    with pytest.raises(IntegrityError, match="not signed by the root key"):
        verify(lie)

    def lenient(_ring: KeyRing, envelope: Envelope, kind: Any) -> Any:
        return envelope.unverified(kind)

    with switches.off("tapestry.identity.keyring.KeyRing._from_root", lenient):
        assert verify(lie).entries == len(lies.entries) + 1


@attack(
    "member-admitted-by-the-core",
    tries="admits a member that never asked to join",
    stopped_by="the request to join is in the entry, signed by the member's root key",
)
def test_admitted_by_the_core(lies: Ledger, switches: Switches) -> None:
    place = lies.of("member-admitted")
    entry: Entry = lies.lines[place][1]
    extra = entry.model_copy(
        update={"body": {**entry.body, "member": "mallory", "root_key": KeyPair.generate().public_key}}
    )
    lie = replace(lies, lines=[*lies.lines[:place], ("entry", extra), *lies.lines[place:]]).signed_anew()
    with pytest.raises(IntegrityError, match="asked to join as something else"):
        verify(lie)
    with switches.check_off(
        "tapestry.audit.members.changed", "(join.member, join.root_key) != (event.member, event.root_key)"
    ):
        assert verify(lie).members == 3


@attack(
    "plan-revised-in-the-ledger",
    tries="records another cap in the plan that the members ratified",
    stopped_by="rounds name the plan's digest, and so do all signed contributions",
)
def test_plan_changed(lies: Ledger, switches: Switches) -> None:
    place = lies.of("run-planned")
    plan = lies.lines[place][1].body["plan"]
    lie = lies.changed(place, plan={**plan, "title": "another"}).signed_anew()
    with pytest.raises(IntegrityError):
        verify(lie)
    with switches.all_off(RULES, *_lenient()):
        verify(lie)


# -- what others were shown ---------------------------------------------------------------------


def _tree(entries: list[Entry]) -> tree.Tree:
    return tree.Tree(tree.leaf_hash(entry.to_bytes()) for entry in entries)


@attack(
    "forked-ledger",
    tries="shows one member a history and another member another, each signed",
    stopped_by="no proof leads from one head to the other",
)
def test_forked(lies: Ledger, switches: Switches) -> None:
    entries = lies.entries
    old, new = len(entries) // 2, len(entries)
    true, forked = _tree(entries), _tree([*entries[: old - 1], entries[old], *entries[old:]])
    tree.check_consistency(old, true.root(old), new, true.root(), true.consistency(old))

    def tried() -> None:
        tree.check_consistency(old, true.root(old), new, forked.root(), forked.consistency(old))

    with pytest.raises(IntegrityError, match="does not begin with"):
        tried()
    with switches.check_off(
        "tapestry.ledger.tree.check_consistency", "if last or older != old_root or newer != new_root"
    ):
        tried()


@attack(
    "smaller-ledger",
    tries="shows an older head again, to hide what came since",
    stopped_by="a ledger never gets smaller",
)
def test_smaller(lies: Ledger, switches: Switches) -> None:
    true = _tree(lies.entries)
    size = true.size

    def tried() -> None:
        tree.check_consistency(size, true.root(), size - 1, true.root(size - 1), ())

    with pytest.raises(IntegrityError, match="is smaller"):
        tried()
    tree.check_consistency(size, true.root(), size, true.root(), ())
    with switches.all_off(
        ("tapestry.ledger.tree.check_consistency", "if old > new"),
        ("tapestry.ledger.tree.check_consistency", "if not path"),
        ("tapestry.ledger.tree.check_consistency", "path[0]", lambda: b""),
        ("tapestry.ledger.tree.check_consistency", "if last or older != old_root or newer != new_root"),
    ):
        tried()


@attack(
    "entry-that-is-not-in-the-tree",
    tries="shows a member an entry, with a proof of another one",
    stopped_by="a proof leads from the entry's own hash to the signed root",
)
def test_not_in_the_tree(lies: Ledger, switches: Switches) -> None:
    true = lies.entries
    grown, size = _tree(true), len(true)
    proof, root = grown.inclusion(3), grown.root()
    tree.check_inclusion(tree.leaf_hash(true[3].to_bytes()), 3, size, proof, root)
    other = tree.leaf_hash(true[3].model_copy(update={"at": "2020-01-01T00:00:00.000Z"}).to_bytes())
    with pytest.raises(IntegrityError, match="another root"):
        tree.check_inclusion(other, 3, size, proof, root)
    with switches.check_off("tapestry.ledger.tree.check_inclusion", "if last or found != root_hash"):
        tree.check_inclusion(other, 3, size, proof, root)


@attack(
    "ledger-file-with-a-long-line",
    tries="gives a file whose first line has no end, for whoever reads it into memory",
    stopped_by="a line has a cap",
)
def test_a_long_line(
    lies: Ledger, tmp_path: Path, switches: Switches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "ledger.jsonl"
    with path.open("wb") as out:
        ledger.write(out, lies.lines)
    assert Verifier().take(ledger.read(path)) == verify(lies)
    path.write_bytes(b'"' + b"0" * (3 << 20) + b'"\n')
    with pytest.raises(FormatError, match="too long"):
        next(ledger.read(path))
    with (
        switches.check_off(
            "tapestry.audit.file._lines",
            "file.readline(MAX_LINE_BYTES + 1)",
            lambda file: file.readline(),
            given="file",
        ),
        switches.check_off(
            "tapestry.audit.file._lines", 'len(line) > MAX_LINE_BYTES or not line.endswith(b"\\n")'
        ),
        pytest.raises(Exception, match="line has 3145730 bytes"),
    ):
        next(ledger.read(path))  # all of it was in memory
