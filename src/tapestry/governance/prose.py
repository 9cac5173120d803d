"""A charter in plain sentences, with its numbers worked out, for who has to vote on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tapestry.governance.capture import Capture, Power, overrides
from tapestry.governance.charter import Charter, Gates, Rule
from tapestry.governance.electorate import founding, shares
from tapestry.governance.takeover import Takeover, takeover
from tapestry.governance.words import ABOUT_ONE, KINDS, Kind, Role, bound, share, text_of

TITLES: Final[dict[Kind, str]] = {
    "admit": "Admit a member",
    "suspend": "Suspend a member",
    "expel": "Expel a member",
    "ratify-plan": "Ratify a run plan",
    "revise-plan": "Revise a run plan",
    "open-phase": "Open a phase",
    "change-charter": "Change this charter",
    "accept-release": "Accept a release",
    "revoke-release": "Revoke a release",
    "appoint-operator": "Appoint a core operator",
    "replace-root-key": "Replace a lost root key",
    "hear-appeal": "Decide an appeal",
}
_FRACTIONS: Final = {
    "1/2": "half",
    "1/3": "a third",
    "2/3": "two thirds",
    "1/4": "a quarter",
    "3/4": "three quarters",
}
_ROLES: Final = {
    "member": "members",
    "steward": "stewards",
    "auditor": "auditors",
    "core-operator": "core operators",
}


_WHAT_THEY_DO: Final[dict[Role, str]] = {
    "steward": "look after proposals",
    "auditor": "check the ledger and report",
    "core-operator": "run the core",
}
MAX_LISTED: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    title: str
    lines: tuple[str, ...]


def threshold(text: str) -> str:
    """`at least 2/3` as "at least two thirds"."""
    exact = bound(text)
    if exact.share == 1:
        return "all"
    value = text_of(exact.share)
    return f"{'more than' if exact.strict else 'at least'} {_FRACTIONS.get(value, value)}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def plural(count: int, one: str) -> str:
    return f"{count} {one}" + ("" if count == 1 else "s")


def sections(charter: Charter, captures: Sequence[Capture]) -> list[Section]:
    """The whole charter. `captures`: what `capture.check` found."""
    alike: dict[str, list[str]] = {}
    for kind in KINDS:
        alike.setdefault(decision(charter, kind), []).append(TITLES[kind])
    decisions = tuple(f"{'; '.join(titles)}. {rule}" for rule, titles in alike.items())
    return [
        Section(title="Who takes part", lines=tuple(_members(charter))),
        Section(title="What a vote weighs", lines=tuple(_votes(charter))),
        Section(title="What is decided, and how", lines=(*_general(), *decisions)),
        Section(title="What one or two members could do", lines=tuple(_powers(charter, captures))),
        Section(title="Who could change the rules", lines=(together(takeover(charter)),)),
        Section(title="Runs", lines=tuple(_runs(charter))),
        *([Section(title="Phases", lines=tuple(_phases(charter)))] if charter.phases else ()),
        Section(title="Who has a right to the model", lines=tuple(_entitlements(charter))),
        Section(title="Data", lines=tuple(_data(charter))),
        Section(title="Releases", lines=(_release(charter),)),
        Section(title="What is public", lines=tuple(_public(charter))),
        Section(title="Deadlines", lines=tuple(_deadlines(charter))),
    ]


def _members(charter: Charter) -> Iterator[str]:
    voters = charter.voters
    names = listed(voters) if len(voters) <= MAX_LISTED else f"{voters[0]} to {voters[-1]}"
    yield f"{plural(len(charter.members), 'member')}, of whom {len(voters)} vote: {names}."
    for role, what in _WHAT_THEY_DO.items():
        who = listed(charter.with_role(role))
        yield f"{_ROLES[role].capitalize()}, who {what}: {who or 'nobody yet'}."


def _votes(charter: Charter) -> Iterator[str]:
    voting = charter.voting
    yield {
        "equal": "Every member's vote weighs the same.",
        "seats": "A member's vote weighs as much as it has seats.",
        "contribution": "Votes follow what members contributed "
        f"({_measure(charter)}); {_FRACTIONS.get(voting.equal_part or '', voting.equal_part)} "
        "of all votes is split equally.",
    }[voting.weights]
    if share(voting.cap) < 1:
        yield (
            f"Nobody has more than {_FRACTIONS.get(voting.cap, voting.cap)} of the votes; what is above goes "
            "to the others in proportion."
        )
    if voting.weights == "seats":
        weights = shares(voting, [one for one in founding(charter) if one.seats])
        parts = [f"{name} {text_of(each)}" for name, each in sorted(weights.items())]
        yield f"So the votes are: {', '.join(parts)}."


def _measure(charter: Charter) -> str:
    window = charter.contribution.window_rounds
    what = {"rounds": "rounds with an accepted contribution", "weight": "weight in merges"}
    return f"{what[charter.contribution.measure]}, over the last {window} merges"


def _general() -> Iterator[str]:
    yield (
        "A vote ends at its deadline, by the core's clock. A member may change its mind until then: its last "
        "ballot in time counts. Who abstains counts as having voted, and neither for nor against."
    )


def decision(charter: Charter, kind: Kind) -> str:
    """What it takes for a decision of this kind to pass."""
    rule = charter.decisions[kind]
    whole = "of all votes" if rule.of == "all" else "of the yes and no votes"
    heads = "members" if rule.quorum_of == "members" else "votes"
    said = f"{threshold(rule.approval)} {whole} must be yes"
    if rule.yes_members > 1:
        said += f", from at least {rule.yes_members} different members"
    said += f"; {threshold(rule.quorum)} of the {heads} must take part."
    numbers = _worked_out(charter, kind, rule)
    proposers = listed([_ROLES[role] for role in rule.proposers], "or")
    return (
        f"{said[0].upper()}{said[1:]} {numbers} Voting is open for {rule.voting}; {proposers} may propose it."
    )


def _worked_out(charter: Charter, kind: Kind, rule: Rule) -> str:
    """The numbers for the members of the charter."""
    without = charter.counts_out(kind) and kind != "admit"
    count = len(charter.voters) - without
    who = (
        f"The member it is about does not vote: of the {count} others"
        if without
        else f"Of the {count} members who vote"
    )
    also = " The one it is about votes too." if kind in ABOUT_ONE and kind != "admit" and not without else ""
    approval = bound(rule.approval)
    if charter.voting.weights != "equal":
        needed = max(rule.yes_members, approval.least(count))
        return f"{who}, {needed} must say yes if all vote and weigh the same.{also}"
    quorum = bound(rule.quorum).least(count)
    everybody = max(rule.yes_members, approval.least(count))
    if rule.of == "all":
        more = f", and {quorum} must take part" if quorum > everybody else ""
        return f"{who}, {everybody} must say yes{more}.{also}"
    few = max(quorum, rule.yes_members)
    least = max(rule.yes_members, approval.least(few))
    if few == count:
        return f"{who}, all must take part and {everybody} say yes.{also}"
    return (
        f"{who}, {everybody} must say yes if all vote, {least} if only {few} do; fewer cannot decide.{also}"
    )


def _powers(charter: Charter, captures: Sequence[Capture]) -> Iterator[str]:
    voters = charter.voters
    for power, what in (
        ("forces", "pass, whatever the others do"),
        ("forces_few", "pass when few others vote"),
        ("blocks", "block, though all others want it"),
    ):
        for size in (1, 2):
            by_who: dict[str, list[str]] = {}
            for each in captures:
                found: Power = getattr(each, power)
                if power == "forces_few" and found.names(size) == each.forces.names(size):
                    continue  # said already
                if found.names(size):
                    by_who.setdefault(people(found, size, voters), []).append(TITLES[each.kind].lower())
            for who, kinds in by_who.items():
                yield f"{who} could {what}: {'everything' if len(kinds) == len(KINDS) else listed(kinds)}."
    if not any(
        getattr(each, power).ones for each in captures for power in ("forces", "blocks", "forces_few")
    ):
        yield "No member alone could pass or block anything."
    if two_left := [TITLES[each.kind].lower() for each in captures if each.unavoidable]:
        yield (
            f"To {listed(two_left)}, two are left to vote, and both must agree. With so few, either both "
            "must or one alone decides."
        )
    if not all(each.exact for each in captures):
        yield "Worked out for the worst case: what members contribute changes what their votes weigh."


def together(found: Takeover) -> str:
    """How many could change the charter against all others, at once or after they have removed some."""
    if found.directly is None and found.after is None:
        return "No number of members could change this charter against the others."
    worst = "" if found.exact else " Worked out for those who have contributed all there is."
    at_once = (
        f"{found.directly} of {found.voters} members can change this charter against all others"
        if found.directly is not None
        else "All members together cannot change this charter against a single one"
    )
    if not found.easier:
        return f"{at_once}; fewer cannot by suspending or expelling others first.{worst}"
    return (
        f"{at_once}; {found.after} can if they first {listed(found.by, 'or')} {found.removed} others, who "
        f"then have no vote on it.{worst}"
    )


def people(power: Power, size: int, voters: Sequence[str]) -> str:
    """Who has it: `Any two members`, or names, and how many more."""
    found = power.names(size)
    if size == 1:
        if len(found) == len(voters):
            return "Any member alone"
        names = [each[0] for each in found]
    else:
        if len(found) == len(voters) * (len(voters) - 1) // 2:
            return "Any two members together"
        names = [f"{one} with {two}" for one, two in found]
    more = f" and {len(names) - 6} others" if len(names) > 6 else ""
    return f"{', '.join(names[:6])}{more}{' alone' if size == 1 else ''}"


def _runs(charter: Charter) -> Iterator[str]:
    rules = charter.contribution
    yield f"A run plan may weigh contributions by {listed(rules.weightings, 'or')}."
    cap = share(rules.influence_cap)
    if cap < 1:
        yield f"No member's weight in a merge may be more than {_FRACTIONS.get(str(cap), cap)}."
    else:
        yield "It may leave the influence of a member on a merge without a cap."


def _phases(charter: Charter) -> Iterator[str]:
    powers = {each.phase: each for each in overrides(charter)}
    for name, phase in sorted((charter.phases or {}).items()):
        title = f" ({phase.title})" if phase.title else ""
        needs = listed([f"{resource} ({text})" for resource, text in sorted(phase.needs.items())])
        what = "have confirmed pledges for" if phase.counts == "confirmed" else "have pledged"
        count = plural(phase.members, "member")
        yield f"Phase {name}{title} opens by vote once at least {count} together {what} {needs}."
        if phase.runs:
            yield f"Until phase {name} is open, {listed(phase.runs, 'or')} does not start."
        power = powers.get(name)
        if power is None:
            yield f"Nothing opens phase {name} below its thresholds, but a change of this charter."
            continue
        who = people(power.forces, 2, charter.voters) if power.forces.names(2) else "no two members"
        yield (
            f"Below its thresholds it opens where {threshold(str(phase.override))} of all votes are yes: "
            f"{power.to_pass} members at least. {who[0].upper()}{who[1:]} could force that."
        )
    if any(phase.counts == "confirmed" for phase in (charter.phases or {}).values()):
        yield "A pledge counts once a steward or auditor of another member has confirmed it."


def _entitlements(charter: Charter) -> Iterator[str]:
    rules = charter.entitlements
    asked = []
    if rules.rounds:
        asked.append(f"contributed to {plural(rules.rounds, 'round')}")
    if share(rules.weight):
        asked.append(f"{rules.weight} of the accepted weight")
    what = f" {'and' if rules.needs == 'both' else 'or'} ".join(asked)
    needed = f"Who has {what}" if asked else "Every member"
    yield f"{needed} has a right to the base, and to derivatives of it that it owns."
    yield (
        "Who leaves keeps that right, for what it gave by then."
        if rules.leavers_keep
        else "Who has left before a release is voted on has no right to it. What was granted before stays."
    )


def _data(charter: Charter) -> Iterator[str]:
    for what, allowed in (
        ("the shared base", charter.data.base),
        ("continued training that is contributed", charter.data.contributed_cpt),
    ):
        yield (
            f"Into {what} may go data that is {listed(allowed, 'or')}."
            if allowed
            else f"No data into {what}."
        )
    yield "A dataset's own card may allow less, never more."


def _release(charter: Charter) -> str:
    release = charter.release
    return (
        f"{release.signatures} of {len(release.holders)} must sign a release: {listed(release.holders)}. "
        "A release needs both, the vote and the signatures." + _gates(release.gates)
    )


def _gates(gates: Gates | None) -> str:
    said = []
    if gates is not None and gates.scored_by:
        said.append(f"{gates.scored_by} members have published a score of it")
    if gates is not None and gates.worse_by_at_most is not None:
        most = gates.worse_by_at_most
        said.append(f"no node's own figure is worse than at the release before by more than {most}")
    return f" None is signed unless {listed(said)}." if said else ""


def _public(charter: Charter) -> Iterator[str]:
    levels = charter.public.model_dump()
    for level, who in (("public", "Anybody"), ("consortium", "Members only")):
        names = [field for field, value in levels.items() if value == level]
        if names:
            yield f"{who} may see: {listed(names)}."


def _deadlines(charter: Charter) -> Iterator[str]:
    times = charter.deadlines
    yield f"An appeal may be made within {times.appeal} of a decision."
    yield f"A suspension ends by itself after {times.suspension}."
    yield f"A member that leaves says so {times.notice} before."
    yield f"A dataset that is withdrawn is out of training everywhere within {times.withdrawal}."
