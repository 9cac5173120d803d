"""Entitlements: who has a right to a released base, by the charter's rule, and the paper that says so.

A certificate is made from the ledger alone, so that everybody who has it makes the same bytes. Holders of the
charter's release rule countersign it; the paper carries what is needed to check it without the ledger:
entries, their proofs, and a head that the core has signed. Format: docs/formats/entitlements.md.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, StringConstraints

from tapestry.governance.charter import Charter, entitled
from tapestry.governance.tally import Tally
from tapestry.governance.words import ShareText, share, text_of
from tapestry.identity.notes import MAX_BYTES as MAX_NOTE
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.ledger.tree import MAX_PROOF
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import PublicKey, RoundNumber, Time
from tapestry.rounds.weights import UNIT

Right = Literal["use", "derive", "redistribute", "own-derivative"]
RIGHTS: Final[tuple[Right, ...]] = ("use", "derive", "redistribute", "own-derivative")
Count = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]


class Base(Part):
    """What was released: hashes as the ledger has them."""

    run: Name
    round: RoundNumber
    merges: Annotated[int, Field(ge=1, le=1 << 40)]
    state: Sha256
    base: Sha256
    """Digest of the base's `Artifact`: all its weights."""
    model: Sha256
    layout: Sha256


class Given(Part):
    """What the member gave, up to the merge that gave the base."""

    rounds: Count
    """Merges with an accepted contribution of it."""
    weight: Count
    """Of these contributions, in units of 2^-24."""
    of_merges: Count
    """All merges that led to the base; each has 2^24 units."""
    tokens: Count
    steps: Count

    @property
    def share(self) -> Fraction:
        return Fraction(self.weight, UNIT * self.of_merges) if self.of_merges else Fraction(0)


class Asked(Part):
    """The charter's rule, as it stood."""

    rounds: Count
    weight: ShareText
    needs: Literal["both", "either"]

    @classmethod
    def of(cls, charter: Charter) -> Self:
        rules = charter.entitlements
        return cls(rounds=rules.rounds, weight=rules.weight, needs=rules.needs)


class Entitlement(Message):
    """This member has these rights to this base. Countersigned by vote keys of the charter's holders."""

    format: Literal["tapestry.entitlement"] = "tapestry.entitlement"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    root_key: PublicKey
    """By which the member is known, whatever becomes of its name."""
    release: Name
    decision: Sha256
    """The proposal that accepted the release."""
    decided: Annotated[int, Field(ge=1, le=1 << 53)]
    """Position of that decision in the ledger."""
    at: Time
    base: Base
    rights: Annotated[tuple[Right, ...], Field(min_length=1, max_length=4)]
    charter: Sha256
    """Under which the release was voted on."""
    revision: Annotated[int, Field(ge=1, le=1 << 20)]
    asked: Asked
    given: Given


class Countersignature(Part):
    """Over the DSSE encoding of the certificate."""

    member: Name
    public_key: PublicKey
    sig: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{85}[AQgw]==$")]
    """Base64 in its one form."""


class Proven(Part):
    """An entry of the ledger, as its canonical JSON, and the way from it to the head's root."""

    entry: str
    proof: Annotated[tuple[Sha256, ...], Field(max_length=MAX_PROOF)]


class Paper(Message):
    """The file: a certificate, its countersignatures, and what proves what it names."""

    format: Literal["tapestry.entitlement-paper"] = "tapestry.entitlement-paper"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 16 << 20
    certificate: Entitlement
    signatures: Annotated[tuple[Countersignature, ...], Field(max_length=256)]
    """By member."""
    checkpoint: Annotated[str, StringConstraints(max_length=MAX_NOTE)]
    """A head of the ledger that the core has signed, with what else stands under it."""
    entries: Annotated[tuple[Proven, ...], Field(min_length=1, max_length=256)]
    """In the ledger's order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a member has a right, and why not."""

    granted: bool
    why: str


Standing = Literal["member", "left", "joined-later"]
"""When the vote on a release was opened: a member, suspended or not; one that had left; or not one yet."""


def standing(tally: Tally, member: str, *, admitted: int, opened: int) -> Standing:
    """By the count of the vote and the positions of two entries."""
    if admitted > opened:
        return "joined-later"
    here = {each.member for each in tally.electors} | {each.member for each in tally.left_out}
    return "member" if member in here else "left"


