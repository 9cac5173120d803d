"""What of a run lies in a node's home for a report on what its bases and updates give away: rounds, states,
whose updates, and which sequences of its text this node had consumed by when.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tapestry.errors import CorpusError, FormatError, NotFound, TapestryError
from tapestry.host import files
from tapestry.identity.envelope import Envelope, contents
from tapestry.node.home import Home, parse_round_name, read_json
from tapestry.node.memory import HeadMemory
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.messages import Contribution
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore

MAX_RECEIPT_BYTES: Final = 4 << 20
MAX_MANIFEST_BYTES: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Sequences of its text that this node consumed in one round, by their positions over all epochs."""

    round: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run at one node.

    Args:
        home: of the node.
        run: its name.
        node: the node's.
        store: blobs.
        head: the newest base.
        records: of rounds whose merge this node checked, by round.
        own: what this node signed, by round.
    """

    home: Home
    run: str
    node: str
    store: BlobStore
    head: HeadMemory
    records: dict[int, RoundRecord]
    own: dict[int, Contribution]

    @classmethod
    def of(cls, home: Home, run: str, node: str, head: HeadMemory) -> Measured:
        """Raises `NotFound` where this node sent nothing in the run."""
        known = {record.round: record for record in _records(home, run)}
        own = {said.round: said for said in _receipted(home, run)}
        for record in known.values():
            own |= {said.round: said for said in said_in(record) if said.node == node}
        if not own:
            raise NotFound(
                f"node {node} has sent nothing in run {run}", hint="let it take part in a round first"
            )
        store = BlobStore.open(home.blobs)
        sent = dict(sorted(own.items()))
        return cls(home=home, run=run, node=node, store=store, head=head, records=known, own=sent)

    def plan(self, digest: str) -> Plan:
        """Raises `NotFound` where it is not here (any more)."""
        return Plan.from_bytes(self.store.read(digest, Plan.MAX_BYTES))

    def consumed(self, like: Plan) -> tuple[tuple[Taken, ...], bool]:
        """What rounds consumed that cut and ordered the text as `like` does; and whether those were all.

        The trainer goes on where it was, so a round begins where the one before ended; of the newest ones it
        has kept where that was, which decides.
        """
        found: list[Taken] = []
        at, whole = None, True
        for number, said in self.own.items():
            inner = self.plan(said.plan).inner
            sequences = said.tokens // inner.sequence_length
            if at is None:
                at = inner.steps_before(number - 1) * inner.accumulation * inner.batch_sequences
            kept = (read_json(self.home.output(self.run, number) / "inner" / "state.json") or {}).get(
                "position"
            )
            if type(kept) is int and kept != at + sequences:
                at, whole = kept - sequences, False
            if (inner.sequence_length, inner.seed) == (like.inner.sequence_length, like.inner.seed):
                found.append(Taken(round=number, start=at, stop=at + sequences))
            else:
                whole = False
            at += sequences
        return tuple(found), whole

    def require_text(self, manifest: bytes, protected: str | None) -> None:
        """Raise `CorpusError` unless the files of the text are those that were trained on, and the same of it
        was left out.

        Args:
            manifest: of the files as they are now.
            protected: hash of the node's protected.toml; None where it has none.
        """
        now = json.loads(manifest)["files"]
        for digest in dict.fromkeys(said.data_manifest for said in self.own.values()):
            kept = read_json(self.home.cache / "manifests" / f"{digest}.json", MAX_MANIFEST_BYTES)
            if kept is not None and kept.get("files") != now:
                raise CorpusError(
                    f"the text of node {self.node} is not what run {self.run} was trained on",
                    hint="put the files back as they were: which windows were trained on is known of those",
                )
            if kept is not None and (kept.get("protected") or {}).get("sha256") != protected:
                raise CorpusError(
                    f"protected.toml of node {self.node} is not what it was when run {self.run} was trained",
                    hint="what it keeps out moves all windows behind it; put it back as it was, or measure "
                    "runs that began after the change",
                )

    def has(self, state: str) -> bool:
        """Whether a state and all shards of its base are here."""
        return has_state(self.store, state)


def has_state(store: BlobStore, state: str) -> bool:
    """Whether a folder holds a state, and all shards of its base."""
    try:
        base = State.from_bytes(store.read(state, State.MAX_BYTES)).base
        shards = Artifact.from_bytes(store.read(base, Artifact.MAX_BYTES)).shards
    except TapestryError:
        return False
    return all(store.has(blob.sha256) for blob in shards)


def said_in(record: RoundRecord) -> Sequence[Contribution]:
    """The contributions of a merge."""
    return contents(record.envelopes, Contribution)


def _records(home: Home, run: str) -> Iterator[RoundRecord]:
    """None at a node that fetches what was merged."""
    for path in home.records.glob("*.json"):
        named = parse_round_name(path.name.removesuffix(".json"))
        if named is not None and named[0] == run:
            yield RoundRecord.from_bytes(files.read_limited(path, RoundRecord.MAX_BYTES))


def _receipted(home: Home, run: str) -> Iterator[Contribution]:
    """What the core gave receipts for, whether it was merged or not."""
    for path in sorted(home.receipts.glob("*.json")):
        named = parse_round_name(path.name.removesuffix(".json"))
        if named is None or named[0] != run:
            continue
        try:
            value = json.loads(files.read_limited(path, MAX_RECEIPT_BYTES))["contribution"]
        except (ValueError, KeyError, TypeError) as e:
            raise FormatError(f"{path} is not a receipt as this node keeps them") from e
        yield Envelope.from_json(value).unverified(Contribution)
