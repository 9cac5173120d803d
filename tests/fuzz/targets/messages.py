"""Messages: canonical JSON under closed schemas, each with what its reader does next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapestry.audit.heads import signed_checkpoint, tree_of
from tapestry.audit.verify import Verifier
from tapestry.ledger.entries import Entry, consortium_event
from tapestry.ledger.tree import HASH_BYTES
from tapestry.node.kept import Verified
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.clock import parse_time
from tapestry.protocol.layout import Layout
from tapestry.protocol.message import Message
from tapestry.protocol.messages import (
    Attestation,
    Contribution,
    Enrolment,
    KeyCertificate,
    KeyRevocation,
    Progress,
    Receipt,
    RequestProof,
    Score,
    Succession,
    SuccessionRequest,
)
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import Hello, RoundRecord, RunView
from tapestry.replay.job import (
    Failure,
    MergeJob,
    MergeResult,
    OverlapJob,
    Overlapped,
    ScreenJob,
    Sketched,
)
from tapestry.rounds.events import parse_event
from tapestry.rounds.records import check_merged
from tapestry.training.checkpoint import InnerFile, InnerState
from tapestry.training.spool import TextScore, TrainJob, TrainResult
from tests.fuzz import made
from tests.fuzz.mutate import json_bytes
from tests.fuzz.target import MIB, Parser, Target


def _message(kind: type[Any], *seeds: Message, then: Callable[[Any], object] = str) -> Target:
    """A target for one message; `then` is what its reader asks of it."""
    data = [seed.to_bytes() for seed in seeds]

    def call(given: bytes) -> bytes:
        message = kind.from_bytes(given)
        then(message)
        told: bytes = message.to_bytes()
        return told

    return Target(
        name=kind.format_name().removeprefix("tapestry."),
        open=lambda: Parser(seeds=data, call=call),
        mutate=json_bytes,
    )


def _layout(layout: Layout) -> None:
    fragment = layout.fragment_at(3)
    assert len(layout.shards) <= 1 << 20
    assert len(fragment.shards[0].header) <= 8 * MIB


def _plan(plan: Plan) -> None:
    assert plan.total_steps >= 0
    plan.inner.tokens_in(plan.inner.steps_at(1 << 30, "slow"))
    assert plan.codec.most_bytes(made.SHARD) >= 0
    plan.codec.head(made.SHARD)


def _artifact(artifact: Artifact) -> None:
    assert artifact.total_bytes >= 0
    artifact.check_against(made.LAYOUT, kind="delta", codec=made.CODECS["topk"])


def _entry(entry: Entry) -> None:
    parse_time(entry.at)
    if entry.scope == "consortium":
        consortium_event(entry)
    else:
        parse_event(entry.type, entry.body)


def _contribution(said: Contribution) -> None:
    if said.checkpoint is not None:
        signed_checkpoint(said.checkpoint, made.CONSORTIUM_ID, lambda _: made.CORE.public_key)


def _attestation(said: Attestation) -> None:
    tree_of(said, made.WITNESS.public_key, made.CONSORTIUM_ID)


def _verified(found: Verified) -> None:
    Verifier().restore(found.verifier, bytes(ROOTS[: found.entries * HASH_BYTES]))


def _record(record: RoundRecord) -> None:
    from tapestry.identity.envelope import contents

    said = contents(record.envelopes, Contribution)
    if len(said) == len(record.merged):
        check_merged(record, made.PLAN, said)


def _stood() -> tuple[Verifier, tuple[Verified, ...]]:
    """A verification at its end, and as a node keeps it: there, and before the first entry."""
    verifier = Verifier()
    first = verifier.to_json()
    verifier.take(made.ledger()[0])
    last = made.ledger()[0][-1][1]
    stood = (
        Verified(entries=verifier.found.entries, bytes=20_000, checkpoint=last, verifier=verifier.to_json()),
        Verified(entries=0, bytes=0, checkpoint="", verifier=first),
    )
    return verifier, stood


VERIFIER, VERIFIED = _stood()
ROOTS = VERIFIER.roots
RESULT = TrainResult(
    run="run",
    plan=made.PLAN.digest,
    round=1,
    merges=0,
    state=made.H[2],
    delta=made.ARTIFACT.digest,
    tokens=20480,
    steps=10,
    data_manifest=made.H[6],
    loss=2.5,
    score=TextScore(bits_per_byte=2.25, bytes=4096),
    environment={"torch": "2.13.0"},
    train_s=1.5,
    evaluate_s=0.5,
)
JOB = TrainJob(
    run="run", plan=made.PLAN, round=1, merges=0, state=made.H[2], base=made.H[4], train=True, evaluate=True
)
INNER = InnerState(
    **{"run": "run", "plan": made.PLAN.digest, "layout": made.LAYOUT.digest, "round": 1, "merges": 0},
    **{
        "state": made.H[2],
        "step": 3,
        "of_steps": 10,
        "parameters": True,
        "position": 24,
        "optimizer_steps": 3,
    },
    losses=(3.5, 3.25, 3.0),
    files=(InnerFile(name="shard-00001-model-00001-of-00001.safetensors", bytes=100, sha256=made.H[9]),),
)
MERGE_JOB = MergeJob.of(made.PLAN, state=made.H[2], contributions=(made.MERGED,), durable=True)
OVERLAP_JOB = OverlapJob(
    seed=made.H[3],
    run="run",
    round=2,
    delta=made.H[1],
    largest=0.6,
    others=(Sketched(round=1, delta=made.H[2], own=True), Sketched(round=1, delta=made.H[4], own=False)),
)
MERGE_RESULT = MergeResult(state=made.H[7], base=made.H[8], outer=None, seconds=0.5, input_bytes=1 << 20)
PROOF = RequestProof(
    consortium=made.CONSORTIUM_ID, method="GET", target="/v1/runs?a=1", body=made.H[0], at=made.AT
)


def _canonical() -> Parser:
    """Any JSON at all; what is accepted is its own encoding."""
    seeds = [
        *(made.PLAN.to_bytes(), made.VIEW.to_bytes(), made.SPLIT.to_bytes(), b"[]", b"{}", b'"x"'),
        canonical.encode([0.5, 1e-7, 1e21, 9007199254740991, None, True, {"é": "\u2028", "a": [[]]}]),
    ]
    return Parser(seeds=seeds, call=lambda data: canonical.encode(canonical.decode(data)))


TARGETS: Sequence[Target] = (
    Target(name="canonical", open=_canonical, mutate=json_bytes),
    _message(Artifact, made.ARTIFACT, then=_artifact),
    _message(Layout, made.LAYOUT, made.SPLIT, then=_layout),
    _message(Plan, made.PLAN, made.plan(codec=made.CODECS["topk-wide"]), then=_plan),
    _message(Model, made.MODEL),
    _message(State, made.STATE),
    _message(KeyCertificate, made.certificate().unverified(KeyCertificate)),
    _message(KeyRevocation, made.REVOCATION.unverified(KeyRevocation)),
    _message(Enrolment, made.ENROLMENT),
    _message(Contribution, made.CONTRIBUTION, made.FOLLOWED, then=_contribution),
    _message(Attestation, made.ATTESTATION, then=_attestation),
    _message(Succession, made.SUCCESSION),
    _message(SuccessionRequest, made.REQUEST),
    _message(Verified, *VERIFIED, then=_verified),
    _message(Receipt, made.RECEIPT),
    _message(Score, made.SCORE),
    _message(Progress, made.PROGRESS),
    _message(RequestProof, PROOF),
    _message(Hello, made.HELLO),
    _message(RunView, made.VIEW, then=lambda view: view.gist_for("ada-1")),
    _message(RoundRecord, made.RECORD, then=_record),
    _message(Entry, *made.CONSORTIUM_EVENTS, *made.RUN_EVENTS, then=_entry),
    _message(TrainResult, RESULT),
    _message(TrainJob, JOB, then=lambda job: job.round_steps),
    _message(InnerState, INNER),
    _message(MergeJob, MERGE_JOB),
    _message(MergeResult, MERGE_RESULT),
    _message(ScreenJob, ScreenJob(delta=made.H[1], layout=made.H[2], codec=made.CODECS["topk"])),
    _message(OverlapJob, OVERLAP_JOB),
    _message(
        Overlapped, Overlapped(nearest=1, overlap=0.7, allowed=0.6, lacking=(0,)), then=lambda o: o.copied
    ),
    _message(Failure, Failure(code="disk-full", message="no space", hint=None), then=lambda f: f.error()),
)
