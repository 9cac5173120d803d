"""Members who decide together, on a core without a server: what they sign, put to it as its server would."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tapestry.core.votes import Votes
from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Charter
from tapestry.governance.disputes import Dispute
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal, Subject
from tapestry.governance.tally import Choice
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.protocol.plan import Plan
from tests.audit.stage import Node, Scene
from tests.governance.made import value

MINUTE = 60
USUAL: dict[str, Any] = {"voting": "1 minute", "quorum": "at least 1/2", "approval": "more than 1/2"}


class Council(Scene):
    """A consortium of members with one node each, which has a charter from `adopt` on."""

    def __init__(self, root: Path, *names: str) -> None:
        super().__init__(root)
        self.votes = Votes(self.core.journal, self.consortium)
        self.nodes: dict[str, Node] = {}
        self._nonce = 0
        for name in names:
            self.join(name)

    def join(self, name: str) -> Node:
        node = self.node(name)
        self.core.consortium.certify(node.certificate(node.vote, "vote", named=False))
        self.nodes[name] = node
        return node

    def charter(self, *names: str, **tables: Any) -> Charter:
        """Of the members there are, or of these."""
        tables = {"usual": USUAL, **tables}
        seats = tables.pop("members", None) or {name: {"seats": 1} for name in names or self.nodes}
        release = {"signatures": 2, "holders": tuple(seats)[:3], **tables.pop("release", {})}
        return Charter.model_validate(value((1,) * len(seats), members=seats, release=release, **tables))

    def signature(self, name: str, charter: Charter, **fields: Any) -> Envelope:
        key = fields.pop("key", self.nodes[name].vote)
        known = {"consortium": self.consortium, "member": name, "charter": charter.digest}
        return sign(CharterSignature(**(known | fields)), key)

    def adopt(self, **tables: Any) -> Charter:
        charter = self.charter(**tables)
        self.votes.adopt(charter, [self.signature(name, charter) for name in self.nodes])
        return charter

    def proposal(self, name: str, subject: Subject, *, key: KeyPair | None = None, **fields: Any) -> Envelope:
        self._nonce += 1
        charter = self.votes.assembly().governance.charter
        known = {
            "consortium": self.consortium,
            "member": name,
            "charter": charter.digest if charter is not None else "0" * 64,
            "subject": subject,
            "title": subject.kind,
            "text": "Because.",
            "nonce": f"{self._nonce:032x}",
        }
        return sign(Proposal(**(known | fields)), key or self.nodes[name].vote)

    def propose(self, name: str, subject: Subject) -> str:
        """The proposal's digest."""
        self.now += 10
        return self.votes.propose(self.proposal(name, subject)).proposal

    def ballot(
        self, name: str, proposal: str, choice: Choice, *, key: KeyPair | None = None, **fields: Any
    ) -> Envelope:
        last = self.votes.item(proposal).last(name) if "number" not in fields else None
        known = {
            "consortium": self.consortium,
            "member": name,
            "proposal": proposal,
            "number": 1 if last is None else last.number + 1,
            "choice": choice,
            "reason": "",
        }
        return sign(Ballot(**(known | fields)), key or self.nodes[name].vote)

    def vote(self, proposal: str, *, yes: Iterable[str] = (), no: Iterable[str] = ()) -> None:
        for choice, names in (("yes", yes), ("no", no)):
            for name in names:
                self.now += 10
                self.votes.vote(self.ballot(name, proposal, choice))  # type: ignore[arg-type]

    def disputed(self, name: str, *, key: KeyPair | None = None, **fields: Any) -> Envelope:
        known = {
            "consortium": self.consortium,
            "member": name,
            "run": "run",
            "round": 1,
            "about": name,
            "what": "tokens",
            "claim": "2000 tokens",
            "reason": "We counted.",
        }
        return sign(Dispute(**(known | fields)), key or self.nodes[name].vote)

    def dispute(self, name: str, **fields: Any) -> str:
        self.now += 10
        return self.votes.dispute(self.disputed(name, **fields))

    def end(self, seconds: float = MINUTE + 1) -> None:
        """The deadlines pass."""
        self.now += round(seconds * 1000)
        self.votes.settle()

    def decided(self, name: str, subject: Subject, *, yes: Iterable[str] = (), no: Iterable[str] = ()) -> str:
        proposal = self.propose(name, subject)
        self.vote(proposal, yes=yes, no=no)
        self.end()
        return proposal

    def passed(self, subject: Subject, *but: str) -> str:
        """All vote for it but these."""
        names = [name for name in self.nodes if name not in but]
        proposal = self.decided(names[0], subject, yes=names)
        outcome = self.votes.item(proposal).outcome
        assert outcome is not None and outcome.in_force, outcome
        return proposal

    def ratified(self, plan: Plan) -> str:
        return self.passed(subjects.RatifyPlan(run=plan.run, plan=plan.digest))