def rule(charter: Charter, given: Given, stands: Standing) -> Verdict:
    """The charter's rule. `given`: up to the merge that gave the base."""
    rules = charter.entitlements
    if stands == "joined-later":
        return Verdict(granted=False, why="it joined after the vote on the release was opened")
    if stands == "left" and not rules.leavers_keep:
        return Verdict(
            granted=False,
            why="it was no member any more, and by entitlements.leavers_keep who leaves keeps nothing",
        )
    if entitled(charter, rounds=given.rounds, weight=given.share):
        return Verdict(granted=True, why="")
    asked = []
    if given.rounds < rules.rounds:
        asked.append(f"{given.rounds} of {rules.rounds} rounds")
    if given.share < share(rules.weight):
        asked.append(f"{text_of(given.share)} of the weight where {rules.weight} is needed")
    return Verdict(granted=False, why=f"it gave {' and '.join(asked)} (entitlements.needs = {rules.needs})")


@dataclass(slots=True)
class _Open:
    handed: dict[str, tuple[int, int]] = field(default_factory=dict)
    merged: list[Mapping[str, Any]] = field(default_factory=list)


class Merged:
    """What members gave to every merge; a fold over the ledger's entries, in order. Of each part of a merge
    it keeps 40 bytes, so that any base can be asked about later."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], _Open] = {}
        self._parts: dict[str, array[int]] = {}
        """By run: merges, member, weight, tokens and steps of each part, one after the other."""
        self._merges: dict[str, list[int]] = {}
        self._members: dict[str, int] = {}

    def take(self, entry: Entry) -> None:
        kind, body = entry.type, entry.body
        if kind not in _OF_MERGES or entry.scope == CONSORTIUM:
            return
        key = (entry.scope, body["round"])
        if kind == "round-opened":
            self._open[key] = _Open()
        elif kind == "round-closed":
            self._open[key].merged = body["merged"]
        elif kind == "round-abandoned":
            del self._open[key]
        elif kind == "round-committed":
            self._committed(entry.scope, body["merges"], self._open.pop(key))
        else:
            self._open[key].handed[body["contribution"]] = body["tokens"], body["steps"]

    def _committed(self, run: str, merges: int, at: _Open) -> None:
        self._merges.setdefault(run, []).append(merges)
        parts = self._parts.setdefault(run, array("q"))
        for each in at.merged:
            member = self._members.setdefault(each["member"], len(self._members))
            parts.extend((merges, member, each["weight"], *at.handed[each["contribution"]]))

    def upto(self, runs: Mapping[str, int]) -> Counted:
        """What led to a base. `runs`: each with the number of merges up to which it counts, see `lineage`."""
        sums: dict[int, list[int]] = {}
        last: dict[int, tuple[str, int]] = {}
        for run, most in runs.items():
            parts = self._parts.get(run, array("q"))
            for at in range(0, len(parts), _WORDS):
                merges, member, weight, tokens, steps = parts[at : at + _WORDS]
                if merges > most:
                    break
                mine = sums.setdefault(member, [0, 0, 0, 0])
                mine[0] += last.get(member) != (run, merges)
                last[member] = run, merges
                for place, more in enumerate((weight, tokens, steps), start=1):
                    mine[place] += more
        names = {number: name for name, number in self._members.items()}
        total = sum(sum(each <= most for each in self._merges.get(run, ())) for run, most in runs.items())
        return Counted({names[number]: tuple(each) for number, each in sums.items()}, total)


_WORDS: Final = 5
_OF_MERGES: Final = frozenset(
    (
        "round-opened",
        "contribution-received",
        "contribution-committed",
        "round-closed",
        "round-abandoned",
        "round-committed",
    )
)


@dataclass(frozen=True)
class Counted:
    """What was given to a base: by member rounds, weight, tokens and steps; and how many merges led to it."""

    sums: Mapping[str, tuple[int, ...]]
    merges: int

    def given(self, member: str) -> Given:
        rounds, weight, tokens, steps = self.sums.get(member, (0, 0, 0, 0))
        return Given(rounds=rounds, weight=weight, of_merges=self.merges, tokens=tokens, steps=steps)


def lineage(run: str, merges: int, origins: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """The runs that led to a state, each with its last merge that did.

    Args:
        run, merges: of the state.
        origins: of runs that repeat another from the middle: which, and after how many merges.
    """
    found = {run: merges}
    while run in origins and origins[run][0] not in found:  # no end in a ledger that nobody has verified
        run, before = origins[run]
        merges = found[run] = min(merges, before)
    return found
