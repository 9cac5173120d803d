"""What a node checks of a round before it believes it, and what it does when a merge comes out otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import (
    ArtifactError,
    HashMismatch,
    IntegrityError,
    MergeMismatch,
    NotFound,
    SignatureError,
    TapestryError,
)
from tapestry.identity.envelope import sign
from tapestry.identity.keys import KeyPair
from tapestry.node.home import Home
from tapestry.node.memory import HeadMemory
from tapestry.node.people import People, check_record
from tapestry.node.sync import MAX_REPLAYED_ROUNDS, Library, Synchronizer
from tapestry.protocol.artifact import Blob, State
from tapestry.protocol.messages import Contribution, Merged
from tapestry.protocol.plan import Plan, Retention
from tapestry.protocol.views import Head, RoundRecord, RunView
from tapestry.replay.job import MergeJob, MergeResult
from tapestry.rounds.weights import Share, merge_weights
from tapestry.storage.blobs import BlobStore
from tests.core.support import EMPTY, LAYOUT, artifact, make_plan, shards

CONSORTIUM = "c" * 64
KEYS = {name: KeyPair.generate() for name in ("de", "fr")}
AFTER = "a" * 64


class Core:
    """What a `CoreClient` offers, in memory."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.records: dict[int, RoundRecord] = {}
        self.known = dict(KEYS)
        self.downloads: list[str] = []
        self.asked_members = 0

    def members(self) -> Any:
        self.asked_members += 1
        members = [
            {
                "member": name,
                "keys": [
                    {"key_id": k.key_id, "node": f"{name}-1", "role": "node", "public_key": k.public_key}
                ],
            }
            for name, k in self.known.items()
        ]
        return {"members": members}

    def round(self, _run: str, number: int) -> RoundRecord:
        if number not in self.records:
            raise NotFound("abandoned")
        return self.records[number]

    def download(self, sha: str, store: BlobStore, *, max_bytes: int) -> None:
        store.put(self.store.read(sha, max_bytes), durable=False)
        self.downloads.append(sha)

    def download_blobs(self, blobs: Sequence[Blob], store: BlobStore) -> int:
        for blob in blobs:
            self.download(blob.sha256, store, max_bytes=blob.bytes)
        return 0


class Replay:
    """Answers with a state of the test's choice."""

    def __init__(self) -> None:
        self.jobs: list[MergeJob] = []
        self.state = AFTER
        self.errors: list[TapestryError] = []

    def merge(self, job: MergeJob) -> MergeResult:
        self.jobs.append(job)
        if self.errors:
            raise self.errors.pop(0)
        return MergeResult(state=self.state, base=AFTER, outer=None, seconds=0.0, input_bytes=0)


