"""Rules of a charter that contradict each other or that nothing can meet: each with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from tapestry.governance.words import KINDS, Bound, Kind, bound, seconds, share, text_of

if TYPE_CHECKING:
    from tapestry.governance.charter import Charter, Rule

LEAST_VOTERS: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong with a charter.

    Args:
        where: the field, with dots: `decisions.expel.quorum`.
        rule: what is wrong, one sentence.
        way_out: what to write instead.
    """

    where: str
    rule: str
    way_out: str


def find(charter: Charter) -> Iterator[Fault]:
    """Every contradiction, the most basic first."""
    yield from _members(charter)
    yield from _weights(charter)
    for kind in KINDS:
        yield from _rule(charter, kind)
    yield from _ways_round(charter)
    yield from _entitlements(charter)
    yield from _data(charter)
    yield from _public(charter)
    yield from _release(charter)


def _members(charter: Charter) -> Iterator[Fault]:
    for name, member in sorted(charter.members.items()):
        if {"auditor", "core-operator"} <= set(member.roles):
            yield Fault(
                where=f"members.{name}.roles",
                rule=f"{name} both runs the core and audits it, so nobody would check the core",
                way_out="take one of the two roles from it",
            )
        if member.seats and not {"member", "steward"} & set(member.roles):
            yield Fault(
                where=f"members.{name}.seats",
                rule=f"{name} is {' and '.join(member.roles)} only, but has {member.seats} seat(s) to vote",
                way_out='write seats = 0, or add "member" or "steward" to its roles',
            )
        if member.seats > 1 and charter.voting.weights != "seats":
            yield Fault(
                where=f"members.{name}.seats",
                rule=f'{name} has {member.seats} seats, but voting.weights = "{charter.voting.weights}" '
                "does not count seats",
                way_out='write seats = 1, or voting.weights = "seats"',
            )
    count = len(charter.voters)
    if count < LEAST_VOTERS:
        yield Fault(
            where="members",
            rule=f"{count} member(s) can vote; below {LEAST_VOTERS} one decides alone, or each has a veto",
            way_out=f"give {LEAST_VOTERS} members at least a seat each",
        )


def _weights(charter: Charter) -> Iterator[Fault]:
    voting, voters = charter.voting, len(charter.voters)
    if share(voting.cap) * voters < 1:
        yield Fault(
            where="voting.cap",
            rule=f"a cap of {voting.cap} cannot be met by {voters} members with a vote: "
            f"{voters} times {voting.cap} is {text_of(share(voting.cap) * voters)}, less than all votes",
            way_out=f'write cap = "1/{voters}" or more',
        )
    if voting.weights == "contribution":
        if voting.equal_part is None or not share(voting.equal_part):
            yield Fault(
                where="voting.equal_part",
                rule="votes by contribution alone leave a member that has not trained yet without a vote",
                way_out='say which part of all votes is split equally: equal_part = "1/2"',
            )
    elif voting.equal_part is not None:
        yield Fault(
            where="voting.equal_part",
            rule=f'equal_part is of votes by contribution, but voting.weights = "{voting.weights}"',
            way_out='leave it out, or write weights = "contribution"',
        )
    cap, trainers = share(charter.contribution.influence_cap), len(charter.with_role("member"))
    if cap * trainers < 1:
        yield Fault(
            where="contribution.influence_cap",
            rule=f"no run of {trainers} members who train could keep to an influence cap of {text_of(cap)}: "
            "their weights cannot add up to 1",
            way_out=f'write influence_cap = "1/{trainers}" or more'
            if trainers
            else 'give some members the role "member"',
        )


def _rule(charter: Charter, kind: Kind) -> Iterator[Fault]:
    rule, where = charter.decisions[kind], f"decisions.{kind}"
    approval = bound(rule.approval)
    if approval.share < Fraction(1, 2) or (approval.share == Fraction(1, 2) and not approval.strict):
        yield Fault(
            where=f"{where}.approval",
            rule=f'{kind} needs "{rule.approval}": a proposal and its opposite could both pass',
            way_out='write "more than 1/2" or a larger share',
        )
    electors = len(charter.voters) - (charter.counts_out(kind) and kind != "admit")
    if rule.yes_members > electors:
        yield Fault(
            where=f"{where}.yes_members",
            rule=f"{kind} needs {rule.yes_members} members who say yes, but only {electors} may vote on it",
            way_out=f"write yes_members = {electors} or less",
        )
    if not any(set(rule.proposers) & set(member.roles) for member in charter.members.values()):
        yield Fault(
            where=f"{where}.proposers",
            rule=f"nobody could propose {kind}: no member has the role {' or '.join(rule.proposers)}",
            way_out="name a role that some members have",
        )


def _level(threshold: Bound) -> tuple[Fraction, bool]:
    return (threshold.share, threshold.strict)


