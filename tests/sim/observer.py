"""Watches a run from outside and holds all that happens against what must hold.

It reads the core's event log as it is committed, by itself, and remembers everything that anybody was told;
it shares no code with what it watches but the formats.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tapestry.audit.verify import Verifier
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import MergeMismatch, TapestryError
from tapestry.identity.envelope import Envelope
from tapestry.node.memory import AgentMemory
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.canonical import sha256
from tapestry.protocol.messages import Attestation, Contribution, Receipt
from tapestry.rounds.events import ARRIVED
from tests.sim import toy
from tests.sim.net import Reply, Wire
from tests.sim.scheduler import Violation
from tests.sim.setting import key_of, member_of

if TYPE_CHECKING:
    from tests.sim.core_process import CoreProcess
    from tests.sim.node_process import Node
    from tests.sim.world import World

WEIGHT_UNITS: Final = 4
"""How far a weight may be from the plain fraction, in units of 2^-24: it is rounded."""


@dataclass
class Taken:
    """A contribution that the log says was received."""

    said: Contribution
    entered: int
    lag: int
    status: str = "received"


@dataclass
class Round:
    """One round as the log tells it."""

    state: str
    nodes: set[str]
    deadline_ms: int
    deltas: list[tuple[int, toy.Numbers]] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    """Committed: digest of the envelope → node."""
    sealed: bool = False
    closed: bool = False
    ended: str | None = None


def must(holds: object, what: str) -> None:
    """Raise `Violation` unless it holds."""
    if not holds:
        raise Violation(what)


class Observer:
    """Of one core and those who speak to it."""

    def __init__(self, world: World, core: CoreProcess) -> None:
        self._world = world
        self._core = core
        self.nodes: dict[str, Node] = {}
        """Those that keep to the rules and speak to this core."""
        self.attested: dict[int, set[str]] = defaultdict(set)
        """By merges: members who have."""
        self.crooked = 0
        """The core computes this merge wrongly."""
        self.dropped: set[str] = set()
        """Contributions that a core which drops what comes has receipted."""
        self.lost: set[str] = set()
        """Contributions that a core had taken whose disk is lost, and no node had the ledger up to there."""
        self._log: sqlite3.Connection | None = None
        self.entries: list[bytes] = []
        self.rounds: dict[int, Round] = {}
        self.taken: dict[str, Taken] = {}
        """By digest of the envelope."""
        self.states: dict[int, str] = {0: toy.START.digest}
        """By merges: the one state that anybody may have."""
        self.forged: set[str] = set()
        """States that a core which lies has shown."""
        self.finished: str | None = None
        self.reference = toy.Reference()
        self._enrolled: set[str] = set()
        self._merged: set[str] = set()
        self._signed: dict[tuple[str, int], str] = {}
        self._own: dict[str, set[str]] = defaultdict(set)
        self._again = False
        """Going through a log that was recovered."""

    def open(self) -> None:
        path = self._world.root / self._core.name / "core.sqlite"
        self._log = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.committed()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def trained(self, node: str, blobs: tuple[bytes, ...]) -> None:
        """A node's trainer makes these."""
        self._own[node] |= {sha256(data) for data in blobs}

    def made_by(self, node: str) -> set[str]:
        """Blobs of a node's own deltas: they are nowhere else."""
        return self._own[node]

    def standing(self) -> str:
        open_rounds = {number: r.state[:8] for number, r in self.rounds.items() if r.ended is None}
        nodes = {node.name: node.finished for node in self.nodes.values()}
        return f"merges {len(self.states) - 1}, open rounds {open_rounds}, finished {nodes}"

    # -- the event log ----------------------------------------------------------------------------

    def _rows(self, after: int) -> list[tuple[int, str, bytes]]:
        assert self._log is not None
        return self._log.execute(
            "SELECT sequence, scope, entry FROM events WHERE sequence > ? ORDER BY sequence", (after,)
        ).fetchall()

    def committed(self) -> None:
        """Something was committed."""
        found = self._rows(len(self.entries))
        for sequence, scope, entry in found:
            must(sequence == len(self.entries) + 1, f"the log goes from {len(self.entries)} to {sequence}")
            self.entries.append(entry)
            if scope == toy.RUN:
                value = json.loads(entry)
                self._take(value["type"], value["body"], value["at"])
        if found:
            self._world.scheduler.say(f"log has {len(self.entries)} entries")

    def reopened(self) -> None:
        """The core came back: nothing of its log may be gone or other."""
        found = [entry for _, _, entry in self._rows(0)]
        must(found[: len(self.entries)] == self.entries, "the log lost or changed entries in a crash")
        self.committed()
        snapshots = dict(self._log.execute("SELECT scope, sequence FROM snapshots"))  # type: ignore[union-attr]
        newest = dict(self._log.execute("SELECT scope, max(sequence) FROM events GROUP BY scope"))  # type: ignore[union-attr]
        must(snapshots == newest, f"snapshots {snapshots} do not belong to the events {newest}")

    def acknowledged(self, node: Node) -> set[str]:
        """Contributions a node has a receipt for, and the ledger up to there, all of it on its disk."""
        receipts = [receipt for receipt in _receipts(node) if receipt.sequence <= kept(node)]
        return {receipt.contribution for receipt in receipts} - self.dropped

    def recovered(self, least: int, acknowledged: set[str]) -> None:
        """The core's disk was lost, and it was made anew from what others have of it: its log is a beginning
        of what it was, and holds what anybody has been told for good."""
        before = self.entries
        path = self._world.root / self._core.name / "core.sqlite"
        self._log = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        found = [entry for _, _, entry in self._rows(0)]
        must(found == before[: len(found)], "the log that was recovered is another one")
        must(len(found) >= least, f"{len(found)} entries were recovered, a node has {least}")
        taken = set(self.taken)
        self.entries, self.rounds, self.taken, self.states = [], {}, {}, {0: toy.START.digest}
        self.finished, self._merged, self._enrolled = None, set(), set()
        self.attested.clear()
        self._again = True
        self.committed()
        self._again = False
        self.lost |= taken - set(self.taken)
        for digest in acknowledged:
            must(digest in self.taken, f"contribution {digest[:12]} was acknowledged and is lost")
        self.power_was_cut()

    def _take(self, kind: str, body: dict[str, Any], at: str) -> None:
        number = body.get("round", 0)
        match kind:
            case "round-opened":
                must(number not in self.rounds, f"round {number} opens twice")
                must(body["state"] == self._head, f"round {number} starts from another base than the head")
                must(all(r.ended for r in self.rounds.values()), f"round {number} opens beside another")
                self._witnessed(f"round {number} opens")
                self.rounds[number] = Round(
                    state=body["state"], nodes=set(body["nodes"]), deadline_ms=body["deadline_ms"]
                )
            case "contribution-committed":
                must(not self.rounds[number].sealed, f"{body['node']} commits to a sealed round")
                self.rounds[number].words[body["contribution"]] = body["node"]
            case "round-sealed":
                self._sealed(number, body["deadline_ms"], at)
            case "contribution-received" | "contribution-revealed":
                due = self.rounds[number].sealed and body["contribution"] in self.rounds[number].words
                must(due == (kind == "contribution-revealed"), f"round {number}: {kind} out of turn")
                self._received(number, body)
            case "contribution-refused" if body["reason"] == "not-revealed":
                word = body["contribution"]
                lacking = word in self.rounds[number].words and word not in self.taken
                must(lacking, f"{body['node']} is refused in round {number}, and its bytes are there")
            case "contribution-accepted" | "contribution-refused":
                one = self.taken[body["contribution"]]
                must(one.status == "received", f"{body['node']} is judged twice in round {number}")
                one.status = kind.removeprefix("contribution-")
                if one.status == "accepted":
                    finite = all(abs(value) < float("inf") for value in self._delta(one))
                    must(finite, f"{body['node']} is accepted with what is no number")
                honest = body["node"] in self.nodes
                must(one.status == "accepted" or not honest, f"round {number}: {body} of an honest node")
            case "round-closed":
                self._closed(number, body["merged"], at)
            case "round-widened":
                self.rounds[number].nodes |= set(body["nodes"])
            case "round-committed":
                self._committed(number, body)
            case "base-attested":
                self._attested(body)
            case "round-abandoned":
                must(not self.rounds[number].ended, f"round {number} ends twice")
                self.rounds[number].ended = "abandoned"
            case "node-enrolled":
                self._enrolled.add(body["node"])
            case "run-finished":
                must(body["state"] == self._head, "the run ends with another state than its head")
                self._witnessed("the run ends")
                self.finished = body["state"]

    @property
    def _head(self) -> str:
        return self.states[len(self.states) - 1]

    def _witnessed(self, what: str) -> None:
        merges, quorum = len(self.states) - 1, self._world.plan.witness.quorum
        found = len(self.attested[merges])
        must(not merges or found >= quorum, f"{what} with {found} of {quorum} witnesses of merge {merges}")

    def _attested(self, body: dict[str, Any]) -> None:
        merges, node, member = body["merges"], body["node"], body["member"]
        newest = (len(self.states) - 1, self._head)
        must((merges, body["state"]) == newest, f"{node} attests another base than the newest")
        must(member == member_of(node), f"{node} attests for {member}")
        envelope = Envelope.from_bytes(self._blob(body["attestation"]))
        said = envelope.open_as(Attestation, key_of(f"{node} witness").public_key)
        must((said.merges, said.state) == newest, f"{node} signed for another base")
        self.attested[merges].add(member)

    def _received(self, number: int, body: dict[str, Any]) -> None:
        digest, node, lag = body["contribution"], body["node"], body["lag"]
        must(digest not in self.taken, f"contribution {digest[:12]} of {node} was received twice")
        said = Envelope.from_bytes(self._blob(digest)).unverified(Contribution)
        must(said.node == node, f"the log states {node} otherwise than {said.node} signed")
        must(number - lag == said.round, f"{node} trained round {said.round}, the log says {number} - {lag}")
        before = [t for t in self.taken.values() if t.said.node == node and t.status != "refused"]
        must(all(t.said.round != said.round for t in before), f"{node} counts twice for round {said.round}")
        must(all(t.entered != number for t in before), f"{node} enters round {number} twice")
        must(not self.rounds[number].closed, f"{node} enters round {number} after it was closed")
        trained = self.rounds[said.round]
        must(said.state == trained.state, f"{node} trained round {said.round} from another base")
        steps = self._world.plan.inner.steps
        fits = said.steps <= steps and said.tokens <= said.steps * toy.TOKENS_A_STEP
        must(fits, f"{node} claims {said.tokens} tokens in {said.steps} steps")
        late = self._world.plan.rounds.staleness
        must(0 <= lag <= late, f"{node} is {lag} rounds late, {late} are allowed")
        if not lag:
            must(not trained.closed, f"{node} comes to round {number} in time, which is closed")
        self.taken[digest] = Taken(said, number, lag)
        self._intact(digest, self.taken[digest])

    def _sealed(self, number: int, deadline_ms: int, when: str) -> None:
        at = self.rounds[number]
        must(not at.sealed and not at.closed, f"round {number} is sealed twice, or too late")
        self._waited(number, set(at.words.values()), when)
        at.sealed, at.nodes, at.deadline_ms = True, set(), deadline_ms

    def _waited(self, number: int, came: set[str], when: str) -> None:
        at = self.rounds[number]
        overdue = datetime.fromisoformat(when).timestamp() * 1000 >= at.deadline_ms - 1
        must(overdue or at.nodes <= came, f"round {number} does not wait for {at.nodes - came}")

    def _closed(self, number: int, merged: list[dict[str, Any]], when: str) -> None:
        at = self.rounds[number]
        must(not at.closed, f"round {number} is closed twice")
        at.closed = True
        self._waited(number, {one.said.node for one in self.taken.values() if one.entered == number}, when)
        due = {d for d, t in self.taken.items() if t.entered == number and t.status == "accepted"}
        named = [each["contribution"] for each in merged]
        must(set(named) == due, f"round {number} merges {len(named)} of {len(due)} accepted contributions")
        must(len(set(named)) == len(named), f"round {number} merges something twice")
        must(not self._merged & set(named), f"round {number} merges what was merged before")
        must(len(named) >= self._world.plan.rounds.quorum, f"round {number} is closed below its quorum")
        self._merged |= set(named)
        said = {each["node"]: self.taken[each["contribution"]] for each in merged}
        fair = toy.fair_weights(
            {node: one.said.tokens for node, one in said.items()},
            {node: one.lag for node, one in said.items()},
            self._world.plan.merge.staleness_factor,
        )
        for each in merged:
            off = abs(each["weight"] - fair[each["node"]] * toy.UNIT)
            must(off <= WEIGHT_UNITS, f"round {number} weighs {each['node']} otherwise than its tokens")
            at.deltas.append((each["weight"], self._delta(said[each["node"]])))

    def _committed(self, number: int, body: dict[str, Any]) -> None:
        at = self.rounds[number]
        must(at.closed and not at.ended, f"round {number} is committed out of turn")
        must(body["merges"] == len(self.states), f"round {number} is merge {body['merges']}, not the next")
        should = self.reference.after(at.state, at.deltas)
        if body["merges"] == self.crooked:
            must(body["state"] != should, f"round {number}: the core's wrong merge is right")
            self.forged.add(body["state"])
            should = body["state"]
        must(body["state"] == should, f"round {number}: a merge of what was accepted gives another state")
        at.ended = "committed"
        self.states[body["merges"]] = body["state"]

    def _delta(self, one: Taken) -> toy.Numbers:
        """Of an honest node what it must have trained; else what lies there."""
        said = one.said
        if said.node in self.nodes:
            values = toy.trained(said.node, said.round, said.state)
            must(toy.make("delta", values).digest == said.delta, f"{said.node} signed another delta")
            return values
        shard = Artifact.from_bytes(self._blob(said.delta)).shards[0]
        return toy.values_of(toy.LAYOUT.shards[0], self._blob(shard.sha256))

    # -- the core's disk --------------------------------------------------------------------------

    def _blob(self, sha: str) -> bytes:
        try:
            data = (self._world.root / self._core.name / "blobs" / sha[:2] / sha).read_bytes()
        except FileNotFoundError:
            raise Violation(f"the core lost blob {sha[:12]}") from None
        must(sha256(data) == sha, f"blob {sha[:12]} is damaged at the core")
        return data

    def _intact(self, digest: str, one: Taken) -> None:
        if self._again:
            return
        self._blob(digest)
        for shard in Artifact.from_bytes(self._blob(one.said.delta)).shards:
            self._blob(shard.sha256)

    def power_was_cut(self) -> None:
        """What was acknowledged must have been on disk."""
        for digest, one in self.taken.items():
            if one.status != "refused" and self.rounds[one.entered].ended is None:
                self._intact(digest, one)
        self._blob(self._world.plan.digest)
        head = State.from_bytes(self._blob(self._head))
        for sha in filter(None, (head.base, head.outer)):
            for shard in Artifact.from_bytes(self._blob(sha)).shards:
                self._blob(shard.sha256)

    # -- what is said -----------------------------------------------------------------------------

    def sent(self, request: Wire) -> None:
        """A node sends a request, whatever becomes of it."""
        node = self.nodes.get(request.sender)
        if node is not None:
            self._world.bases.sent(node, request)
        if request.method != "POST" or not request.path.endswith("/contributions"):
            return
        if node is None or node in self._world.colluders:
            return
        envelope = Envelope.from_bytes(request.body)
        said = envelope.unverified(Contribution)
        known = self._signed.setdefault((said.node, said.round), envelope.digest)
        must(known == envelope.digest, f"{said.node} signed two contributions to round {said.round}")

    def answered(self, request: Wire, reply: Reply | None) -> None:
        """The core is about to answer."""
        self.committed()
        if reply is None:
            return
        must(reply.status_code != 500, f"{request.method} {request.path}: the core failed: {reply.body!r}")
        if request.method == "POST" and request.path.endswith("/contributions") and reply.status_code == 200:
            if reply.body.startswith(b'{"committed":'):
                return
            receipt = Envelope.from_bytes(reply.body).open_as(Receipt, key_of("core").public_key)
            if receipt.contribution in self.dropped:
                return
            must(receipt.sequence <= len(self.entries), "a receipt names an entry that is not committed")
            value = json.loads(self.entries[receipt.sequence - 1])
            must(
                value["type"] in ARRIVED and value["body"]["contribution"] == receipt.contribution,
                f"the receipt of {receipt.node} names entry {receipt.sequence}, which is {value['type']}",
            )

    def head(self, merges: int, state: str) -> None:
        """A node has taken a state for its own."""
        self.committed()
        must(state not in self.forged, f"a node takes a forged state after merge {merges}")
        must(self.states.get(merges) == state, f"there are two bases after {merges} merges")

    def gave_up(self, node: Node, error: TapestryError) -> None:
        """An agent ended with a typed error."""
        misled = self.forged and self._world.misled in ("", node.name)
        must(misled, f"{node.name} gave up: {error.code}: {error.message}")

    # -- the end ----------------------------------------------------------------------------------

    def ended(self) -> None:
        """All nodes say they have finished."""
        self.committed()
        if self._world.lie == "crooked":
            found = all(isinstance(node.ended, MergeMismatch) for node in self.nodes.values())
            must(self.forged and found, f"a wrong merge is not found out: {self.standing()}")
            return
        must(self.finished == self._head, "the nodes finished before the run did")
        must(len(self.states) - 1 == self._world.plan.rounds.total, f"{len(self.states) - 1} merges")
        for digest, one in self.taken.items():
            gone = one.status == "refused" or self.rounds[one.entered].ended == "abandoned"
            must(digest in self._merged or gone, f"{one.said.node} was acknowledged and is in no merge")
        for node in self.nodes.values():
            if node.finished:
                self._check_home(node)
        core = self._core.core
        assert core is not None
        self._check_ledger(core)

    def _check_home(self, node: Node) -> None:
        must(node.home.agent_state.is_file(), f"{node.name} has lost its memory")
        memory = AgentMemory.from_bytes(node.home.agent_state.read_bytes()).runs[toy.RUN]
        if node.name in self._enrolled:  # else the run was over before this node could take part
            must(memory.head is not None and memory.head.state == self._head, f"{node.name} ends elsewhere")
        for receipt in _receipts(node):
            known = receipt.contribution in self.taken.keys() | self.dropped | self.lost
            must(known, f"{node.name} has a receipt for nothing")
        if node.name == self._world.misled and self.dropped:
            proven = [r for r in _receipts(node) if r.sequence <= kept(node) and self._contradicts(r)]
            must(proven, f"{node.name} cannot prove that the core dropped what it has receipted")

    def _contradicts(self, receipt: Receipt) -> bool:
        """Whether the ledger has another entry than a receipt says."""
        body = json.loads(self.entries[receipt.sequence - 1])["body"]
        return bool(body.get("contribution") != receipt.contribution)

    def _check_ledger(self, core: Core) -> None:
        found = Verifier().take(Proofs(core.journal, core.consortium).lines(core.store))
        must(found.runs == {toy.RUN: self._head}, "the ledger leads to another state")
        must(found.entries == len(self.entries), f"the ledger has {found.entries} entries")


def kept(node: Node) -> int:
    """How many entries of the ledger are on a node's disk."""
    try:
        return int(json.loads((node.home.ledger / "verified.json").read_bytes())["entries"])
    except FileNotFoundError:
        return 0


def _receipts(node: Node) -> list[Receipt]:
    """What the core has signed for a node."""
    found = []
    for path in sorted(node.home.receipts.glob("*.json")):
        both = json.loads(path.read_bytes())
        found.append(Envelope.from_json(both["receipt"]).open_as(Receipt, key_of("core").public_key))
    return found
