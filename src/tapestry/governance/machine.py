"""How members decide, as a pure state machine: what was signed goes in, the assembly afterwards and the event
that records it come out.

    adopt, propose, vote: (assembly, envelopes, moment) -> Step(assembly, event)
    settle: (assembly, moment) -> Step or None

Nothing here has a clock: `moment.at` is the core's. The core runs it to act, a verifier to repeat; so what it
refuses stands in no ledger that holds. Whatever is overdue is decided before anything else is recorded
(`Governance.overdue`): no ballot comes late, and nobody acts on a decision that is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from tapestry.errors import Conflict, FormatError, NotFound, Refused, SignatureError, StoreError
from tapestry.governance import capture
from tapestry.governance.charter import Charter
from tapestry.governance.effects import applied, hindrance
from tapestry.governance.electorate import Standing, barred, may_propose
from tapestry.governance.proposal import (
    VOTE_ONLY,
    Ballot,
    ChangeCharter,
    CharterSignature,
    Proposal,
    about,
    kind_of,
)
from tapestry.governance.signers import signers
from tapestry.governance.state import Assembly, Cast, Governance, Item, Outcome, standing
from tapestry.governance.tally import tally
from tapestry.governance.words import seconds
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import BallotCast, CharterAdopted, Governed, ProposalDecided, ProposalOpened
from tapestry.protocol.clock import add_seconds

MAX_OPEN: Final = 16
"""Proposals that one member may have open at once."""


Contributed = Callable[[str, int, int], Mapping[str, int]]
"""What members have contributed: from a charter's measure, a number of merges, and the position of the entry
behind which merges count, to an amount by member. Who is not in it has contributed nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """Where and when something happens.

    Args:
        consortium: its id.
        at: by the core's clock.
        sequence: position of the entry that records it.
        contributed: tells what members have contributed; asked where votes go by contribution.
    """

    consortium: str
    at: str
    sequence: int
    contributed: Contributed | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What was put in led to this. No event: it was so before."""

    assembly: Assembly
    event: Governed | None


def adopt(assembly: Assembly, charter: Charter, envelopes: Sequence[Envelope], moment: Moment) -> Step:
    """Give a consortium its first charter.

    Args:
        charter: names all members there are, and nobody else.
        envelopes: a `CharterSignature` of each of them.

    Raises:
        CharterError: it gives one member control, or cannot be counted here.
        Conflict: there is another charter, or members are others.
        Refused: a member has not signed, or for something else.
        AuthError, FormatError: as of `KeyRing.verify`.
    """
    held = assembly.governance.charter
    if held is not None:
        if held == charter:
            return Step(assembly=assembly, event=None)
        raise Conflict(
            f"charter {held.digest[:12]} is in force",
            hint="it is changed by a vote: tapestry proposal new change-charter",
        )
    check_charter(charter)
    here, named = set(assembly.members()), set(charter.members)
    if here != named:
        odd = sorted(here ^ named)[0]
        what = "has not joined" if odd in named else "is a member that it does not name"
        raise Conflict(
            f"the charter's members are not the consortium's: {odd} {what}",
            hint="the first charter names everybody who has joined, and nobody else",
        )
    signed: dict[str, Envelope] = {}
    for envelope in envelopes:
        said, signer = assembly.ring.verify(envelope, CharterSignature, at=moment.at, roles=VOTE_ONLY)
        if (said.consortium, said.charter) != (moment.consortium, charter.digest):
            raise Refused(
                f"member {signer.member} has signed another charter, or for another consortium",
                hint=f"have it sign this one, {charter.digest[:12]}: tapestry charter sign",
            )
        signed[signer.member] = envelope
    if missing := sorted(named - signed.keys()):
        raise Refused(
            f"{missing[0]} has not signed the charter ({len(signed)} of {len(named)} have)",
            hint="every member signs the first charter: tapestry charter sign",
        )
    texts = tuple(_text(signed[name]) for name in sorted(signed))
    event = CharterAdopted(charter=charter.to_bytes().decode(), envelopes=texts)
    since = moment.sequence if charter.voting.weights == "contribution" else None
    governance = Governance(charter=charter, charters={charter.digest: charter}, counted_from=since)
    return Step(assembly=replace(assembly, governance=governance), event=event)


def check_charter(charter: Charter) -> None:
    """Raise `CharterError` for one that no consortium can have."""
    capture.accept(charter)


def propose(assembly: Assembly, envelope: Envelope, moment: Moment) -> Step:
    """Put a question to the vote; the same proposal again has no effect.

    Raises:
        Refused: the member may not, or it is for another consortium.
        Conflict: it was written under another charter, has nothing to decide, or too many are open.
        AuthError, FormatError: as of `KeyRing.verify`.
    """
    governance = assembly.governance
    charter = in_force(governance)
    said, _ = assembly.ring.verify(envelope, Proposal, at=moment.at, roles=VOTE_ONLY)
    digest = said.digest
    if digest in governance.proposals:
        return Step(assembly=assembly, event=None)
    _here(said.consortium, moment, "the proposal")
    if said.charter != charter.digest:
        raise Conflict(
            f"the proposal was written under charter {said.charter[:12]}; {charter.digest[:12]} is in force",
            hint="look whether it still fits, and propose it anew",
        )
    kind = kind_of(said.subject)
    own = standing(charter, said.member, governance.suspension(said.member, moment.at) is not None)
    if not may_propose(charter, kind, own):
        _refuse_suspended(governance, said.member, moment.at, f"may not propose to {kind}")
        raise Refused(
            f"member {said.member} may not propose to {kind}: the charter gives that to "
            f"{', '.join(charter.decisions[kind].proposers)}",
            hint="ask a member with such a role to propose it",
        )
    if sum(each.member == said.member for each in governance.open) >= MAX_OPEN:
        raise Conflict(f"member {said.member} has {MAX_OPEN} proposals open", hint="wait for their deadlines")
    if isinstance(said.subject, ChangeCharter):
        check_charter(said.subject.charter)
    if (why := hindrance(assembly, said.subject, moment.at, opening=True)) is not None:
        raise Conflict(f"there is nothing to decide: {why}", hint="see: tapestry proposal list")
    members = assembly.members()
    closes = add_seconds(moment.at, seconds(charter.decisions[kind].voting))
    contributions = _contributions(governance, charter, members, moment)
    item = Item(
        proposal=digest,
        member=said.member,
        subject=said.subject,
        title=said.title,
        charter=charter.digest,
        opened=moment.at,
        closes=closes,
        sequence=moment.sequence,
        members=members,
        suspended=tuple(name for name in members if governance.suspension(name, moment.at) is not None),
        contributions=contributions,
    )
    event = ProposalOpened(
        member=said.member,
        proposal=digest,
        closes=closes,
        envelope=_text(envelope),
        contributions=contributions,
    )
    return Step(assembly=_with(assembly, item), event=event)


def vote(assembly: Assembly, envelope: Envelope, moment: Moment) -> Step:
    """Take a ballot; the one that a member cast last, again, has no effect.

    Raises:
        NotFound: there is no such proposal.
        Refused: it is late, the member has no vote, or it is for another consortium.
        Conflict: it is not the member's next one.
        AuthError, FormatError: as of `KeyRing.verify`.
    """
    said, _ = assembly.ring.verify(envelope, Ballot, at=moment.at, roles=VOTE_ONLY)
    _here(said.consortium, moment, "the ballot")
    item = assembly.governance.proposals.get(said.proposal)
    if item is None:
        raise NotFound(f"there is no proposal {said.proposal[:12]}", hint="see: tapestry proposal list")
    last, digest = item.last(said.member), said.digest
    if last is not None and last.ballot == digest:
        return Step(assembly=assembly, event=None)
    _refuse_late(item, moment.at)
    _refuse_barred(assembly.governance, item, said.member, moment.at)
    expected = 1 if last is None else last.number + 1
    if said.number != expected:
        raise Conflict(
            f"ballot {said.number} of member {said.member} on {item.proposal[:12]} was cast before or comes "
            f"too early; its next one is number {expected}",
            hint="to change a vote, cast a new ballot: tapestry vote",
        )
    cast = Cast(
        member=said.member,
        choice=said.choice,
        number=said.number,
        ballot=digest,
        at=moment.at,
        sequence=moment.sequence,
    )
    item = item.model_copy(update={"ballots": (*item.ballots, cast)})
    event = BallotCast(member=said.member, proposal=item.proposal, envelope=_text(envelope))
    return Step(assembly=_with(assembly, item), event=event)


def settle(assembly: Assembly, moment: Moment) -> Step | None:
    """Decide the proposal whose deadline passed first; None where none has. To be called until it is None."""
    item = assembly.governance.overdue(moment.at)
    if item is None:
        return None
    charter = assembly.governance.charters[item.charter]
    found = tally(charter, item.question, item.standings(charter), item.counted())
    does = found.passed and hindrance(assembly, item.subject, moment.at, yes=Fraction(found.yes)) is None
    if does:
        assembly = applied(assembly, item, at=moment.at, sequence=moment.sequence)
    outcome = Outcome(verdict=found.verdict, in_force=does, at=moment.at, sequence=moment.sequence)
    event = ProposalDecided(
        proposal=item.proposal,
        verdict=found.verdict,
        in_force=does,
        tally=found.to_bytes().decode(),
        signers=signers(assembly.ring, charter, item, moment.at) if does else None,
    )
    return Step(assembly=_with(assembly, item.model_copy(update={"outcome": outcome})), event=event)


def may_join(assembly: Assembly, member: str) -> None:
    """Raise `Refused` for who is no member and was not admitted by vote, in a consortium with a charter."""
    governance = assembly.governance
    charter = governance.charter
    if charter is None or member in assembly.ring.members:
        return
    if member not in charter.members and member not in governance.admitted:
        raise Refused(
            f"no decision of the members admits {member}",
            hint=f"propose it: tapestry proposal new admit --about {member}",
        )


def in_force(governance: Governance) -> Charter:
    """Raises `NotFound` where there is no charter."""
    if governance.charter is None:
        raise NotFound(
            "this consortium has no charter: its operator decides",
            hint="write one, have all members sign it, then: tapestry charter adopt",
        )
    return governance.charter


def _contributions(
    governance: Governance, charter: Charter, members: Sequence[str], moment: Moment
) -> dict[str, int] | None:
    """Of each member, where votes go by contribution."""
    if charter.voting.weights != "contribution" or governance.counted_from is None:
        return None
    if moment.contributed is None:
        raise StoreError("nobody has told what members contributed, and votes go by it")
    rules = charter.contribution
    found = moment.contributed(rules.measure, rules.window_rounds, governance.counted_from)
    return {name: found.get(name, 0) for name in members}


def _refuse_late(item: Item, at: str) -> None:
    if at < item.opened:
        raise Refused(
            f"the core's clock says {at}, which is before {item.proposal[:12]} was opened",
            hint="its operator must set it right; then vote again",
        )
    if item.outcome is not None or at > item.closes:
        raise Refused(
            f"voting on {item.proposal[:12]} ended at {item.closes} by the core's clock; it is {at}",
            hint="what was decided stands in: tapestry proposal show; a new vote needs a new proposal",
        )


def _refuse_barred(governance: Governance, item: Item, member: str, at: str) -> None:
    charter = governance.charters[item.charter]
    found = {each.member: each for each in item.standings(charter)}
    own: Standing | None = found.get(member)
    kind, party = kind_of(item.subject), about(item.subject)
    why = "joined after it was opened" if own is None else barred(charter, kind, party, own)
    if why is not None:
        raise Refused(
            f"member {member} has no vote on {item.proposal[:12]} ({why})",
            hint="the charter says who votes: tapestry proposal show",
        )
    _refuse_suspended(governance, member, at, "may not vote")


def _refuse_suspended(governance: Governance, member: str, at: str, what: str) -> None:
    found = governance.suspension(member, at)
    if found is not None:
        raise Refused(
            f"member {member} {what}: it is suspended until {found.until} by decision {found.decision[:12]}",
            hint="it can appeal: tapestry proposal new hear-appeal",
        )


def _here(consortium: str, moment: Moment, what: str) -> None:
    if consortium != moment.consortium:
        raise SignatureError(
            f"{what} was signed for consortium {consortium[:12]}, this one is {moment.consortium[:12]}",
            hint="sign it for this consortium",
        )


def _with(assembly: Assembly, item: Item) -> Assembly:
    """With a proposal as it is now; charters that nothing is counted by any more are let go."""
    governance = assembly.governance
    proposals = {**governance.proposals, item.proposal: item}
    charter = governance.charter
    needed = {each.charter for each in proposals.values() if each.outcome is None}
    charters = {digest: each for digest, each in governance.charters.items() if digest in needed}
    if charter is not None:
        charters[charter.digest] = charter
    changed = governance.model_copy(update={"proposals": proposals, "charters": charters})
    return replace(assembly, governance=changed)


def _text(envelope: Envelope) -> str:
    return envelope.to_bytes().decode("ascii")


def texts(envelopes: Iterable[str]) -> list[Envelope]:
    """Envelopes as entries hold them. Raises `FormatError`."""
    return [Envelope.from_bytes(each.encode()) for each in envelopes]


def charter_of(text: str) -> Charter:
    """A charter as an entry holds it. Raises `FormatError`."""
    if not text:
        raise FormatError("there is no charter")
    return Charter.from_bytes(text.encode())
