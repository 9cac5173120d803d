"""A proof that a core has signed two histories: what it proves, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.audit.fork import ForkProof, prove
from tapestry.errors import FormatError, IntegrityError, SignatureError, TapestryError
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import CONSORTIUM, Entry, Founded, make_entry
from tapestry.rounds.events import NodeWithdrawn

AT = "2026-05-01T12:00:00.000Z"
CORE = KeyPair.generate()


def founding(key: KeyPair = CORE, title: str = "Forked") -> Entry:
    return make_entry(1, AT, CONSORTIUM, Founded(title=title, core_key=key.public_key, nonce="0" * 32))


FOUNDED = founding()


def history(size: int, *, common: int | None = None, name: str = "a") -> list[Entry]:
    """Entries of which all but the first `common` are another history's."""
    common = size if common is None else common
    rest = [
        make_entry(n, AT, "run", NodeWithdrawn(node="x" if n <= common else name, reason="left"))
        for n in range(2, size + 1)
    ]
    return [FOUNDED, *rest]


def head(entries: list[Entry], key: KeyPair = CORE, *, consortium: str = FOUNDED.digest) -> str:
    """As the core signs it."""
    origin = origin_of(consortium)
    root = tree.Tree(tree.leaf_hash(entry.to_bytes()) for entry in entries).root()
    return Note(Checkpoint(origin, len(entries), root).text).signed(origin, key).to_bytes().decode()


OURS, THEIRS = history(9, common=4), history(7, common=4, name="b")
PROOF = prove(OURS, head(OURS), head(THEIRS))


def changed(**fields: Any) -> ForkProof:
    return PROOF.model_copy(update=fields)


def test_a_proof_convicts_the_core() -> None:
    assert PROOF.check() == FOUNDED.digest
    assert ForkProof.from_bytes(PROOF.to_bytes()).check() == FOUNDED.digest
    same_size = history(9, common=8, name="c")
    assert prove(OURS, head(OURS), head(same_size)).check() == FOUNDED.digest


def test_two_heads_of_one_history_prove_nothing() -> None:
    for size in range(1, 10):
        with pytest.raises(IntegrityError, match="do not contradict"):
            prove(OURS, head(OURS), head(OURS[:size]))
    honest = {"root": Checkpoint.parse(Note.from_bytes(head(OURS[:7]).encode()).text).root.hex()}
    with pytest.raises(IntegrityError, match="do not contradict"):
        changed(first=head(OURS[:7]), **honest).check()
    changed(first=head(THEIRS), **honest).check()


def test_what_is_not_of_the_entries_at_hand() -> None:
    with pytest.raises(IntegrityError, match="not of these entries"):
        prove(OURS, head(THEIRS), head(OURS[:5]))
    with pytest.raises(IntegrityError, match="not of these entries"):
        prove(OURS[:8], head(OURS), head(THEIRS))
    with pytest.raises(IntegrityError, match="more entries than are known"):
        prove(THEIRS, head(THEIRS), head(OURS))
    with pytest.raises(IntegrityError):
        prove(OURS[1:], head(OURS), head(THEIRS))


def test_nobody_but_the_core_is_convicted() -> None:
    other = KeyPair.generate()
    for fields in ({"first": head(THEIRS, other)}, {"second": head(OURS, other)}):
        with pytest.raises(SignatureError):
            changed(**fields).check()
    with pytest.raises((SignatureError, FormatError)):
        changed(founding=founding(other)).check()
    with pytest.raises((SignatureError, FormatError)):
        changed(founding=founding(title="Another consortium of the same core")).check()
    elsewhere = founding(title="Another")
    with pytest.raises((SignatureError, FormatError)):
        changed(first=head([elsewhere, *THEIRS[1:]], consortium=elsewhere.digest)).check()
    with pytest.raises(IntegrityError):
        changed(founding=OURS[1]).check()
    with pytest.raises(IntegrityError, match="founds no consortium"):
        changed(founding=FOUNDED.model_copy(update={"sequence": 2})).check()


def test_a_changed_proof_proves_nothing() -> None:
    for fields in (
        {"root": "7" * 64},
        {"proof": PROOF.proof[:-1]},
        {"proof": (*PROOF.proof, "7" * 64)},
        {"proof": ("7" * 64, *PROOF.proof[1:])},
        {"first": PROOF.second, "second": PROOF.first},
        {"second": head(OURS[:8])},
        {"first": head(THEIRS[:6])},
    ):
        with pytest.raises(IntegrityError):
            changed(**fields).check()
    assert changed().check() == FOUNDED.digest, "the control"


def test_a_head_of_no_entries() -> None:
    """Of another tree it proves a fork; of the empty tree nothing."""
    origin = origin_of(FOUNDED.digest)
    empty, other = (
        Note(Checkpoint(origin, 0, root).text).signed(origin, CORE).to_bytes().decode()
        for root in (tree.EMPTY, b"\x07" * 32)
    )
    assert prove(OURS, head(OURS), other).check() == FOUNDED.digest
    with pytest.raises(IntegrityError, match="do not contradict"):
        prove(OURS, head(OURS), empty)


SIZES = st.integers(1, 24)


@settings(max_examples=80, deadline=None)
@given(ours=SIZES, theirs=SIZES, common=SIZES)
def test_any_sizes(ours: int, theirs: int, common: int) -> None:
    """It is proved exactly where the shorter history is not the longer one's beginning."""
    theirs, ours = sorted((ours, theirs))
    a, b = history(ours, common=common), history(theirs, common=common, name="b")
    try:
        found = prove(a, head(a), head(b)).check()
    except TapestryError:
        assert b == a[:theirs]
    else:
        assert found == FOUNDED.digest and b != a[:theirs]