class Scene:
    """A run with one committed round of two contributions."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.home = Home(folder / "node")
        self.home.make_folders()
        self.core = Core(BlobStore.open(folder / "core"))
        self.plan: Plan = make_plan(folder / "core")
        if plan:
            self.plan = self.plan.model_copy(update=plan)
        self.core.store.put(self.plan.to_bytes())
        self.replay = Replay()
        self.people = People(self.core)  # type: ignore[arg-type]
        library = Library(self.core, BlobStore.open(self.home.blobs))  # type: ignore[arg-type]
        self.sync = Synchronizer(self.home, library, self.replay, CONSORTIUM, self.people)  # type: ignore[arg-type]
        self.deltas = {name: self.put_delta(float(number)) for number, name in enumerate(KEYS, 2)}
        self.record = self.make_record()
        self.core.records[1] = self.record
        self.start = HeadMemory(merges=0, state=self.plan.initial_state, round=0)

    def put_delta(self, value: float) -> str:
        data = shards(value)
        for blob in data:
            self.core.store.put(blob, durable=False)
        return self.core.store.put(artifact("delta", data).to_bytes(), durable=False)

    def contribution(self, name: str, **other: Any) -> Contribution:
        fields: dict[str, Any] = {
            "consortium": CONSORTIUM,
            "run": "run",
            "plan": self.plan.digest,
            "round": 1,
            "fragment": 0,
            "member": name,
            "node": f"{name}-1",
            "state": self.plan.initial_state,
            "delta": self.deltas[name],
            "tokens": 1000 if name == "fr" else 3000,
            "steps": 10,
            "data_manifest": EMPTY,
            "environment": {},
            "nonce": "0" * 32,
        }
        return Contribution(**(fields | other))

    def make_record(self, *, keys: dict[str, KeyPair] = KEYS, **other: Any) -> RoundRecord:
        said = {name: self.contribution(name, **other) for name in sorted(KEYS)}
        envelopes = {name: sign(message, keys[name]) for name, message in said.items()}
        shares = [Share(member=m.member, node=m.node, tokens=m.tokens) for m in said.values()]
        weights = merge_weights(shares, weighting="tokens", influence_cap=1.0)
        merged = tuple(
            Merged(
                node=m.node, member=m.member, contribution=envelopes[n].digest, delta=m.delta, weight=weight
            )
            for (n, m), weight in zip(said.items(), weights, strict=True)
        )
        return RoundRecord(
            run="run",
            round=1,
            fragment=0,
            plan=self.plan.digest,
            before=self.plan.initial_state,
            after=AFTER,
            merged=merged,
            envelopes=tuple(e.to_bytes().decode() for e in envelopes.values()),
        )

    def view(self, merges: int = 1, state: str = AFTER, round: int = 1) -> RunView:
        return RunView(
            run="run",
            status="running",
            waiting_for=None,
            sequence=9,
            plan=self.plan.digest,
            head=Head(merges=merges, state=state, round=round),
            current=None,
            enrolled=(),
        )

    def check(self, record: RoundRecord) -> None:
        check_record(record, self.plan, CONSORTIUM, self.people)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# -- records ------------------------------------------------------------------------------------


def test_a_good_record(scene: Scene) -> None:
    scene.check(scene.record)
    scene.check(scene.record)
    assert scene.core.asked_members == 1


def test_a_key_that_is_new_is_asked_for(scene: Scene) -> None:
    scene.check(scene.record)
    new = KeyPair.generate()
    scene.core.known = {**KEYS, "fr": new}
    scene.check(scene.make_record(keys={**KEYS, "fr": new}))
    assert scene.core.asked_members == 2


@pytest.mark.parametrize(
    "other",
    [
        {"round": 2},
        {"run": "another"},
        {"fragment": 1},
        {"consortium": "0" * 64},
        {"plan": "0" * 64},
        {"state": "0" * 64},
    ],
)
def test_a_contribution_signed_for_something_else(scene: Scene, other: dict[str, Any]) -> None:
    with pytest.raises(SignatureError, match="something else"):
        scene.check(scene.make_record(**other))


def replaced(record: RoundRecord, index: int, **fields: Any) -> RoundRecord:
    merged = list(record.merged)
    merged[index] = merged[index].model_copy(update=fields)
    return record.model_copy(update={"merged": tuple(merged)})


def test_a_record_that_states_otherwise_than_was_signed(scene: Scene) -> None:
    for fields in ({"delta": "0" * 64}, {"node": "x-1"}, {"member": "x"}, {"contribution": "0" * 64}):
        with pytest.raises(SignatureError):
            scene.check(replaced(scene.record, 0, **fields))
    one_less = scene.record.model_copy(update={"envelopes": scene.record.envelopes[:1]})
    with pytest.raises(IntegrityError, match="envelope"):
        scene.check(one_less)


# -- heads --------------------------------------------------------------------------------------


def test_the_same_head_needs_nothing(scene: Scene) -> None:
    at = HeadMemory(merges=1, state=AFTER, round=1)
    assert scene.sync.advance(at, scene.view(), scene.plan) == (at, 0)
    assert scene.core.downloads == []


def test_a_merge_is_repeated(scene: Scene) -> None:
    head, replayed = scene.sync.advance(scene.start, scene.view(), scene.plan)
    assert (head, replayed) == (HeadMemory(merges=1, state=AFTER, round=1, repeated=True), 1)
    job = scene.replay.jobs[0]
    assert (job.contributions, job.state) == (scene.record.merged, scene.plan.initial_state)
    assert set(scene.deltas.values()) <= set(scene.core.downloads)
    assert (scene.home.records / "run.1.json").read_bytes() == scene.record.to_bytes()


def test_another_result_than_the_core_recorded(scene: Scene) -> None:
    scene.replay.state = "b" * 64
    with pytest.raises(MergeMismatch, match="this node's merge gives state bbbb"):
        scene.sync.advance(scene.start, scene.view(), scene.plan)
    assert not list(scene.home.records.iterdir())


def test_records_that_lead_elsewhere(scene: Scene) -> None:
    with pytest.raises(MergeMismatch, match="another state than its head"):
        scene.sync.advance(scene.start, scene.view(state="b" * 64), scene.plan)
    other_start = scene.start.model_copy(update={"state": "9" * 64})
    with pytest.raises(IntegrityError, match="starts from state"):
        scene.sync.advance(other_start, scene.view(), scene.plan)
    del scene.core.records[1]
    with pytest.raises(IntegrityError, match="no record"):
        scene.sync.advance(scene.start, scene.view(), scene.plan)


def test_an_abandoned_round_is_passed_over(scene: Scene) -> None:
    record = scene.core.records.pop(1)
    envelopes = scene.make_record(round=3)
    scene.core.records[3] = envelopes.model_copy(update={"round": 3})
    head, _ = scene.sync.advance(scene.start, scene.view(round=3), scene.plan)
    assert head == HeadMemory(merges=1, state=AFTER, round=3, repeated=True)
    assert record.round == 1


def test_what_was_lost_here_is_fetched_and_the_merge_tried_again(scene: Scene) -> None:
    scene.replay.errors = [HashMismatch("base: a blob holds other bytes")]
    scene.sync.advance(scene.start, scene.view(), scene.plan)
    assert len(scene.replay.jobs) == 2
    state = State.from_bytes(scene.core.store.read(scene.plan.initial_state))
    assert state.base in scene.core.downloads
    scene.replay.errors = [NotFound("x")] * 5
    with pytest.raises(NotFound):
        scene.sync.advance(scene.start, scene.view(), scene.plan)


def test_a_lost_layout_or_model_is_fetched_for_a_merge(scene: Scene) -> None:
    store = BlobStore.open(scene.home.blobs)
    scene.sync.advance(None, scene.view(merges=0, state=scene.plan.initial_state, round=0), scene.plan)
    for sha in (scene.plan.layout, scene.plan.model):
        store.delete(sha)
        scene.replay.errors = [NotFound(f"blob {sha} is not here")]
        scene.sync.advance(scene.start, scene.view(), scene.plan)
        assert store.has(sha)


def test_a_state_is_fetched_where_the_deltas_are_kept_no_more(tmp_path: Path) -> None:
    scene = Scene(tmp_path, retention=Retention(blob_rounds=1))
    first = State.from_bytes(scene.core.store.read(scene.plan.initial_state))
    third = scene.core.store.put(first.model_copy(update={"merges": 3}).to_bytes())
    view = scene.view(round=3).model_copy(update={"head": Head(merges=3, state=third, round=3)})
    _, replayed = scene.sync.advance(scene.start, view, scene.plan)
    assert replayed == 0 and not scene.replay.jobs


@pytest.mark.parametrize("reason", ["joining", "plan", "far behind", "core restored"])
def test_a_state_is_fetched_where_nothing_can_be_repeated(tmp_path: Path, reason: str) -> None:
    scene = Scene(tmp_path, **({"sync": "fetch"} if reason == "plan" else {}))
    merges = MAX_REPLAYED_ROUNDS + 1 if reason == "far behind" else 1
    first = State.from_bytes(scene.core.store.read(scene.plan.initial_state))
    state = scene.core.store.put(first.model_copy(update={"merges": merges}).to_bytes())
    ahead = HeadMemory(merges=7, state="7" * 64, round=7)
    at = {"joining": None, "core restored": ahead}.get(reason, scene.start)
    head, replayed = scene.sync.advance(at, scene.view(merges, state, merges), scene.plan)
    assert (head.state, replayed, scene.replay.jobs) == (state, 0, [])
    store = BlobStore.open(scene.home.blobs)
    assert all(store.read(canonical) for canonical in (first.base, state, scene.plan.layout))


def test_a_state_that_is_not_what_the_core_says(scene: Scene) -> None:
    first = State.from_bytes(scene.core.store.read(scene.plan.initial_state))
    for fields, error in (
        ({"merges": 5}, IntegrityError),
        ({"run": "other", "merges": 1}, ArtifactError),
        ({"model": "0" * 64, "merges": 1}, ArtifactError),
    ):
        state = scene.core.store.put(first.model_copy(update=fields).to_bytes())
        with pytest.raises(error):
            scene.sync.advance(None, scene.view(1, state), scene.plan)


def test_a_base_of_another_layout(scene: Scene) -> None:
    first = State.from_bytes(scene.core.store.read(scene.plan.initial_state))
    wrong = artifact("delta", shards(1.0))
    state = first.model_copy(update={"base": scene.core.store.put(wrong.to_bytes()), "merges": 1})
    before = list(scene.core.downloads)
    with pytest.raises(ArtifactError, match="kind base"):
        scene.sync.advance(None, scene.view(1, scene.core.store.put(state.to_bytes())), scene.plan)
    fetched = set(scene.core.downloads) - set(before)
    assert not fetched & {blob.sha256 for blob in wrong.shards}
    assert LAYOUT.digest in fetched
