"""How members pledge, and confirm what others have pledged: steps of the same kind as those of `machine`."""

from __future__ import annotations

from dataclasses import replace

from tapestry.errors import Conflict, NotFound, Refused
from tapestry.governance.charter import Charter
from tapestry.governance.machine import Moment, Step, _here, _refuse_suspended, _text, in_force
from tapestry.governance.phases import CONFIRMERS, Phase
from tapestry.governance.pledge import MAX_HELD, MAX_WORDS, Confirmation, Confirmed, Pledge, Pledged, key_of
from tapestry.governance.proposal import VOTE_ONLY
from tapestry.governance.resources import amount, example, fits
from tapestry.governance.state import Assembly, Governance
from tapestry.governance.thresholds import may_confirm
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import PledgeConfirmed, PledgeMade


def pledge(assembly: Assembly, envelope: Envelope, moment: Moment) -> Step:
    """Take a pledge, in the place of the member's earlier one for the same thing; the newest again has no
    effect.

    Raises:
        NotFound: there is no charter, or it has no such phase.
        Refused: the phase does not need it, the unit is not one of it, or the member is suspended.
        Conflict: it was written under another charter, or is not the member's next one.
        AuthError, FormatError: as of `KeyRing.verify`.
    """
    governance = assembly.governance
    charter = in_force(governance)
    said, _ = assembly.ring.verify(envelope, Pledge, at=moment.at, roles=VOTE_ONLY)
    _here(said.consortium, moment, "the pledge")
    last = governance.pledges.get(key_of(said))
    if last is not None and last.pledge == said.digest:
        return Step(assembly=assembly, event=None)
    if said.charter != charter.digest:
        raise Conflict(
            f"the pledge was written under charter {said.charter[:12]}; {charter.digest[:12]} is in force",
            hint="look what the phase needs by now, and pledge anew: tapestry phase status",
        )
    _refuse_suspended(governance, said.member, moment.at, "may not pledge")
    refuse_unfit(phase_of(charter, said.phase), said)
    expected = 1 if last is None else last.number + 1
    if said.number != expected:
        raise Conflict(
            f"pledge {said.number} of member {said.member} for {said.resource} was made before or comes too "
            f"early; its next one is number {expected}",
            hint="to change what you pledge, make a new one: tapestry pledge new",
        )
    if last is None and sum(each.member == said.member for each in governance.pledges.values()) >= MAX_HELD:
        raise Conflict(
            f"member {said.member} has {MAX_HELD} pledges, which is the most",
            hint="change one of them (tapestry pledge list); those taken back end when the charter changes",
        )
    taken = Pledged(
        pledge=said.digest,
        member=said.member,
        phase=said.phase,
        resource=said.resource,
        amount=said.amount,
        dataset=said.dataset,
        number=said.number,
        at=moment.at,
        sequence=moment.sequence,
    )
    event = PledgeMade(member=said.member, pledge=said.digest, envelope=_text(envelope))
    return Step(assembly=_with(assembly, taken), event=event)


def phase_of(charter: Charter, name: str) -> Phase:
    """Raises `NotFound`."""
    phases = charter.phases or {}
    if name not in phases:
        there = ", ".join(sorted(phases)) or "none"
        raise NotFound(
            f"the charter has no phase {name} (it has: {there})",
            hint="phases stand in the charter; it is changed by a vote: tapestry proposal new change-charter",
        )
    return phases[name]


