"""A core that lies to a node about rounds: records, states, heads."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tapestry.errors import (
    ArtifactError,
    IntegrityError,
    MergeMismatch,
    SignatureError,
    UnknownMember,
)
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.protocol.artifact import Artifact, Blob, State
from tapestry.protocol.messages import Contribution
from tapestry.protocol.views import RoundRecord
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.scene import Scene
from tests.attacks.switches import Switches
from tests.core.support import artifact, shards
from tests.node.test_records import KEYS, replaced

WHO = "a core, against a node"
Given = tuple[Any, ...]


# -- records ------------------------------------------------------------------------------------


def _weights(scene: Scene) -> RoundRecord:
    first, second = (merged.weight for merged in scene.good.merged)
    return scene.ended(replaced(replaced(scene.good, 0, weight=second), 1, weight=first))


def _one_unit(scene: Scene) -> RoundRecord:
    first, second = (merged.weight for merged in scene.good.merged)
    return scene.ended(replaced(replaced(scene.good, 0, weight=first - 1), 1, weight=second + 1))


def _left_out(scene: Scene) -> RoundRecord:
    """The contribution stays in the record and counts for nothing."""
    return scene.ended(replaced(replaced(scene.good, 0, weight=0), 1, weight=1 << 24))


def _other_delta(scene: Scene) -> RoundRecord:
    return scene.ended(replaced(scene.good, 0, delta=scene.put_delta(8.0)))


def _round(scene: Scene) -> RoundRecord:
    return scene.record(round=2)


def _run(scene: Scene) -> RoundRecord:
    return scene.record(run="another")


def _plan(scene: Scene) -> RoundRecord:
    return scene.record(plan="0" * 64)


def _state(scene: Scene) -> RoundRecord:
    return scene.record(state="0" * 64)


def _consortium(scene: Scene) -> RoundRecord:
    return scene.record(consortium="0" * 64)


def _stranger(scene: Scene) -> RoundRecord:
    return scene.record(keys={**KEYS, "fr": KeyPair.generate()})


def _swapped_keys(scene: Scene) -> RoundRecord:
    return scene.record(keys={"de": KEYS["fr"], "fr": KEYS["de"]})


def _forged(scene: Scene) -> RoundRecord:
    """Other words under a good signature."""
    text = scene.good.envelopes[0]
    other = scene.record(nonce="1" * 32).envelopes[0]
    good, changed = (Envelope.from_bytes(each.encode()) for each in (text, other))
    forged = Envelope(payload=changed.payload, payloadType=good.payloadType, signatures=good.signatures)
    record = scene.good.model_copy(
        update={"envelopes": (forged.to_bytes().decode(), scene.good.envelopes[1])}
    )
    return replaced(record, 0, contribution=forged.digest)


def _fragment(scene: Scene) -> RoundRecord:
    return scene.record(fragment=1).model_copy(update={"fragment": 1})


def _before(scene: Scene) -> RoundRecord:
    """From another base than this node has: a split."""
    base = artifact("base", shards(2.0))
    for blob in (*shards(2.0), base.to_bytes()):
        scene.core.store.put(blob)
    first = State.from_bytes(scene.core.store.read(scene.plan.initial_state))
    other = scene.core.store.put(first.model_copy(update={"base": base.digest}).to_bytes())
    record = scene.record(state=other)
    return scene.ended(record.model_copy(update={"before": other}))


REPEAT = "tapestry.node.sync.Synchronizer._repeat"
RECORDS, PEOPLE = "tapestry.rounds.records.check_merged", "tapestry.node.people"
WEIGHED = (f"{RECORDS}", "weights != tuple(merged.weight for merged in record.merged)")
BOUND = (RECORDS, "not bound or not 0 <= lag <= plan.rounds.staleness")


@attacks(
    case(
        "record-with-other-weights",
        "swaps two weights after the fact",
        "weights follow from the plan",
        _weights,
        MergeMismatch,
        WEIGHED,
    ),
    case(
        "record-off-by-one-unit",
        "moves a 2^-24 of weight from one to another",
        "weights are whole numbers",
        _one_unit,
        MergeMismatch,
        WEIGHED,
    ),
    case(
        "contribution-weighed-nothing",
        "gives a contribution no weight and the others more",
        "weights follow from the plan",
        _left_out,
        MergeMismatch,
        WEIGHED,
    ),
    case(
        "record-with-another-delta",
        "merges other bytes than were signed",
        "an envelope names its delta",
        _other_delta,
        SignatureError,
        (RECORDS, "(one.node, one.member, one.delta) != (merged.node, merged.member, merged.delta)"),
    ),
    case(
        "contribution-of-another-round-merged",
        "merges what was signed for another round",
        "an envelope names its round",
        _round,
        SignatureError,
        BOUND,
    ),
    case(
        "contribution-of-another-run-merged",
        "merges what was signed for another run",
        "an envelope names its run",
        _run,
        SignatureError,
        BOUND,
    ),
    case(
        "contribution-under-another-plan-merged",
        "merges what was signed under other rules",
        "an envelope names its plan",
        _plan,
        SignatureError,
        BOUND,
    ),
    case(
        "contribution-from-another-state-merged",
        "merges what was trained from another base",
        "an envelope names its state",
        _state,
        SignatureError,
        (RECORDS, "one.state != _base(record, one.round, earlier)"),
    ),
    case(
        "contribution-of-another-consortium-merged",
        "merges what was signed for another consortium",
        "an envelope names its consortium",
        _consortium,
        SignatureError,
        (
            f"{PEOPLE}.check_record",
            "contribution.consortium != consortium or envelope.digest != merged.contribution",
        ),
    ),
    case(
        "contribution-nobody-signed",
        "makes up a contribution under a key of its own",
        "only certified keys count",
        _stranger,
        UnknownMember,
        (f"{PEOPLE}.People.verify", None, lambda _, envelope: (envelope.unverified(Contribution), None)),
    ),
    case(
        "contribution-signed-by-another",
        "puts contributions under each other's names",
        "an envelope names the node whose key has signed it",
        _swapped_keys,
        SignatureError,
        (
            f"{PEOPLE}.People.verify",
            "(contribution.member, contribution.node) != (holder.member, holder.node)",
        ),
    ),
    case(
        "contribution-altered-after-signing",
        "changes what stands under a member's signature",
        "Ed25519",
        _forged,
        SignatureError,
        ("tapestry.identity.keys.verify", None),
    ),
    case(
        "fragment-out-of-turn",
        "merges a part of the model that is not due",
        "fragments take turns",
        _fragment,
        IntegrityError,
        (REPEAT, "record.fragment != (due := at.merges % plan.streaming.fragments)"),
        ("tapestry.protocol.layout.Layout.fragment", None, lambda layout, _: layout.fragment_at(0)),
    ),
    case(
        "another-base-for-one-node",
        "tells one node of a round from another base than the others",
        "a record goes on from the state the node has",
        _before,
        IntegrityError,
        (REPEAT, "record.before != at.state"),
        (REPEAT, "result != record.after"),
    ),
)
def test_a_record(scene: Scene, switches: Switches, given: Given) -> None:
    make, error, *off = given
    lie = make(scene)
    with pytest.raises(error):
        scene.told(lie)
    scene.unharmed()
    with switches.all_off(*off):
        assert scene.told(lie).state == lie.after


@attack(
    "contribution-left-out-of-the-record",
    tries="leaves a contribution out of a round's record, has the other's weight fit, and merges that",
    stopped_by="a node repeats what its own ledger says was merged",
)
def test_left_out_of_the_record(scene: Scene, switches: Switches) -> None:
    scene.stated = {1: scene.good.merged}
    lie = scene.record(names=("de",))
    assert len(lie.merged) == 1 and lie.merged[0].weight == 1 << 24
    with pytest.raises(MergeMismatch, match="merges other contributions"):
        scene.told(lie)
    scene.unharmed()
    with switches.check_off(REPEAT, "stated is not None and stated != record.merged"):
        assert scene.told(lie).state == lie.after


@attack(
    "record-without-an-envelope",
    tries="states a contribution and does not show it",
    stopped_by="each contribution has its envelope",
)
def test_no_envelope(scene: Scene, switches: Switches) -> None:
    lie = scene.good.model_copy(update={"envelopes": scene.good.envelopes[:1]})
    with pytest.raises(IntegrityError, match="envelope"):
        scene.told(lie)
    scene.unharmed()
    with (
        switches.check_off(f"{PEOPLE}.check_record", "len(record.envelopes) != len(record.merged)"),
        pytest.raises(ValueError, match="shorter"),
    ):
        scene.told(lie)  # an error that is no typed one ends the agent


# -- states -------------------------------------------------------------------------------------


@attack(
    "merge-off-by-one-ulp",
    tries="gives a merged base in which one number differs in its last bit",
    stopped_by="the node repeats the merge, bit for bit",
)
def test_one_ulp(scene: Scene, switches: Switches) -> None:
    store = scene.core.store
    state = State.from_bytes(store.read(scene.good.after))
    base = Artifact.from_bytes(store.read(state.base))
    data = bytearray(store.read(base.shards[0].sha256))
    data[-4:] = struct.pack("<I", struct.unpack("<I", data[-4:])[0] + 1)
    other = base.model_copy(
        update={"shards": (Blob(sha256=store.put(data), bytes=len(data)), *base.shards[1:])}
    )
    after = store.put(state.model_copy(update={"base": store.put(other.to_bytes())}).to_bytes())
    lie = scene.good.model_copy(update={"after": after})
    with pytest.raises(MergeMismatch, match="this node's merge gives"):
        scene.told(lie)
    scene.unharmed()
    with switches.check_off(REPEAT, "result != record.after"):
        assert scene.told(lie).state == after


@attack(
    "head-that-no-record-leads-to",
    tries="shows true records and another head",
    stopped_by="the records must lead to the head",
)
def test_another_head(scene: Scene, switches: Switches) -> None:
    with pytest.raises(MergeMismatch, match="another state than its head"):
        scene.told(scene.good, state="b" * 64)
    for path in scene.home.records.iterdir():
        path.unlink()
    scene.unharmed()
    with switches.check_off("tapestry.node.sync.Synchronizer._replay", "at.state != view.head.state"):
        scene.told(scene.good, state="b" * 64)


@attacks(
    case(
        "state-of-another-run",
        "gives a newcomer the state of another run",
        "a state names its run",
        {"run": "other"},
        ArtifactError,
        ("tapestry.node.sync.Library.state", "(state.run, state.model) != (plan.begins(sha), plan.model)"),
    ),
    case(
        "state-of-another-model",
        "gives a newcomer the state of another model",
        "a state names its model",
        {"model": "0" * 64},
        ArtifactError,
        ("tapestry.node.sync.Library.state", "(state.run, state.model) != (plan.begins(sha), plan.model)"),
    ),
    case(
        "older-state-as-the-head",
        "gives a newcomer an old state as the newest",
        "a state counts its merges",
        {"merges": 0},
        IntegrityError,
        ("tapestry.node.sync.Synchronizer._fetch", "state.merges != head.merges"),
    ),
)
def test_a_state(scene: Scene, switches: Switches, given: Given) -> None:
    fields, error, off = given
    good = State.from_bytes(scene.core.store.read(scene.good.after))
    state = scene.core.store.put(good.model_copy(update=fields).to_bytes())
    with pytest.raises(error):
        scene.sync.advance(None, scene.view(state), scene.plan)
    assert scene.sync.advance(None, scene.view(scene.good.after), scene.plan)[0].state == scene.good.after
    with switches.check_off(*off):
        assert scene.sync.advance(None, scene.view(state), scene.plan)[0].state == state


@attack(
    "base-of-unbounded-size",
    tries="gives a newcomer a base of 12 GiB for a model of 10 KiB",
    stopped_by="manifests are held against the layout before a shard is fetched",
)
def test_a_large_base(scene: Scene, switches: Switches) -> None:
    store = scene.core.store
    shard = Blob(sha256="7" * 64, bytes=64 << 20)
    base = artifact("base", shards(1.0)).model_copy(update={"shards": (shard,) * 3})
    good = State.from_bytes(store.read(scene.good.after))
    state = store.put(good.model_copy(update={"base": store.put(base.to_bytes())}).to_bytes())
    asked: list[Blob] = []
    scene.core.download_blobs = lambda blobs, _: asked.extend(blobs) or 0  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match="bytes"):
        scene.sync.advance(None, scene.view(state), scene.plan)
    assert shard not in asked
    with switches.check_off(
        "tapestry.protocol.artifact.Artifact.check_against", "blob.bytes != shard.total_bytes"
    ):
        scene.sync.advance(None, scene.view(state), scene.plan)
    assert shard in asked
    del scene.core.download_blobs
    scene.unharmed()
