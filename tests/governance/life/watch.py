"""What must be so after each decision: a model of the rules, written from docs/formats/votes.md.

It is shown what was recorded and keeps its own account of it. It counts votes in its own way and believes no
tally."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.governance.second import met, seconds, shares

Json = dict[str, Any]
NEW = {"seats": 1, "roles": ["member"]}


def need(holds: bool, why: str) -> None:
    if not holds:
        raise AssertionError(why)


def moment(time: str) -> datetime:
    return datetime.fromisoformat(time)


def after(time: str, period: str) -> datetime:
    return moment(time) + timedelta(seconds=seconds(period))


@dataclass
class Vote:
    charter: Json
    subject: Json
    by: str
    opened: str
    members: list[str]
    suspended: list[str]
    contributions: dict[str, int] | None = None
    ballots: list[tuple[str, str, str]] = field(default_factory=list)
    """Member, choice, time."""
    decided: str = ""

    @property
    def rule(self) -> Json:
        found: Json = self.charter["decisions"][self.subject["kind"]]
        return found

    @property
    def closes(self) -> datetime:
        return after(self.opened, self.rule["voting"])

    @property
    def party(self) -> str | None:
        about = ("admit", "suspend", "expel", "appoint-operator", "replace-root-key", "hear-appeal")
        return self.subject["member"] if self.subject["kind"] in about else None

    def electors(self) -> list[str]:
        out = self.party if self.rule["interested"] == "out" else None
        seated = [name for name in self.members if seat(self.charter, name)["seats"]]
        return [name for name in seated if name not in self.suspended and name != out]

    def passes(self) -> bool:
        """Whether enough took part, enough different members said yes, and enough of the votes are yes."""
        electors = self.electors()
        given = self.contributions or {}
        standings = [
            {"member": name, **seat(self.charter, name), "contribution": given.get(name, 0)}
            for name in electors
        ]
        weight = shares(self.charter["voting"], standings)
        last = {member: choice for member, choice, _ in self.ballots}
        said: dict[str, Fraction] = {
            choice: sum((weight[name] for name in last if last[name] == choice), Fraction(0))
            for choice in ("yes", "no", "abstain")
        }
        part = (
            sum(said.values())
            if self.rule["quorum_of"] == "votes"
            else Fraction(len(last), len(electors) or 1)
        )
        whole = Fraction(1) if self.rule["of"] == "all" else said["yes"] + said["no"]
        enough = bool(whole) and met(self.rule["approval"], said["yes"] / whole)
        heads = list(last.values()).count("yes")
        return bool(last) and met(self.rule["quorum"], part) and heads >= self.rule["yes_members"] and enough


def seat(charter: Json, member: str) -> Json:
    found: Json = charter["members"].get(member, NEW)
    return found


@dataclass
class Watch:
    """The rules' account of a consortium. Its tables change by decisions that passed, and by nothing else."""

    charter: Json
    roots: dict[str, str]
    votes: dict[str, Vote] = field(default_factory=dict)
    away: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    """Suspended: by which decision, until when."""
    out: dict[str, str] = field(default_factory=dict)
    admitted: set[str] = field(default_factory=set)
    plans: dict[str, str] = field(default_factory=dict)
    phases: set[str] = field(default_factory=set)
    releases: dict[str, bool] = field(default_factory=dict)
    operator: str | None = None
    merges: list[dict[str, int]] = field(default_factory=list)
    """Since votes go by contribution; none where they do not."""

    def merged(self, weights: dict[str, int]) -> None:
        if self.charter["voting"]["weights"] == "contribution":
            self.merges.append(weights)

    def contributed(self) -> dict[str, int] | None:
        if self.charter["voting"]["weights"] != "contribution":
            return None
        rules = self.charter["contribution"]
        last = self.merges[-rules["window_rounds"] :]
        if rules["measure"] == "rounds":
            return {name: len([each for each in last if name in each]) for name in self.members()}
        return {name: sum(each.get(name, 0) for each in last) for name in self.members()}

    def members(self) -> list[str]:
        return sorted(self.roots.keys() - self.out.keys())

    def is_away(self, member: str, at: str) -> bool:
        return member in self.away and moment(at) < self.away[member][1]

    def joined(self, member: str, root: str) -> None:
        need(
            member in self.charter["members"] or member in self.admitted,
            f"{member} joined without a decision",
        )
        need(member not in self.roots, f"{member} joined twice")
        self.roots[member] = root

    def opened(self, name: str, said: Json, at: str, contributions: dict[str, int] | None) -> None:
        need(contributions == self.contributed(), "members have contributed something else")
        kind, by = said["subject"]["kind"], said["member"]
        need(by in self.members(), f"{by} is no member and asks")
        need(not self.is_away(by, at) or kind == "hear-appeal", f"{by} is suspended and asks for {kind}")
        roles = seat(self.charter, by)["roles"]
        need(bool({*roles} & {*self.charter["decisions"][kind]["proposers"]}), f"{by} may not ask for {kind}")
        still = [vote for vote in self.votes.values() if not vote.decided]
        need(sum(vote.by == by for vote in still) < 16, f"{by} has seventeen votes open")
        need(
            all(moment(at) <= vote.closes for vote in still),
            "something is opened before what is due is decided",
        )
        away = [member for member in self.members() if self.is_away(member, at)]
        self.votes[name] = Vote(self.charter, said["subject"], by, at, self.members(), away, contributions)

    def cast(self, said: Json, at: str) -> None:
        vote, by = self.votes[said["proposal"]], said["member"]
        need(not vote.decided and moment(vote.opened) <= moment(at) <= vote.closes, "a ballot out of time")
        need(by in vote.electors() and by in self.members(), f"{by} has no vote there and votes")
        need(not self.is_away(by, at), f"{by} is suspended and votes")
        need(
            said["number"] == 1 + sum(member == by for member, _, _ in vote.ballots), "a ballot out of order"
        )
        vote.ballots.append((by, said["choice"], at))

    def decided(self, name: str, passed: bool, in_force: bool, at: str) -> None:
        vote = self.votes[name]
        need(not vote.decided, "a vote is decided twice")
        need(moment(at) > vote.closes, "a vote is decided before it ended")
        need(
            passed == vote.passes(),
            f"{vote.subject['kind']} {'passed' if passed else 'failed'} against the rules",
        )
        yes = {member for member, choice, _ in vote.ballots if choice == "yes"}
        need(not passed or len(yes) >= 2, "one member alone decided")
        vote.decided = at
        need(passed or not in_force, "what did not pass is in force")
        if in_force:
            self._done(name, vote, at)

    def _done(self, name: str, vote: Vote, at: str) -> None:
        subject = vote.subject
        member = subject.get("member", "")
        match subject["kind"]:
            case "admit":
                need(member not in self.roots, "a member is admitted")
                self.admitted.add(member)
            case "suspend":
                need(member in self.members(), "nobody is suspended")
                self.away[member] = (name, after(at, vote.charter["deadlines"]["suspension"]))
            case "expel":
                need(member in self.members(), "nobody is expelled")
                self.out[member] = name
                self.away.pop(member, None)
            case "hear-appeal":
                held = self.out.get(member) or self.away.get(member, ("",))[0]
                need(held == subject["decision"], "an appeal undoes what was not decided so")
                self.out.pop(member, None)
                self.away.pop(member, None)
            case "change-charter":
                new = subject["charter"]
                need(new["revision"] == self.charter["revision"] + 1, "a revision is skipped")
                if new["voting"]["weights"] != "contribution":
                    self.merges = []
                self.charter = new
            case "replace-root-key":
                need(subject["root_key"] not in self.roots.values(), "a root key is another's")
                self.roots[member] = subject["root_key"]
            case "ratify-plan":
                self.plans[subject["plan"]] = subject["run"]
            case "open-phase":
                self.phases.add(subject["phase"])
            case "accept-release" | "revoke-release":
                self.releases[subject["release"]] = subject["kind"] == "accept-release"
            case "appoint-operator":
                self.operator = member

    def agrees(self, governance: Any, ring: Any, charter: Json, at: str) -> None:
        """Nothing is in force that no decision has brought, and nothing has gone that one has."""
        need(charter == self.charter, "another charter is in force than was decided")
        need({*governance.admitted} == self.admitted, "another is admitted")
        need(governance.expelled == self.out, "another is expelled")
        need(sorted(ring.active) == self.members(), "others are members")
        need(
            {name: each.root_key for name, each in ring.members.items()} == self.roots,
            "a root key is another",
        )
        gone = {name: each.decision for name, each in governance.suspended.items() if at < each.until}
        away = {name: decision for name, (decision, _) in self.away.items() if self.is_away(name, at)}
        need(gone == away, "another is suspended")
        need({digest: each.run for digest, each in governance.plans.items()} == self.plans, "another plan")
        need({*governance.phases} == self.phases, "another phase is open")
        standing = {name: each.revoked is None for name, each in governance.releases.items()}
        need(standing == self.releases, "another release stands")
        need(governance.operator == self.operator, "another runs the core")
