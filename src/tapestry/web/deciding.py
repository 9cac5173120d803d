"""Proposals, votes and pledges as pages show them: what the ledger decides, and what members have signed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeVar

from tapestry.errors import TapestryError
from tapestry.governance.disputes import Dispute
from tapestry.governance.pledge import Pledge, Pledged
from tapestry.governance.proposal import Ballot, Proposal, about, kind_of
from tapestry.governance.resources import amount
from tapestry.governance.state import Assembly, Item
from tapestry.governance.tally import Reached, Tally, tally
from tapestry.governance.thresholds import Reckoning, may_confirm, reckon
from tapestry.governance.words import bound
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import Entry
from tapestry.protocol.message import Message
from tapestry.web.book import Book
from tapestry.web.index import Index, Search

M = TypeVar("M", bound=Message)
MAX_REFUSED: Final = 50


@dataclass(frozen=True)
class Bar:
    """A share with the mark that it must reach.

    Args:
        share, mark: from 0 to 1.
        met: whether it has; a mark of `more than` is not met at the mark.
    """

    share: float
    mark: float | None
    met: bool
    strict: bool = False


@dataclass(frozen=True)
class Cast:
    """A ballot; `counts` where it is the member's last in time."""

    member: str
    choice: str
    at: str
    sequence: int
    reason: str
    counts: bool


@dataclass(frozen=True)
class Shown:
    """A proposal.

    Args:
        tally: of a decided one as the ledger has it, else so far; None where the ledger was not read.
        text: why, in the proposer's words.
        subject: what would change, as names and values.
    """

    item: Item
    kind: str
    about: str | None
    tally: Tally | None
    text: str = ""
    subject: tuple[tuple[str, str], ...] = ()
    ballots: tuple[Cast, ...] = ()

    @property
    def name(self) -> str:
        return self.item.proposal

    @property
    def open(self) -> bool:
        return self.item.outcome is None

    @property
    def voted(self) -> int:
        return len({each.member for each in self.item.ballots})

    def choice_of(self, member: str | None) -> str | None:
        cast = self.item.last(member) if member else None
        return cast.choice if cast is not None else None

    def may_vote(self, member: str | None) -> bool:
        return self.open and self.tally is not None and member in {e.member for e in self.tally.electors}

    @property
    def quorum(self) -> Bar | None:
        return None if self.tally is None else _bar(self.tally.quorum)

    @property
    def approval(self) -> Bar | None:
        return None if self.tally is None else _bar(self.tally.approval)


def listed(assembly: Assembly, book: Book | None) -> list[Shown]:
    """All proposals, newest first, without what was written."""
    items = reversed(assembly.governance.proposals.values())
    return [
        Shown(each, kind_of(each.subject), about(each.subject), count(assembly, each, book)) for each in items
    ]


def shown(assembly: Assembly, item: Item, book: Book | None) -> Shown:
    """One proposal with everything that was signed, as far as the ledger is here."""
    said = _signed(book, item.sequence, Proposal)
    casts = []
    for each in item.ballots:
        ballot = _signed(book, each.sequence, Ballot)
        last = item.last(each.member)
        casts.append(
            Cast(
                each.member,
                each.choice,
                each.at,
                each.sequence,
                ballot.reason if ballot is not None else "",
                last is not None and last.sequence == each.sequence,
            )
        )
    return Shown(
        item,
        kind_of(item.subject),
        about(item.subject),
        count(assembly, item, book),
        text=said.text if said is not None else "",
        subject=_plain(item),
        ballots=tuple(casts),
    )


def count(assembly: Assembly, item: Item, book: Book | None) -> Tally | None:
    """Of a decided proposal as it was recorded; of an open one so far."""
    if item.outcome is not None:
        if book is None or item.outcome.sequence > book.size:
            return None
        return Tally.from_bytes(str(_body(book, item.outcome.sequence)["tally"]).encode())
    charter = assembly.governance.charters.get(item.charter)
    if charter is None:
        return None
    return tally(charter, item.question, item.standings(charter), item.counted())


