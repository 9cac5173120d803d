"""A core that rewrites its ledger, and signs what it has written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tapestry.audit.verify import Verifier
from tapestry.errors import FormatError, IntegrityError
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import Entry
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.switches import Switches
from tests.audit.support import Ledger, verify

WHO = "a core, in its ledger"
Given = tuple[Any, ...]
VERIFIER = "tapestry.audit.verify.Verifier"
RULES = (f"{VERIFIER}._of_run", "not _says(entry, expected) or entry.at != self._due_at[entry.scope]")
SEQUENCE = (f"{VERIFIER}._entry", "entry.sequence != self.found.entries + 1")
HEAD = (f"{VERIFIER}._checkpoint", "(said.size, said.root) != (self.found.entries, root)")


def _at(given: Ledger, type_: str, number: int = 0, *, at: str) -> Ledger:
    lines, place = list(given.lines), given.of(type_, number)
    lines[place] = ("entry", lines[place][1].model_copy(update={"at": at}))
    return replace(given, lines=lines)


def _without(given: Ledger, *places: int) -> Ledger:
    return replace(given, lines=[line for n, line in enumerate(given.lines) if n not in places])


def _left_out(given: Ledger) -> Ledger:
    """The refusal of a contribution is gone."""
    return _without(given, given.of("contribution-refused")).signed_anew()


def _gap(given: Ledger) -> Ledger:
    return _without(given, given.of("contribution-refused"))


def _twice(given: Ledger) -> Ledger:
    place = given.of("round-closed")
    return replace(given, lines=[*given.lines[: place + 1], *given.lines[place:]]).signed_anew()


def _swapped(given: Ledger) -> Ledger:
    lines, place = list(given.lines), given.of("round-closed")
    lines[place], lines[place + 1] = lines[place + 1], lines[place]
    return replace(given, lines=lines).signed_anew()


def _backdated(given: Ledger) -> Ledger:
    return _at(given, "contribution-received", 1, at="2020-01-01T00:00:00.000Z").signed_anew()


def _late(given: Ledger) -> Ledger:
    """The round closes with one contribution before its deadline, as if it had passed."""
    return _at(given, "round-opened", 0, at="2020-01-01T00:00:00.000Z").signed_anew()


def _weights(given: Ledger) -> Ledger:
    place = given.of("round-closed", 2)
    merged = given.lines[place][1].body["merged"]
    moved = [
        {**merged[0], "weight": merged[0]["weight"] + 5},
        {**merged[1], "weight": merged[1]["weight"] - 5},
    ]
    return given.changed(place, merged=moved).signed_anew()


def _dropped(given: Ledger) -> Ledger:
    """What was accepted and receipted is left out of the merge, and the other has all the weight."""
    place = given.of("round-closed", 2)
    merged = given.lines[place][1].body["merged"]
    return given.changed(place, merged=[{**merged[0], "weight": 1 << 24}]).signed_anew()


def _tokens(given: Ledger) -> Ledger:
    """More tokens than the node has signed for."""
    return given.changed(given.of("contribution-received"), tokens=20_000).signed_anew()


def _another_base(given: Ledger) -> Ledger:
    """A round begins from another state than the last one led to."""
    return given.changed(given.of("round-opened", 1), state="7" * 64).signed_anew()


def _finished_early(given: Ledger) -> Ledger:
    """The run ends one merge early."""
    lines, place = list(given.lines), given.of("round-opened", 2)
    end = given.of("run-finished")
    finished = lines[end][1].model_copy(update={"at": lines[place][1].at})
    keep = [*lines[:place], ("entry", finished), lines[-1]]
    return replace(given, lines=keep).signed_anew()


@attacks(
    case(
        "entry-changed",
        "says a node has claimed more tokens than it signed",
        "entries follow from signed envelopes",
        _tokens,
        RULES,
    ),
    case(
        "entry-left-out",
        "leaves out that a contribution was refused",
        "the rules give each entry from those before",
        _left_out,
        RULES,
    ),
    case("entry-twice", "closes a round twice", "the rules give each entry from those before", _twice, RULES),
    case(
        "entries-swapped",
        "has a round merged before it was closed",
        "the rules give each entry from those before",
        _swapped,
        RULES,
    ),
    case(
        "entry-backdated",
        "says that a contribution came years before",
        "what one input leads to has one time",
        _backdated,
        RULES,
    ),
    case(
        "deadline-moved",
        "opens a round earlier than it did, so that its deadline had passed",
        "deadlines are counted from the entry's time",
        _late,
        RULES,
    ),
    case(
        "weights-changed-in-the-ledger",
        "writes other weights down than the plan gives",
        "weights follow from the plan",
        _weights,
        RULES,
    ),
    case(
        "accepted-contribution-dropped",
        "leaves what it accepted out of the merge",
        "what is accepted is merged",
        _dropped,
        RULES,
    ),
    case(
        "round-from-another-state",
        "opens a round from a base that no merge has given",
        "a round starts from the head",
        _another_base,
        RULES,
    ),
    case(
        "run-ended-early",
        "ends a run before its last merge",
        "a run has the merges of its plan",
        _finished_early,
        RULES,
    ),
    case(
        "gap-in-the-numbers",
        "takes an entry out and leaves the others' numbers",
        "entries are numbered without a gap",
        _gap,
        SEQUENCE,
        RULES,
        HEAD,
    ),
)
def test_an_entry(lies: Ledger, switches: Switches, given: Given) -> None:
    make, *off = given
    lie = make(lies)
    with pytest.raises(IntegrityError):
        verify(lie)
    with switches.all_off(*off, *_lenient()):
        assert verify(lie).entries > 0


def _lenient() -> tuple[tuple[Any, ...], ...]:
    """Without the rules there is no telling what comes next: each entry is then taken as it stands."""

    def taken(verifier: Verifier, _entry: Entry, event: Any) -> list[Any]:
        verifier._blobs.clear()
        return [event]

    return ((f"{VERIFIER}._expected", None, taken),)


@attack(
    "ledger-cut-off",
    tries="leaves out the last entries, and shows the head that it signed before them",
    stopped_by="the head states the tree's size and root",
)
def test_cut_off(lies: Ledger, switches: Switches) -> None:
    lie = _without(lies, lies.of("run-finished"))
    with pytest.raises(IntegrityError):
        verify(lie)
    with switches.all_off(HEAD, (f"{VERIFIER}._no_more_due", None)):
        assert verify(lie).entries == len(lies.entries) - 1


@attack(
    "ledger-without-a-head",
    tries="gives a ledger that nobody has signed",
    stopped_by="a ledger ends with a checkpoint",
)
def test_no_head(lies: Ledger, switches: Switches) -> None:
    lie = replace(lies, lines=lies.lines[:-1])
    with pytest.raises(FormatError, match="without a checkpoint"):
        verify(lie)
    with switches.check_off(f"{VERIFIER}.take", "not self._ended"):
        assert verify(lie).entries == len(lies.entries)


@attack(
    "ledger-that-goes-on-after-its-head",
    tries="writes entries behind the signed head, which it does not cover",
    stopped_by="nothing follows a checkpoint",
)
def test_goes_on(lies: Ledger, switches: Switches) -> None:
    last = lies.entries[-1]
    more = last.model_copy(update={"sequence": last.sequence + 1})
    lie = replace(lies, lines=[*lies.lines, ("entry", more)])
    with pytest.raises(FormatError, match="goes on"):
        verify(lie)
    with switches.all_off(
        (f"{VERIFIER}.take", "if self._ended"), (f"{VERIFIER}.take", "not self._ended"), RULES, *_lenient()
    ):
        assert verify(lie).entries == len(lies.entries) + 1


@attack(
    "head-signed-by-another-key",
    tries="shows a head that somebody else has signed",
    stopped_by="the core's key is in the founding entry, whose digest is the consortium's id",
)
def test_another_key(lies: Ledger, switches: Switches) -> None:
    note = Note.from_bytes(lies.lines[-1][1].encode())
    foreign = Note(note.text).signed(origin_of(lies.entries[0].digest), KeyPair.generate())
    lie = replace(lies, lines=[*lies.lines[:-1], ("checkpoint", foreign.to_bytes().decode())])
    with pytest.raises(IntegrityError, match="not signed"):
        verify(lie)
    with switches.off("tapestry.identity.notes.Note.check"):
        verify(lie)


@attack(
    "head-of-another-tree",
    tries="signs another root than the entries make",
    stopped_by="the root is computed from the entries",
)
def test_another_root(lies: Ledger, switches: Switches) -> None:
    origin = origin_of(lies.entries[0].digest)
    text = Checkpoint(origin, len(lies.entries), b"\x07" * 32).text
    lie = replace(
        lies,
        lines=[*lies.lines[:-1], ("checkpoint", Note(text).signed(origin, lies.key).to_bytes().decode())],
    )
    with pytest.raises(IntegrityError, match="another tree"):
        verify(lie)
    with switches.check_off(*HEAD):
        verify(lie)


@attack(
    "founded-again",
    tries="founds the consortium a second time, with another key",
    stopped_by="a ledger is founded once, by its first entry",
)
def test_founded_again(lies: Ledger, switches: Switches) -> None:
    other, genesis = KeyPair.generate(), lies.entries[0]
    again = genesis.model_copy(update={"body": {**genesis.body, "core_key": other.public_key}})
    lie = replace(lies, lines=[*lies.lines[:-1], ("entry", again), lies.lines[-1]]).signed_anew()
    with pytest.raises(IntegrityError, match="founded once"):
        verify(lie)
    said = Checkpoint.parse(Note.from_bytes(lie.lines[-1][1].encode()).text)
    origin = origin_of(lie.entries[-1].digest)
    note = Note(Checkpoint(origin, said.size, said.root).text).signed(origin, other)
    taken = replace(lie, lines=[*lie.lines[:-1], ("checkpoint", note.to_bytes().decode())])
    with switches.check_off(
        f"{VERIFIER}._of_consortium", "isinstance(event, Founded) != (entry.sequence == 1)"
    ):
        found = verify(taken)
    assert found.consortium == lie.entries[-1].digest, "it is another's now"
