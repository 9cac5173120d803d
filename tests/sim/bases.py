"""What a node may train on, sign and forget: looked at from outside, at all nodes that keep to the rules.

Each node is judged by what it can know itself, the lines of its own replica; they are read as bytes, and the
signatures in them verified here, without the code that the node follows its ledger with.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from tapestry.identity.envelope import Envelope
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint
from tapestry.node.memory import AgentMemory, RunMemory
from tapestry.protocol.messages import Attestation, Contribution
from tests.sim import toy
from tests.sim.net import Wire
from tests.sim.observer import kept, must
from tests.sim.setting import key_of, member_of

if TYPE_CHECKING:
    from tests.sim.node_process import Node
    from tests.sim.world import World

ENTRY, BLOB = b'{"entry":', b'{"blob":"'


class Bases:
    """Of one world, however many copies of its core there are."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._trained: dict[int, str] = {}
        """By merges: the one base that honest nodes train on."""
        self._repeated: set[tuple[str, str]] = set()
        self._attested: dict[tuple[str, int], str] = {}
        self._seen: set[tuple[str, str]] = set()
        self._sizes: dict[str, int] = {}
        self._own_log: set[str] = set()
        """Nodes of which another than the core's own log may be shown, signed by the core."""

    def repeated(self, folder: str, state: str) -> None:
        """A node's merge gave this state."""
        self._repeated.add((folder, state))

    def shown_another(self, name: str) -> None:
        self._own_log.add(name)

    def trains(self, node: Node, merges: int, state: str) -> None:
        """A node has this job for its trainer."""
        if (node.folder, state) in self._seen or node in self._world.colluders:
            return
        self._seen.add((node.folder, state))
        known = self._trained.setdefault(merges, state)
        must(known == state, f"{node.name} trains on another base after {merges} merges than others do")
        must(state not in node.core.observer.forged, f"{node.name} trains on a forged base")
        quorum = self._world.plan.witness.quorum
        if merges:
            found = self._witnesses(node, merges, state)
            must(
                len(found) >= quorum, f"{node.name} trains on a base with {len(found)} of {quorum} witnesses"
            )

    def _witnesses(self, node: Node, merges: int, state: str) -> set[str]:
        """Members who have attested a base, by a node's own ledger."""
        found: set[str] = set()
        envelope = b""
        for line in _lines(node):
            if line.startswith(BLOB):
                envelope = line
            elif b'"base-attested"' in line:
                body = json.loads(line)["entry"]["body"]
                if (body["merges"], body["state"]) == (merges, state):
                    data = base64.b64decode(json.loads(envelope)["blob"])
                    public = key_of(f"{body['node']} witness").public_key
                    said = Envelope.from_bytes(data).open_as(Attestation, public)
                    must((said.merges, said.state) == (merges, state), f"{said.node} attested another base")
                    found.add(member_of(said.node))
        return found

    def follows(self, node: Node, size: int) -> None:
        """What a node believes is what the core has recorded."""
        if (
            node.name in self._own_log
            or node in self._world.colluders
            or self._sizes.get(node.folder) == size
        ):
            return
        self._sizes[node.folder] = size
        held = [line[len(ENTRY) : -1] for line in _lines(node) if line.startswith(ENTRY)]
        known = node.core.observer.entries[: len(held)]
        must(held == known, f"{node.name} follows a ledger that is not the core's")

    def sent(self, node: Node, request: Wire) -> None:
        """A node sends a request."""
        if request.method != "POST" or node in self._world.colluders:
            return
        if request.path.endswith("/attestations"):
            self._attests(node, request.body)
        elif request.path.endswith("/contributions"):
            given = Envelope.from_bytes(request.body).unverified(Contribution)
            own = _memory(node).contribution
            remembered = own is not None and own.envelope.encode() == request.body
            must(remembered, f"{node.name} sends a contribution that it does not remember")
            if given.checkpoint is not None:
                size = Checkpoint.parse(Note.from_bytes(given.checkpoint.encode()).text).size
                must(kept(node) >= size, f"{node.name} signs a head it does not remember having seen")

    def _attests(self, node: Node, body: bytes) -> None:
        envelope = Envelope.from_bytes(body)
        said = envelope.unverified(Attestation)
        known = self._attested.setdefault((node.folder, said.merges), envelope.digest)
        must(known == envelope.digest, f"{node.name} attests two bases after merge {said.merges}")
        own = _memory(node).attested
        remembered = own is not None and own.envelope.encode() == body
        must(remembered, f"{node.name} sends an attestation that it does not remember")
        repeated = (node.folder, said.state) in self._repeated
        must(repeated, f"{node.name} attests merge {said.merges} and has not repeated it")
        must(kept(node) >= said.size, f"{node.name} signs what it does not remember having seen")

    def handed_in(self, node: Node, sequence: int) -> None:
        """A node is done with a contribution that the core has receipted at this position."""
        if sequence and node.name != self._world.misled:
            must(kept(node) >= sequence, f"{node.name} cannot give back what was receipted")


def _memory(node: Node) -> RunMemory:
    """What a node would know after a crash."""
    try:
        return AgentMemory.from_bytes(node.home.agent_state.read_bytes()).runs.get(toy.RUN) or RunMemory()
    except FileNotFoundError:
        return RunMemory()


def _lines(node: Node) -> list[bytes]:
    """A node's ledger, with what it has not put on disk yet."""
    path = node.home.ledger / "ledger.jsonl"
    agent = node.agent
    assert agent is not None
    replica = agent._tools.replica
    data = path.read_bytes()[: replica._offset] if replica._offset else b""
    return (data + bytes(replica._pending)).split(b"\n")
