"""Brings this node's copy of the shared state to the run's head.

By replay: what a round was made of is fetched and checked, the merge repeated, and the result must
have the core's digest. By fetch, where there is nothing to repeat from (joining, long away, or the
plan says so): state, manifests and shards are taken by hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from tapestry.errors import (
    ArtifactError,
    FormatError,
    HashMismatch,
    IntegrityError,
    MergeMismatch,
    NotFound,
)
from tapestry.host import files
from tapestry.identity.envelope import contents
from tapestry.node.account import Meter
from tapestry.node.home import Home, round_name
from tapestry.node.memory import HeadMemory
from tapestry.node.people import People, check_record
from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, Model, State
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import MAX_BLOB_BYTES, Fragment, Layout
from tapestry.protocol.message import Message
from tapestry.protocol.messages import Contribution, Merged
from tapestry.protocol.plan import MAX_STALENESS, Plan
from tapestry.protocol.views import RoundRecord, RunView
from tapestry.replay.client import Replayer
from tapestry.replay.job import MergeJob
from tapestry.rounds.records import Ended
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient

M = TypeVar("M", bound=Message)

MAX_REPLAYED_ROUNDS: Final = 4
"""A node not further behind repeats the merges whatever they take; one further behind does where its
contributions are fewer bytes than the head."""
REPAIRS: Final = 2


class Library:
    """Messages and artifacts by digest, fetched where they are missing."""

    def __init__(self, client: CoreClient, store: BlobStore, meter: Meter | None = None) -> None:
        self.client = client
        self.store = store
        self.meter = meter or Meter()
        self._layout: Layout | None = None

    def message(self, sha: str, kind: type[M]) -> M:
        """The message a blob holds. Errors as of `CoreClient.download`."""
        limit = min(kind.MAX_BYTES, MAX_BLOB_BYTES)
        try:
            data = self.store.read(sha, limit)
        except (NotFound, HashMismatch):
            self.client.download(sha, self.store, max_bytes=limit)
            data = self.store.read(sha, limit)
        return kind.from_bytes(data)

    def layout(self, sha: str) -> Layout:
        if self._layout is None or self._layout.digest != sha:
            self._layout = self.message(sha, Layout)
        return self._layout

    def manifests(
        self, digests: Iterable[str], layout: Layout | Fragment, kind: ArtifactKind, codec: Codec = PLAIN
    ) -> dict[str, Artifact]:
        """Artifacts by digest, each held against the layout before anything of it is fetched."""
        found = {}
        for sha in dict.fromkeys(digests):
            found[sha] = self.message(sha, Artifact)
            found[sha].check_against(layout, kind=kind, codec=codec)
        return found

    def artifacts(
        self, digests: Iterable[str], layout: Layout | Fragment, kind: ArtifactKind, codec: Codec = PLAIN
    ) -> None:
        """Have all these artifacts here with every shard."""
        found = self.manifests(digests, layout, kind, codec)
        shards = {blob.sha256: blob for artifact in found.values() for blob in artifact.shards}
        lacking = [b for b in shards.values() if not self._present(b)]
        with self.meter.span("downloaded"):
            self.meter.add("downloaded_bytes", self.client.download_blobs(lacking, self.store))

    def deltas(self, digests: Iterable[str], plan: Plan, fragment: int) -> None:
        """Have these contributions' deltas, of this fragment, here."""
        self.artifacts(digests, self.layout(plan.layout).fragment(fragment), "delta", plan.codec)

    def _present(self, blob: Blob) -> bool:
        """By its size alone: whoever reads a blob verifies its hash, and a bad one is removed then."""
        try:
            return self.store.size(blob.sha256) == blob.bytes
        except NotFound:
            return False

    def model(self, plan: Plan) -> Model:
        """Have the plan's model here: layout and files."""
        model = self.message(plan.model, Model)
        if model.layout != plan.layout:
            raise ArtifactError(f"plan of run {plan.run} names another layout than its model")
        self.layout(plan.layout)
        self.client.download_blobs([file.blob for file in model.files], self.store)
        return model

    def mend(self, sha: str, plan: Plan) -> None:
        """Read all that training from a state needs, and fetch again what is lost or damaged."""
        self.message(plan.layout, Layout)
        base = self.message(self.message(sha, State).base, Artifact)
        lacking = []
        for blob in (*(file.blob for file in self.model(plan).files), *base.shards):
            try:
                self.store.read(blob.sha256)
            except (NotFound, HashMismatch):
                lacking.append(blob)
        self.client.download_blobs(lacking, self.store)

    def keep(self, sha: str, plan: Plan) -> None:
        """Have a state on disk for good, with all that it takes to open it and go on from it: nobody looks
        after it any more, and what was not synced is lost when the power is cut."""
        self.mend(sha, plan)
        state, model = self.message(sha, State), self.message(plan.model, Model)
        needed = [sha, plan.digest, plan.model, plan.layout, *(file.blob.sha256 for file in model.files)]
        for artifact in (state.base, state.outer):
            if artifact is not None and self.store.has(artifact):
                needed += [blob.sha256 for blob in blobs_of(self.store, artifact)]
        self.store.sync(each for each in needed if self.store.has(each))

    def state(self, sha: str, plan: Plan, *, outer: bool) -> State:
        """Have a state here with its base, and with its momentum where `outer`."""
        state = self.message(sha, State)
        if (state.run, state.model) != (plan.begins(sha), plan.model):
            raise ArtifactError(f"state {sha[:12]} does not belong to run {plan.run} and its model")
        layout = self.layout(plan.layout)
        self.artifacts([state.base], layout, "base")
        if outer and state.outer is not None:
            self.artifacts([state.outer], layout, "outer")
        return state


