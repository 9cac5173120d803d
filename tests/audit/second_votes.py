"""What members decide, for the second verifier: from docs/formats/votes.md, sharing no code with Tapestry.

Votes are counted by tests/governance/second.py, which is written from docs/formats/charter.md alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.audit.second_pledges import PLEDGED, Pledges
from tests.governance import second as count

Json = dict[str, Any]
AFTER_DEADLINE = ("proposal-decided", "core-succeeded")
ZERO = Fraction(0)
NEW_SEAT = {"title": "", "seats": 1, "roles": ["member"]}


def later(time: str, period: str) -> str:
    moment = datetime.fromisoformat(time) + timedelta(seconds=count.seconds(period))
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


class Votes:
    """`ledger` has members' roots and keys, and opens what is signed; `tools` are its module's functions."""

    def __init__(self, ledger: Any, tools: Any) -> None:
        self.ledger, self.tools, self.need = ledger, tools, tools.need
        self.charter: Json | None = None
        self.items, self.plans, self.releases = dict[str, Json](), dict[str, str](), dict[str, bool]()
        self.admitted, self.expelled, self.phases = set[str](), dict[str, str](), set[str]()
        self.suspended, self.operator = dict[str, tuple[str, str]](), ""
        self.pledges = Pledges(self)
        self.disputes = dict[str, str]()
        self.merges: list[list[Json]] | None = None  # since votes go by contribution

    def open(self) -> list[Json]:
        left = [item for item in self.items.values() if "outcome" not in item]
        return sorted(left, key=lambda item: (item["closes"], item["sequence"]))

    def in_time(self, kind: str, at: str) -> None:
        overdue = any(item["closes"] < at for item in self.open())
        self.need(not overdue or kind in AFTER_DEADLINE, "a vote has ended and is not decided")

    def members(self) -> list[str]:
        return sorted(self.ledger.roots.keys() - self.expelled.keys())

    def is_suspended(self, member: str, at: str) -> bool:
        return member in self.suspended and at < self.suspended[member][1]

    def seat(self, charter: Json, member: str) -> Json:
        return charter["members"].get(member, NEW_SEAT)

    def may_join(self, member: str) -> None:
        named = self.charter is None or member in {*self.charter["members"], *self.admitted}
        self.need(named, "nobody has admitted this member")

    def entry(self, entry: Json, now: int) -> None:
        kind, body, at = entry["type"], entry["body"], entry["at"]
        if kind == "charter-adopted":
            return self.adopt(body, now)
        if kind == "proposal-decided":
            return self.decide(body, at, entry["sequence"])
        if kind == "account-disputed":
            return self.disputed(body, now)
        what = PLEDGED.get(kind) or ("proposal" if kind == "proposal-opened" else "ballot")
        said, _ = self.ledger.valid(body["envelope"].encode(), what, now)
        charter, digest = self.charter, self.tools.sha256(said)
        self.need(charter is not None and said["consortium"] == self.ledger.consortium, "for no charter here")
        self.need(said["member"] == body["member"], "an envelope is another member's")
        if kind in PLEDGED:
            self.pledges.entry(kind, said, digest, body, at)
        elif what == "proposal":
            self.opened(said, digest, body, at, entry["sequence"])
        else:
            self.cast(said, body, at, entry["sequence"])

    def adopt(self, body: Json, now: int) -> None:
        charter = self.tools.parse(body["charter"].encode(), 1 << 20)
        self.need(self.tools.fits("tapestry.charter", charter) and self.charter is None, "no first charter")
        said = [self.ledger.valid(text.encode(), "charter-signature", now)[0] for text in body["envelopes"]]
        about = (self.ledger.consortium, self.tools.sha256(charter))
        for_it = all((each["consortium"], each["charter"]) == about for each in said)
        signed = [each["member"] for each in said]
        everybody = self.members() == signed == sorted(charter["members"])
        self.need(for_it and everybody, "not every member has signed the first charter")
        self.in_force(charter)

    def in_force(self, charter: Json) -> None:
        self.charter = charter
        self.merges = (self.merges or []) if charter["voting"]["weights"] == "contribution" else None

    def merged(self, at: Json) -> None:
        if self.merges is not None:
            self.merges.append(at["merged"])

    def contributed(self) -> dict[str, int] | None:
        if self.merges is None or self.charter is None:
            return None
        rules, found = self.charter["contribution"], dict.fromkeys(self.members(), 0)
        for merge in self.merges[-rules["window_rounds"] :]:
            for name in found:
                weights = [each["weight"] for each in merge if each["member"] == name]
                found[name] += sum(weights) if rules["measure"] == "weight" else bool(weights)
        return found

    def disputed(self, body: Json, now: int) -> None:
        said, _ = self.ledger.valid(body["envelope"].encode(), "dispute", now)
        digest, member = self.tools.sha256(said), said["member"]
        here = (said["consortium"], body["member"], body["dispute"]) == (
            self.ledger.consortium,
            member,
            digest,
        )
        new = digest not in self.disputes and said["about"] in self.ledger.roots
        few = sum(each == member for each in self.disputes.values()) < 256
        self.need(here and new and few, "a dispute is for elsewhere, known, or one too many")
        self.disputes[digest] = member

    def opened(self, said: Json, digest: str, body: Json, at: str, sequence: int) -> None:
        charter, subject, member = self.charter, said["subject"], said["member"]
        assert charter is not None
        need, kind, rule = self.need, subject["kind"], charter["decisions"][subject["kind"]]
        need(
            digest not in self.items and body["proposal"] == digest,
            "a proposal stands twice, or by another name",
        )
        need(said["charter"] == self.tools.sha256(charter), "a proposal is under another charter")
        away = self.is_suspended(member, at) and kind != "hear-appeal"
        roles = {*self.seat(charter, member)["roles"]} & {*rule["proposers"]}
        few = sum(item["member"] == member for item in self.open()) < 16
        need(bool(roles) and not away and few, "this member may not propose that")
        need(self.does(subject, at, opening=True), "there is nothing to decide")
        closes = later(at, rule["voting"])
        given = self.contributed()
        need(body["closes"] == closes, "voting ends at another time")
        need(body.get("contributions") == given, "members have contributed something else")
        away_now = [name for name in self.members() if self.is_suspended(name, at)]
        self.items[digest] = {
            "charter": charter, "subject": subject, "member": member, "opened": at, "closes": closes,
            "sequence": sequence, "members": self.members(), "suspended": away_now, "ballots": [],
            "contributions": given or {},
        }  # fmt: skip

    def cast(self, said: Json, body: Json, at: str, sequence: int) -> None:
        item, member, need = self.items.get(said["proposal"]), said["member"], self.need
        need(item is not None and body["proposal"] == said["proposal"], "a ballot is for no proposal here")
        assert item is not None
        need("outcome" not in item and item["opened"] <= at <= item["closes"], "a ballot is not in time")
        away = self.is_suspended(member, at) or self.barred(item, member) is not None
        need(member in item["members"] and not away, "this member has no vote")
        before = sum(each["member"] == member for each in item["ballots"])
        need(said["number"] == before + 1, "a ballot is not the member's next one")
        item["ballots"].append({"member": member, "choice": said["choice"], "at": at, "sequence": sequence})

    def barred(self, item: Json, member: str) -> str | None:
        rule = item["charter"]["decisions"][item["subject"]["kind"]]
        if not self.seat(item["charter"], member)["seats"]:
            return "no-seat"
        if member in item["suspended"]:
            return "suspended"
        return "interested" if rule["interested"] == "out" and member == self.party(item) else None

    def party(self, item: Json) -> str | None:
        return item["subject"]["member"] if item["subject"]["kind"] in count.ABOUT else None

    def decide(self, body: Json, at: str, sequence: int) -> None:
        digest, item = next(
            ((name, i) for name, i in self.items.items() if [i] == self.open()[:1]), ("", None)
        )
        self.need(item is not None and item["closes"] < at, "no vote has ended")
        assert item is not None
        tally = self.tally(item)
        yes = Fraction(tally["yes"])
        does = tally["verdict"] == "passed" and self.does(item["subject"], at, yes=yes)
        due = {"proposal": digest, "verdict": tally["verdict"], "in_force": does}
        if does and item["subject"]["kind"] == "accept-release":
            due |= {"signers": self.signers(item["charter"], self.tools.milliseconds(at))}
        self.need(body == due | {"tally": self.tools.canonical(tally)}, "the ballots give another decision")
        item["outcome"] = {"at": at, "passed": does}
        if does:
            self.apply(item, digest, at)

    def signers(self, charter: Json, now: int) -> list[Json]:  # keys are in the order they were certified
        found = dict[str, str]()
        for name, key in self.ledger.keys.items():
            valid = key["role"] == "vote" and not key["revoked"] and key["start"] <= now < key["end"]
            if valid and key["member"] in {*charter["release"]["holders"]} & {*self.members()}:
                found[key["member"]] = name
        return [{"member": member, "key_id": found[member]} for member in sorted(found)]

    def tally(self, item: Json) -> Json:
        charter, kind, party = item["charter"], item["subject"]["kind"], self.party(item)
        rule = charter["decisions"][kind]
        seats = [
            {
                "member": m,
                "contribution": item["contributions"].get(m, 0),
                "suspended": m in item["suspended"],
                **self.seat(charter, m),
            }
            for m in item["members"]
        ]
        last = {each["member"]: each for each in item["ballots"]}
        start = datetime.fromisoformat(item["opened"])
        given = [
            (b["sequence"], b["member"], b["choice"],
             round((datetime.fromisoformat(b["at"]) - start).total_seconds() * 1000))
            for b in item["ballots"]
        ]  # fmt: skip
        yes, no, abstain, verdict = count.count(charter, kind, party, seats, given)
        electors = [each for each in seats if self.barred(item, each["member"]) is None]
        weight = count.shares(charter["voting"], electors)
        part = Fraction(len(last), len(electors)) if electors else Fraction(0)
        part = yes + no + abstain if rule["quorum_of"] == "votes" else part
        agreed = yes if rule["of"] == "all" else yes / ((yes + no) or 1)
        left_out = [(m, self.barred(item, m)) for m in item["members"]]
        replaced = [b for b in item["ballots"] if last[b["member"]] is not b]
        votes = [{k: last[m][k] for k in ("member", "choice", "sequence")} for m in sorted(last)]
        aside = [{k: b[k] for k in ("member", "sequence")} | {"reason": "replaced"} for b in replaced]
        return {
            "format": "tapestry.tally", "version": 1, "charter": self.tools.sha256(charter), "kind": kind,
            "about": party, "opened": item["opened"], "closes": item["closes"],
            "electors": [{"member": m, "share": str(weight[m])} for m in sorted(weight)],
            "left_out": [{"member": m, "reason": why} for m, why in left_out if why],
            "votes": votes, "discarded": aside,
            "yes": str(yes), "no": str(no), "abstain": str(abstain),
            "quorum": {"needed": rule["quorum"], "of": rule["quorum_of"], "reached": str(part)},
            "approval": {"needed": rule["approval"], "of": rule["of"], "reached": str(agreed)},
            "yes_members": sum(b["choice"] == "yes" for b in last.values()),
            "yes_members_needed": rule["yes_members"], "verdict": verdict,
        }  # fmt: skip

    def does(
        self, subject: Json, at: str, *, opening: bool = False, yes: Fraction = ZERO
    ) -> bool:  # whether it would change anything
        kind, member, here = subject["kind"], subject.get("member", ""), self.members()
        assert self.charter is not None
        match kind:
            case "admit":
                return member not in self.ledger.roots and member not in self.admitted
            case "suspend":
                return member in here and not self.is_suspended(member, at)
            case "expel":
                return member in here
            case "ratify-plan":
                return subject["plan"] not in self.plans
            case "revise-plan":
                return self.tools.sha256(subject["plan"]) not in self.plans
            case "open-phase":
                return self.pledges.may_open(subject["phase"], at, opening=opening, yes=yes)
            case "change-charter":
                return bool(subject["charter"]["revision"] == self.charter["revision"] + 1)
            case "accept-release":
                return subject["release"] not in self.releases
            case "revoke-release":
                return self.releases.get(subject["release"], False)
            case "appoint-operator":
                return member in here and self.operator != member
            case "replace-root-key":
                return member in here and subject["root_key"] not in self.ledger.used
        decision = subject["decision"]
        held = self.is_suspended(member, at) and self.suspended[member][0] == decision
        if not held and self.expelled.get(member) != decision:
            return False
        until = later(self.items[decision]["outcome"]["at"], self.charter["deadlines"]["appeal"])
        return not opening or at <= until

    def apply(self, item: Json, decision: str, at: str) -> None:
        subject = item["subject"]
        member = subject.get("member", "")
        match subject["kind"]:
            case "admit":
                self.admitted.add(member)
            case "suspend":
                self.suspended[member] = (decision, later(at, item["charter"]["deadlines"]["suspension"]))
            case "expel":
                self.expelled[member] = decision
                self.suspended.pop(member, None)
                self.keys_end(member)
            case "ratify-plan":
                self.plans[subject["plan"]] = subject["run"]
            case "revise-plan":
                self.plans[self.tools.sha256(subject["plan"])] = subject["plan"]["run"]
            case "open-phase":
                self.phases.add(subject["phase"])
            case "change-charter":
                self.phases = self.pledges.still_open(subject["charter"])
                self.pledges.still_held(subject["charter"])
                self.in_force(subject["charter"])
            case "accept-release" | "revoke-release":
                self.releases[subject["release"]] = subject["kind"] == "accept-release"
            case "appoint-operator":
                self.operator = member
            case "replace-root-key":
                self.ledger.roots[member] = subject["root_key"]
                self.ledger.used.add(subject["root_key"])
                self.keys_end(member)
            case "hear-appeal":
                self.suspended.pop(member, None)
                self.expelled.pop(member, None)

    def keys_end(self, member: str) -> None:
        for key in self.ledger.keys.values():
            key["revoked"] = key["revoked"] or key["member"] == member

    def permit(self, run: Any, kind: str, body: Json, said: Json, at: str) -> None:  # what a run may do
        if self.charter is None:
            return
        if kind == "run-started":
            self.pledges.may_start(run.newest["run"])
        if kind in ("run-started", "plan-revised"):
            plan = body.get("plan", run.newest)
            ratified = self.plans.get(self.tools.sha256(plan)) == plan["run"]
            rules, merge = self.charter["contribution"], plan["merge"]
            cap = Fraction(self.tools.canonical(merge["influence_cap"])) <= Fraction(rules["influence_cap"])
            fits = cap and merge["weighting"] in rules["weightings"]
            self.need(ratified and fits, "no decision is for this plan, or it goes beyond the charter")
        member = said.get("member", "")
        if kind == "contribution-revealed":
            member = run.enrolled.get(body["node"], "")
        self.need(not self.is_suspended(member, at), f"member {member} is suspended")