def _easier(rule: Rule, than: Rule, *, alike: bool) -> str | None:
    """The field by which `rule` passes where `than` would not, or sooner. `alike`: all weigh the same."""
    if _level(bound(rule.approval)) < _level(bound(than.approval)):
        return "approval"
    if rule.of == "cast" and than.of == "all":
        return "of"
    if rule.yes_members < than.yes_members:
        return "yes_members"
    mine, its = _turnout(rule, alike), _turnout(than, alike)
    if any(own < other for own, other in zip(mine, its, strict=True)):
        lower = _level(bound(rule.quorum)) < _level(bound(than.quorum))
        return "quorum" if lower or rule.quorum_of == than.quorum_of else "quorum_of"
    return "voting" if seconds(rule.voting) < seconds(than.voting) else None


def _turnout(rule: Rule, alike: bool) -> tuple[tuple[Fraction, bool], tuple[Fraction, bool]]:
    """How much must take part, as a share of the members and of the votes: the quorum, and where a share of
    all votes must be yes, that too. Where votes weigh the same, one is the other."""
    quorum, none = _level(bound(rule.quorum)), (Fraction(0), False)
    members, votes = (quorum, none) if rule.quorum_of == "members" else (none, quorum)
    if rule.of == "all":
        votes = max(votes, _level(bound(rule.approval)))
    return (max(members, votes), max(members, votes)) if alike else (members, votes)


def _ways_round(charter: Charter) -> Iterator[Fault]:
    """Where changing the charter is easier than another decision, that one is only as hard as the change."""
    change, alike = charter.decisions["change-charter"], charter.voting.weights == "equal"
    for kind in KINDS:
        rule = charter.decisions[kind]
        field = _easier(change, rule, alike=alike)
        if field == "quorum_of":
            yield Fault(
                where="decisions.change-charter.quorum_of",
                rule=f"{kind} has a quorum of {rule.quorum_of}, a change of the charter one of "
                f"{change.quorum_of}, and votes do not weigh the same: few heavy members or many light ones "
                f"could first make {kind} easier",
                way_out=f'write quorum_of = "{rule.quorum_of}" in both',
            )
        elif field is not None:
            yield Fault(
                where=f"decisions.change-charter.{field}",
                rule=f"{kind} is harder than a change of the charter ({field} {getattr(rule, field)} against "
                f"{getattr(change, field)}): whoever can change the charter could first make {kind} easier",
                way_out=f"raise {field} of decisions.change-charter to {getattr(rule, field)}, "
                f"or lower that of {kind}",
            )


def _entitlements(charter: Charter) -> Iterator[Fault]:
    rules = charter.entitlements
    weight, cap = share(rules.weight), share(charter.contribution.influence_cap)
    if weight > cap:
        yield Fault(
            where="entitlements.weight",
            rule=f"a right to the base needs {rules.weight} of the accepted weight, but no member may weigh "
            f"more than {text_of(cap)}",
            way_out=f'write weight = "{text_of(cap)}" or less, or raise contribution.influence_cap',
        )
    if rules.needs == "either" and bool(rules.rounds) != bool(weight):
        idle = "rounds" if not rules.rounds else "weight"
        yield Fault(
            where=f"entitlements.{idle}",
            rule=f"{idle} = 0 is always met, and one of both is enough, so everybody has a right to the base",
            way_out='write needs = "both", or a number above 0',
        )


def _data(charter: Charter) -> Iterator[Fault]:
    for field in ("base", "contributed_cpt"):
        if "private" in getattr(charter.data, field):
            yield Fault(
                where=f"data.{field}",
                rule="private data leaves a trace in nobody's weights but its owner's, and these weights are "
                "shared",
                way_out=f'take "private" out of data.{field}',
            )


def _public(charter: Charter) -> Iterator[Fault]:
    levels = charter.public
    if levels.charter == "public" and levels.members != "public":
        yield Fault(
            where="public.members",
            rule="the charter is public and names the members, which are to stay in the consortium",
            way_out='write members = "public", or charter = "consortium"',
        )
    if levels.ledger != "public":
        return
    for field in ("charter", "members", "plans", "votes", "contributions", "scores", "releases"):
        if getattr(levels, field) != "public":
            yield Fault(
                where=f"public.{field}",
                rule=f"the ledger is public and holds the {field}, which are to stay in the consortium",
                way_out=f'write {field} = "public", or ledger = "consortium"',
            )


def _release(charter: Charter) -> Iterator[Fault]:
    release = charter.release
    for name in release.holders:
        if name not in charter.members:
            yield Fault(
                where="release.holders",
                rule=f"{name} is to hold a release key, but is no member of this charter",
                way_out="name members of [members]",
            )
    voters = len(charter.members)
    if release.gates is not None and release.gates.scored_by > voters:
        yield Fault(
            where="release.gates.scored_by",
            rule=f"{release.gates.scored_by} members must have published a score, and there are {voters}",
            way_out=f"write scored_by = {voters} or less",
        )
    if release.signatures > len(release.holders):
        yield Fault(
            where="release.signatures",
            rule=f"{release.signatures} signatures are needed, but {len(release.holders)} members hold keys",
            way_out=f"write signatures = {max(len(release.holders) - 1, 1)}, or name more holders",
        )