class Synchronizer:
    """One run's head.

    Args:
        home: for the records that were checked.
        library: where things are fetched and kept.
        replayer: repeats merges.
        consortium: its id.
        people: keys.
        tell: told in words what is going on.
        member: whose node it is.
        merged: what this node's own ledger says that a round of a run merged.
    """

    def __init__(
        self,
        home: Home,
        library: Library,
        replayer: Replayer,
        consortium: str,
        people: People,
        tell: Callable[[str], None] = lambda _: None,
        *,
        member: str = "",
        merged: Callable[[str, int], tuple[Merged, ...] | None] = lambda _run, _round: None,
    ) -> None:
        self._merged = merged
        self._member = member
        self._home = home
        self._library = library
        self._replayer = replayer
        self._consortium = consortium
        self._people = people
        self._tell = tell

    def advance(self, at: HeadMemory | None, view: RunView, plan: Plan) -> tuple[HeadMemory, int]:
        """The run's head with all its blobs here, and how many merges were repeated to get there.

        Raises:
            MergeMismatch: a repeated merge gave another state than the core recorded.
            IntegrityError, AuthError: a record that does not hold.
            PeerError: the core is away or breaks off.
        """
        head = view.head
        if at is not None and at.state == head.state:
            return at, 0
        repeats = plan.repeats_merges(self._member)
        if at is not None and repeats:
            behind = head.merges - at.merges
            # The newest merge can always be repeated, however many rounds before it were abandoned.
            kept = behind == 1 or at.round >= head.round - plan.retention.blob_rounds
            if 0 < behind <= self._worth_repeating(view, plan) and kept:
                return self._replay(at, view, plan), behind
        if repeats and not head.witnessed and head.before is not None:
            # Nobody may believe it yet, and this node's word may be wanted.
            before = HeadMemory(merges=head.merges - 1, state=head.before, round=head.round - 1)
            self._fetch(before, plan, outer=True)
            return self._replay(before, view, plan), 1
        found = HeadMemory(merges=head.merges, state=head.state, round=head.round)
        self._fetch(found, plan, outer=repeats)
        return found, 0

    def _fetch(self, head: HeadMemory, plan: Plan, *, outer: bool) -> None:
        """Have a state here. A node that repeats no merge has no use for the momentum; `_merge` fetches it if
        that changes."""
        self._tell(f"fetching the state after merge {head.merges}")
        state = self._library.state(head.state, plan, outer=outer)
        if state.merges != head.merges:
            raise IntegrityError(
                f"the core says its head has {head.merges} merges, the state itself says {state.merges}"
            )

    def _worth_repeating(self, view: RunView, plan: Plan) -> int:
        """How many merges a node repeats rather than fetch the head: as many as take fewer bytes, and a few
        more, since a merge that was repeated needs no trust."""
        layout = self._library.layout(plan.layout)
        state = sum(shard.total_bytes for shard in layout.shards)
        if plan.merge.keeps_momentum:
            state *= 2
        deltas = sum(plan.codec.most_bytes(shard) for shard in layout.shards) // plan.streaming.fragments
        a_round = max(1, len(view.enrolled)) * max(1, deltas)
        return max(MAX_REPLAYED_ROUNDS, state // a_round)

    def holds(self, run: str, number: int, node: str, before: int) -> bool:
        """Whether a merge before a round holds this node's contribution to an earlier one: its own merge, or
        one that it was late for. Raises `PeerError`."""
        for later in range(number, min(before, number + MAX_STALENESS + 1)):
            try:
                record = self._library.client.round(run, later)
            except NotFound:
                continue  # abandoned
            said = contents(record.envelopes, Contribution)
            if any((each.node, each.round) == (node, number) for each in said):
                return True
        return False

    def _replay(self, at: HeadMemory, view: RunView, plan: Plan) -> HeadMemory:
        number = at.round
        while at.merges < view.head.merges:
            number += 1
            if number > view.head.round:
                raise IntegrityError(f"no record of run {view.run} leads to its head")
            try:
                record = self._library.client.round(view.run, number)
            except NotFound:
                continue  # abandoned
            at = self._repeat(at, record, plan)
        if at.state != view.head.state:
            raise MergeMismatch(f"the records of run {view.run} lead to another state than its head")
        return at

    def _repeat(self, at: HeadMemory, record: RoundRecord, newest: Plan) -> HeadMemory:
        self._tell(f"repeating merge {at.merges + 1}")
        if record.before != at.state:
            raise IntegrityError(
                f"round {record.round} starts from state {record.before[:12]}, this node has {at.state[:12]}"
            )
        plan = newest if newest.digest == record.plan else self._library.message(record.plan, Plan)
        check_record(
            record, plan, self._consortium, self._people, lambda number: self._ended(record.run, number)
        )
        stated = self._merged(record.run, record.round)
        if stated is not None and stated != record.merged:
            raise MergeMismatch(
                f"the core's record of round {record.round} of run {record.run} merges other contributions "
                "than its ledger states",
                hint="stop and compare with other members; do not train from that base",
            )
        if record.fragment != (due := at.merges % plan.streaming.fragments):
            raise IntegrityError(
                f"round {record.round} merged fragment {record.fragment}, due was fragment {due}"
            )
        job = MergeJob.of(plan, state=at.state, contributions=record.merged, durable=False)
        result = self._merge(job, record, plan)
        if result != record.after:
            raise MergeMismatch(
                f"round {record.round} of run {record.run}: this node's merge gives state {result[:12]}, "
                f"the core recorded {record.after[:12]}",
                hint="stop and compare with other members; do not train from that base",
            )
        path = self._home.records / f"{round_name(record.run, record.round)}.json"
        files.write_atomic(path, record.to_bytes(), durable=False)
        return HeadMemory(merges=at.merges + 1, state=record.after, round=record.round, repeated=True)

    def _ended(self, run: str, number: int) -> Ended | None:
        """An earlier round, as this node has checked it or the core gives it; None for an abandoned one."""
        path = self._home.records / f"{round_name(run, number)}.json"
        try:
            record = RoundRecord.from_bytes(files.read_limited(path, RoundRecord.MAX_BYTES))
        except (FileNotFoundError, FormatError):
            try:
                record = self._library.client.round(run, number)
            except NotFound:
                return None
        return Ended(record.before, contents(record.envelopes, Contribution))

    def _merge(self, job: MergeJob, record: RoundRecord, plan: Plan) -> str:
        deltas = [each.delta for each in record.merged]
        for attempt in range(REPAIRS + 1):
            self._library.deltas(deltas, plan, record.fragment)
            try:
                with self._library.meter.span("replayed"):
                    return self._replayer.merge(job).state
            except (NotFound, HashMismatch):  # a blob was lost or damaged here: the bad one is gone now
                if attempt == REPAIRS:
                    raise
                self._library.message(plan.layout, Layout)
                self._library.message(plan.model, Model)
                self._library.state(job.state, plan, outer=True)
        raise AssertionError("the last attempt raises")


def blobs_of(store: BlobStore, digest: str) -> list[Blob]:
    """The manifest and the shards of an artifact that lies here."""
    data = store.read(digest, min(Artifact.MAX_BYTES, MAX_BLOB_BYTES))
    return [Blob(sha256=digest, bytes=len(data)), *Artifact.from_bytes(data).shards]
