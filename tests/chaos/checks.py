"""What must hold after a run, whatever happened to it. Every finding is a sentence; there must be none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.cli.recompute import recompute
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.core.views import round_record
from tapestry.errors import NotFound, TapestryError
from tapestry.identity.envelope import Envelope, payload_type
from tapestry.ledger.entries import Entry
from tapestry.ledger.tree import HASH_BYTES
from tapestry.node.home import Home
from tapestry.node.memory import Memory
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.messages import Contribution
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore

RUN = "run"


@dataclass
class Verdict:
    """Counts of what was looked at, and all that does not hold."""

    receipts: int = 0
    entries: int = 0
    merges: int = 0
    contributions: int = 0
    """Merged."""
    merged_of: Counter[str] = field(default_factory=Counter)
    """Of these, each node's."""
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    forks: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    """What does not hold in the ledger, or is not the same everywhere."""

    @property
    def findings(self) -> list[str]:
        return [*self.lost, *self.twice, *self.forks, *self.other]


@dataclass
class Evidence:
    """What a run has left behind: the core's ledger and folder, and the nodes' homes."""

    lines: list[file.Line]
    core: Path
    homes: list[Home]

    @classmethod
    def of(cls, core: Path, homes: list[Home]) -> Evidence:
        with Core.open(core) as opened:
            lines = list(Proofs(opened.journal, opened.consortium).lines(opened.store))
        return cls(lines, core, homes)

    def entries(self, *types: str) -> Iterator[Entry]:
        for kind, value in self.lines:
            if kind == "entry" and value.scope == RUN and value.type in types:
                yield value


def check(found: Evidence, *, repeat: bool = True) -> Verdict:
    """All checks; `repeat`: every merge is repeated as well."""
    verdict = Verdict()
    _of_ledger(found, verdict)
    _of_receipts(found, verdict)
    _of_nodes(found, verdict)
    if repeat:
        _of_merges(found, verdict)
    return verdict


def _of_ledger(found: Evidence, verdict: Verdict) -> None:
    try:
        seen = Verifier().take(found.lines)
    except TapestryError as error:
        verdict.other.append(f"the ledger does not hold: {error.message}")
        return
    verdict.entries, verdict.merges = seen.entries, seen.merges


def _of_receipts(found: Evidence, verdict: Verdict) -> None:
    """Each receipted contribution is in the ledger once, and in exactly one merge unless it was refused."""
    received = Counter(e.body["contribution"] for e in found.entries("contribution-received"))
    refused = {e.body["contribution"] for e in found.entries("contribution-refused")}
    merged = Counter(m["contribution"] for e in found.entries("round-closed") for m in e.body["merged"])
    kind = payload_type(Contribution)
    envelopes = [Envelope.from_bytes(value) for tag, value in found.lines if tag == "blob"]
    said = {each.digest: each.unverified(Contribution) for each in envelopes if each.payloadType == kind}
    rounds = Counter((said[sha].node, said[sha].round) for sha in merged if sha in said)
    for what, counts in (("received", received), ("merged", merged), ("merged as its round's", rounds)):
        verdict.twice += [f"{key} is {what} {n} times" for key, n in counts.items() if n > 1]
    verdict.contributions = sum(merged.values())
    for sha in merged:
        if sha in said:
            verdict.merged_of[said[sha].node] += 1
    for sha in received.keys() - merged.keys() - refused:
        verdict.lost.append(f"contribution {sha[:12]} was received and is in no merge")
    for home in found.homes:
        for path in sorted(home.receipts.glob(f"{RUN}.*.json")):
            kept = canonical.decode(path.read_bytes(), max_bytes=1 << 20)
            sha = Envelope.from_bytes(canonical.encode(kept["contribution"])).digest
            verdict.receipts += 1
            if not received[sha]:
                verdict.lost.append(f"{home.root.name} has a receipt {path.name} that no entry is of")


def _of_nodes(found: Evidence, verdict: Verdict) -> None:
    """The same ledger and the same head at all nodes as at the core, with its bytes."""
    verifier = Verifier()
    try:
        for line in found.lines:
            verifier.line(line)
    except TapestryError:
        return  # said already
    state = verifier.state(RUN)
    assert state is not None
    for home in found.homes:
        name = home.root.name
        verdict.forks += [f"{name} holds {path.name}" for path in home.ledger.glob("fork-*")]
        roots = (home.ledger / "roots").read_bytes()
        size = min(len(roots) // HASH_BYTES, verifier.found.entries)
        if roots[(size - 1) * HASH_BYTES : size * HASH_BYTES] != verifier.root(size):
            verdict.forks.append(f"{name} has another tree of {size} entries than the core")
        head = Memory(home)[RUN].head
        if head is None or head.state != state.head:
            verdict.other.append(f"the head of {name} is not the core's")
            continue
        try:
            _read_base(BlobStore.open(home.blobs), head.state)
        except TapestryError as error:
            verdict.other.append(f"{name} lacks a part of its head: {error.message}")


def _read_base(store: BlobStore, state: str) -> None:
    """Every byte of it, held against its hash by whoever reads a blob."""
    base = State.from_bytes(store.read(state)).base
    for shard in Artifact.from_bytes(store.read(base)).shards:
        store.read(shard.sha256)


def _of_merges(found: Evidence, verdict: Verdict) -> None:
    """The accepted set, merged again from the initial state on, gives the same bytes after each round."""
    records: list[RoundRecord] = []
    with Core.open(found.core) as core:
        last = core.runs.standing(RUN).state.last_round
        for number in range(1, last + 1):
            try:
                records.append(round_record(core.journal, core.store, RUN, number))
            except NotFound:
                continue  # abandoned, or still open
        done = recompute(core.store, records, scratch_parent=found.core.parent)
    for one in done:
        if one.verdict != "same":
            verdict.other.append(f"round {one.round}, merged again: {one.verdict} {one.note}")
    if len(done) != verdict.merges:
        verdict.other.append(f"{verdict.merges} merges are recorded, {len(done)} could be repeated")