@dataclass(frozen=True)
class Need:
    """What a phase needs of one resource, as bars."""

    resource: str
    needed: str
    pledged: str
    confirmed: str
    pledged_bar: Bar
    confirmed_bar: Bar
    by: tuple[tuple[str, str, str], ...]
    """Member, pledged, confirmed."""


@dataclass(frozen=True)
class PhaseShown:
    reckoning: Reckoning
    needs: tuple[Need, ...]
    members: Bar


def phases(assembly: Assembly, at: str) -> list[PhaseShown]:
    """Of the charter in force."""
    charter = assembly.governance.charter
    names = sorted((charter.phases or {}) if charter is not None else ())
    return [_phase(reckon(assembly, name, at)) for name in names]


@dataclass(frozen=True)
class ToConfirm:
    """A pledge that nobody has said yet to be real."""

    pledge: Pledged
    text: str


def to_confirm(assembly: Assembly, member: str, at: str, book: Book | None) -> list[ToConfirm]:
    """Pledges of others that wait for this member's word; none where its word would not count."""
    governance = assembly.governance
    if governance.charter is None or not may_confirm(governance.charter, governance, member, at):
        return []
    found = []
    for each in governance.pledges.values():
        if each.member != member and all(word.member != member for word in each.words):
            said = _signed(book, each.sequence, Pledge)
            found.append(ToConfirm(each, said.text if said is not None else ""))
    return found


# -- pieces -------------------------------------------------------------------------------------------


def _bar(reached: Reached) -> Bar:
    needed, have = bound(reached.needed), Fraction(reached.reached)
    return Bar(float(have), float(needed.share), needed.reached(have), needed.strict)


def _phase(found: Reckoning) -> PhaseShown:
    needs = []
    for resource, text in sorted(found.phase.needs.items()):
        needed = amount(text)
        pledged, confirmed = found.total(resource, "pledged"), found.total(resource, "confirmed")
        rows = [row for row in found.rows if row.resource == resource]
        needs.append(
            Need(
                resource,
                str(needed),
                str(pledged),
                str(confirmed),
                _part(pledged.base, needed.base),
                _part(confirmed.base, needed.base),
                tuple((row.member, str(row.pledged), str(row.confirmed)) for row in rows),
            )
        )
    return PhaseShown(found, tuple(needs), _part(found.members, found.phase.members))


def _part(have: int, needed: int) -> Bar:
    """The whole of a bar is a quarter more than what is needed, so that more than enough is seen."""
    full = max(1, needed) * 1.25
    return Bar(min(1.0, have / full), max(1, needed) / full, have >= needed)


def _signed(book: Book | None, sequence: int, kind: type[M]) -> M | None:
    """What a member has signed with an entry, which was verified before it came into the book."""
    if book is None or sequence > book.size:
        return None
    try:
        return Envelope.from_bytes(str(_body(book, sequence)["envelope"]).encode()).unverified(kind)
    except (KeyError, TapestryError):
        return None


def _body(book: Book, sequence: int) -> dict[str, object]:
    return book.read(sequence, 1)[0].entry.body


def _plain(item: Item) -> tuple[tuple[str, str], ...]:
    """A subject's fields; of a plan or a charter its digest."""
    found = []
    for name in type(item.subject).model_fields:
        value = getattr(item.subject, name)
        if name != "kind":
            found.append((name, value if isinstance(value, str) else str(value.digest)))
    return tuple(found)


@dataclass(frozen=True)
class DisputeShown:
    """What a member says to be wrong in the account."""

    said: Dispute
    sequence: int
    at: str


def disputes(assembly: Assembly, book: Book | None, index: Index) -> list[DisputeShown]:
    """All there are, newest first."""
    found = []
    for sequence in reversed(index.found(Search(kind="account-disputed"))):
        said = _signed(book, sequence, Dispute)
        if said is not None and book is not None:
            found.append(DisputeShown(said, sequence, book.read(sequence, 1)[0].entry.at))
    return found


def refused(book: Book | None, index: Index) -> list[Entry]:
    """The last updates that were refused, newest first."""
    if book is None:
        return []
    numbers = index.found(Search(kind="contribution-refused"))[-MAX_REFUSED:]
    return [book.read(each, 1)[0].entry for each in reversed(numbers)]