def refuse_unfit(phase: Phase, said: Pledge) -> None:
    """Raise `Refused` for what the phase does not need, and for an amount that cannot be held against its
    need."""
    need = phase.needs.get(said.resource)
    if need is None:
        raise Refused(
            f"phase {said.phase} needs no {said.resource}",
            hint=f"it needs {', '.join(sorted(phase.needs))}; the charter says so",
        )
    try:
        given = amount(said.amount)
    except ValueError as e:
        raise Refused(f"a pledge of {said.resource}: {e}", hint=example(said.resource)) from e
    if not fits(said.resource, given) or given.of != amount(need).of:
        raise Refused(
            f"phase {said.phase} needs {need} of {said.resource}; {said.amount} cannot be held against it",
            hint=f"pledge it in the unit of the charter, such as {need}",
        )
    if said.amount != str(given):
        raise Refused(
            f"a pledge of {said.resource}: {said.amount!r} is not in its one form",
            hint=f'write "{given}"',
        )
    if (said.dataset is not None) != said.resource.startswith("data."):
        raise Refused(
            f"a pledge of {said.resource} names {'no' if said.dataset is None else 'a'} dataset",
            hint="data is pledged by the dataset's name in the catalog (--dataset), and nothing else is",
        )


def confirm(assembly: Assembly, envelope: Envelope, moment: Moment) -> Step:
    """Take a member's word about another's pledge; its newest again has no effect.

    Raises:
        NotFound: there is no such pledge, or a newer one took its place.
        Refused: the member may not confirm, or not this one.
        Conflict: it is not the member's next word about it.
        AuthError, FormatError: as of `KeyRing.verify`.
    """
    governance = assembly.governance
    charter = in_force(governance)
    said, _ = assembly.ring.verify(envelope, Confirmation, at=moment.at, roles=VOTE_ONLY)
    _here(said.consortium, moment, "the confirmation")
    held = held_as(governance, said.pledge)
    last, digest = held.word(said.member), said.digest
    if last is not None and last.confirmation == digest:
        return Step(assembly=assembly, event=None)
    _refuse_confirmer(charter, governance, said.member, held, moment.at)
    if last is None and _words_of(governance, said.member) >= MAX_WORDS:
        raise Refused(
            f"member {said.member} has a word about {MAX_WORDS} pledges in force, which is the most",
            hint="let another steward or auditor confirm this one",
        )
    expected = 1 if last is None else last.number + 1
    if said.number != expected:
        raise Conflict(
            f"word {said.number} of member {said.member} about pledge {held.pledge[:12]} was given before or "
            f"comes too early; its next one is number {expected}",
            hint="confirm it anew: tapestry pledge confirm",
        )
    word = Confirmed(
        member=said.member,
        stands=said.stands,
        number=said.number,
        confirmation=digest,
        at=moment.at,
        sequence=moment.sequence,
    )
    words = {each.member: each for each in held.words} | {said.member: word}
    changed = held.model_copy(update={"words": tuple(each for _, each in sorted(words.items()))})
    event = PledgeConfirmed(member=said.member, pledge=held.pledge, envelope=_text(envelope))
    return Step(assembly=_with(assembly, changed), event=event)


def _words_of(governance: Governance, member: str) -> int:
    return sum(held.word(member) is not None for held in governance.pledges.values())


def held_as(governance: Governance, pledge: str) -> Pledged:
    """A pledge in force by its digest. Raises `NotFound`."""
    found = next((each for each in governance.pledges.values() if each.pledge == pledge), None)
    if found is None:
        raise NotFound(
            f"there is no pledge {pledge[:12]}, or a newer one took its place",
            hint="see: tapestry pledge list",
        )
    return found


def _refuse_confirmer(charter: Charter, governance: Governance, member: str, held: Pledged, at: str) -> None:
    if member == held.member:
        raise Refused(
            f"member {member} may not confirm its own pledge {held.pledge[:12]}",
            hint=f"ask another member that is {' or '.join(CONFIRMERS)}",
        )
    _refuse_suspended(governance, member, at, "may not confirm a pledge")
    if not may_confirm(charter, governance, member, at):
        raise Refused(
            f"member {member} may not confirm pledges: that is for who is {' or '.join(CONFIRMERS)}",
            hint="the charter says who is: tapestry charter explain",
        )


def _with(assembly: Assembly, changed: Pledged) -> Assembly:
    governance = assembly.governance
    pledges = {**governance.pledges, changed.key: changed}
    return replace(assembly, governance=governance.model_copy(update={"pledges": pledges}))
