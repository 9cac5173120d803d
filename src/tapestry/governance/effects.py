"""What a decision does, and what it forbids: the only place where a vote changes anything."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from tapestry.errors import KeyRefused, PlanError, Refused
from tapestry.governance.charter import plan_faults
from tapestry.governance.proposal import (
    AcceptRelease,
    Admit,
    AppointOperator,
    ChangeCharter,
    Expel,
    HearAppeal,
    OpenPhase,
    RatifyPlan,
    ReplaceRootKey,
    RevisePlan,
    RevokeRelease,
    Subject,
    Suspend,
    about,
)
from tapestry.governance.state import Assembly, Governance, Item, Ratified, Released, Suspended
from tapestry.governance.thresholds import phase_of_run, reckon, still_held, still_open, why_not_open
from tapestry.governance.words import seconds
from tapestry.identity.keyring import KeyRing
from tapestry.protocol.clock import add_seconds
from tapestry.protocol.plan import Plan
from tapestry.rounds.inputs import Attest, Contribute, Enrol, Input, Publish, Reveal, Revise, Start
from tapestry.rounds.state import RunState


def hindrance(
    assembly: Assembly, subject: Subject, at: str, *, opening: bool = False, yes: Fraction | None = None
) -> str | None:
    """Why a decision would have nothing to do as things stand; None where it has.

    Asked when a proposal is opened, and again when it has passed: others may have passed meanwhile.

    Args:
        yes: share of all votes that said yes, when it has passed.
    """
    governance, active = assembly.governance, assembly.ring.active
    party = about(subject)
    if party is not None and not isinstance(subject, Admit | HearAppeal) and party not in active:
        return f"{party} is no member"
    match subject:
        case Admit():
            if subject.member in assembly.ring.members:
                return f"{subject.member} is or was a member"
            return f"{subject.member} is admitted" if subject.member in governance.admitted else None
        case Suspend():
            found = governance.suspension(subject.member, at)
            return f"{subject.member} is suspended until {found.until}" if found is not None else None
        case RatifyPlan():
            return "the plan is ratified" if subject.plan in governance.plans else None
        case RevisePlan():
            return "the plan is ratified" if subject.plan.digest in governance.plans else None
        case OpenPhase():
            return why_not_open(assembly, subject.phase, at, opening=opening, yes=yes)
        case ChangeCharter():
            held = governance.charter
            follows = held is not None and subject.charter.revision == held.revision + 1
            return None if follows else "its revision is not one more than that of the charter in force"
        case AcceptRelease():
            return f"there is a release {subject.release}" if subject.release in governance.releases else None
        case RevokeRelease():
            release = governance.releases.get(subject.release)
            gone = release is None or release.revoked is not None
            return f"there is no release {subject.release} in force" if gone else None
        case AppointOperator():
            return f"{subject.member} is it" if governance.operator == subject.member else None
        case ReplaceRootKey():
            try:
                assembly.ring.refuse_used(subject.root_key)
            except KeyRefused as e:
                return e.message
            return None
        case HearAppeal():
            return _no_appeal(governance, subject, at, opening)
        case Expel():
            return None


def _no_appeal(governance: Governance, subject: HearAppeal, at: str, opening: bool) -> str | None:
    held = governance.suspension(subject.member, at)
    suspended = held is not None and held.decision == subject.decision
    if not suspended and governance.expelled.get(subject.member) != subject.decision:
        return f"{subject.member} is neither suspended nor expelled by {subject.decision[:12]}"
    decided = governance.proposals[subject.decision].outcome
    charter = governance.charter
    if not opening or decided is None or charter is None:
        return None
    until = add_seconds(decided.at, seconds(charter.deadlines.appeal))
    return f"an appeal against it was possible until {until}" if at > until else None


def applied(assembly: Assembly, item: Item, *, at: str, sequence: int) -> Assembly:
    """What members and rules are after a decision that passed and has something to do.

    Args:
        at, sequence: of the entry that records it.
    """
    governance, ring = assembly.governance, assembly.ring
    subject, decision = item.subject, item.proposal

    def put(table: str, key: str, value: Any) -> dict[str, Any]:
        return {table: {**getattr(governance, table), key: value}}

    changed: dict[str, Any]
    match subject:
        case Admit():
            changed = put("admitted", subject.member, decision)
        case Suspend():
            charter = governance.charters[item.charter]
            until = add_seconds(at, seconds(charter.deadlines.suspension))
            changed = put("suspended", subject.member, Suspended(decision=decision, until=until))
        case Expel():
            changed = put("expelled", subject.member, decision)
            changed["suspended"] = _without(governance.suspended, subject.member)
            ring = _keys_end(ring, subject.member, sequence, expelled=sequence)
        case RatifyPlan():
            changed = put("plans", subject.plan, Ratified(decision=decision, run=subject.run))
        case RevisePlan():
            plan = subject.plan
            changed = put("plans", plan.digest, Ratified(decision=decision, run=plan.run))
        case OpenPhase():
            changed = put("phases", subject.phase, decision)
        case ChangeCharter():
            changed = put("charters", subject.charter.digest, subject.charter)
            changed |= {"charter": subject.charter, "phases": still_open(governance, subject.charter)}
            since = governance.counted_from if governance.counted_from is not None else sequence
            by_contribution = subject.charter.voting.weights == "contribution"
            changed["counted_from"] = since if by_contribution else None
            changed["pledges"] = still_held(governance, subject.charter)
        case AcceptRelease():
            changed = put("releases", subject.release, Released(decision=decision, state=subject.state))
        case RevokeRelease():
            gone = governance.releases[subject.release].model_copy(update={"revoked": decision})
            changed = put("releases", subject.release, gone)
        case AppointOperator():
            changed = {"operator": subject.member}
        case ReplaceRootKey():
            old = ring.members[subject.member]
            new = {"root_key": subject.root_key, "former": (*old.former, old.root_key)}
            ring, changed = _keys_end(ring, subject.member, sequence, **new), {}
        case HearAppeal():
            changed = {
                "suspended": _without(governance.suspended, subject.member),
                "expelled": _without(governance.expelled, subject.member),
            }
            back = ring.members[subject.member].model_copy(update={"expelled": None})
            ring = ring.model_copy(update={"members": {**ring.members, subject.member: back}})
    return replace(assembly, ring=ring, governance=governance.model_copy(update=changed))


def permit(assembly: Assembly, state: RunState, given: Input, at: str) -> None:
    """Raise what the members' decisions have against an input to a run; nothing where there is no charter.

    Raises:
        Refused: the run's phase is not open, the plan is not ratified, or the member is suspended; what is
            missing, or the decision, is named.
        PlanError: the plan goes beyond the charter.
    """
    governance = assembly.governance
    if governance.charter is None:
        return
    match given:
        case Start() if state.status == "planned":
            _phase_open(assembly, state.run, at)
            _ratified(governance, state.next_plan or state.plan)
        case Revise():
            if given.plan != (state.next_plan or state.plan):
                _ratified(governance, given.plan)
        case Enrol() | Contribute() | Attest() | Publish():
            _not_suspended(governance, given.member, at)
        case Reveal():
            _not_suspended(governance, state.enrolled.get(given.node, ""), at)


def _phase_open(assembly: Assembly, run: str, at: str) -> None:
    name = phase_of_run(assembly.governance, run)
    if name is None or name in assembly.governance.phases:
        return
    missing = reckon(assembly, name, at).missing
    lacks = f"it lacks {'; '.join(missing)}" if missing else "its thresholds are met, and it takes a vote"
    raise Refused(
        f"run {run} belongs to phase {name}, which is not open: {lacks}",
        hint=f"see: tapestry phase status {name}; then: tapestry proposal new open-phase --phase {name}",
    )


def _ratified(governance: Governance, plan: Plan) -> None:
    way = f"ratify-plan --run {plan.run}" if plan.revision == 1 else "revise-plan --plan PLAN.toml"
    found = governance.plans.get(plan.digest)
    if found is None or found.run != plan.run:
        raise Refused(
            f"no decision of the members is for plan {plan.digest[:12]} of run {plan.run}",
            hint=f"put it to the vote: tapestry proposal new {way}",
        )
    charter = governance.charter
    merge = plan.merge
    faults = (
        plan_faults(charter, weighting=merge.weighting, influence_cap=merge.influence_cap)
        if charter is not None
        else []
    )
    if faults:
        raise PlanError(
            f"the plan of run {plan.run} goes beyond the charter: {faults[0]}",
            hint="change the plan, or the charter by a vote",
        )


def _not_suspended(governance: Governance, member: str, at: str) -> None:
    found = governance.suspension(member, at)
    if found is not None:
        raise Refused(
            f"member {member} is suspended until {found.until} by decision {found.decision[:12]}",
            hint="it takes no part until then, or until an appeal: tapestry proposal new hear-appeal",
        )


def _without(table: dict[str, Any], member: str) -> dict[str, Any]:
    return {name: each for name, each in table.items() if name != member}


def _keys_end(ring: KeyRing, member: str, sequence: int, **fields: Any) -> KeyRing:
    """All keys of a member are revoked from here on, and `fields` of it are others."""
    keys = {
        name: key.model_copy(update={"revoked": sequence})
        if key.certificate.member == member and key.revoked is None
        else key
        for name, key in ring.keys.items()
    }
    members = {**ring.members, member: ring.members[member].model_copy(update=fields)}
    return ring.model_copy(update={"members": members, "keys": keys})
