"""Whole rounds over HTTP, with the real replay worker."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tapestry.core import operator
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore
from tests.core.support import LAYOUT, CoreUnderTest, Member, artifact, code, make_plan, shards


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "made"


@pytest.fixture
def plan(blobs: Path) -> Plan:
    return make_plan(blobs)


def merged_value(member: Member, state: str) -> float:
    """The one value that all elements of a state's base have, fetched over HTTP."""
    base = State.from_bytes(member.ask("GET", f"/v1/blobs/{state}").content).base
    manifest = Artifact.from_bytes(member.ask("GET", f"/v1/blobs/{base}").content)
    values = set()
    for shard, blob in zip(LAYOUT.shards, manifest.shards, strict=True):
        data = member.ask("GET", f"/v1/blobs/{blob.sha256}").content
        assert canonical.sha256(data) == blob.sha256
        values |= {v for (v,) in struct.iter_unpack("<f", data[len(shard.header) :])}
    assert len(values) == 1
    return values.pop()


def test_a_run_from_plan_to_finish(serving: CoreUnderTest, plan: Plan, blobs: Path) -> None:
    a, b = serving.running(plan, blobs, "ada", "bob")
    view = a.view()
    assert view.current is not None and view.current.round == 1 and view.enrolled == ("ada-1", "bob-1")
    receipt = a.hand_in(plan, 0.5)
    assert (receipt.node, receipt.round) == ("ada-1", 1)
    b.hand_in(plan, 0.25)
    view = a.wait(lambda v: v.head.merges == 1)
    # Nesterov from zero momentum: base − rate · (delta + momentum · delta)
    assert merged_value(b, view.head.state) == pytest.approx(1 - 0.7 * (0.375 + 0.9 * 0.375), rel=1e-6)
    record = RoundRecord.from_bytes(b.ask("GET", "/v1/runs/run/rounds/1").content)
    assert (record.before, record.after) == (plan.initial_state, view.head.state)
    assert [m.node for m in record.merged] == ["ada-1", "bob-1"]
    assert [canonical.sha256(e.encode()) for e in record.envelopes] == [m.contribution for m in record.merged]
    for member in (a, b):
        member.hand_in(plan, 0.1, round=2, state=view.head.state)
    done = a.wait(lambda v: v.status == "finished")
    assert done.head.merges == 2 and done.waiting_for is None
    assert operator.status(serving.root)["runs"][0]["status"] == "finished"
    assert serving.stop() == 0


def test_bad_contributions_disturb_nobody(serving: CoreUnderTest, plan: Plan, blobs: Path) -> None:
    a, b, c = serving.running(plan, blobs, "ada", "bob", "cyd")
    assert c.view().current is not None
    # ada and bob opened the round; cyd came later and is not expected yet
    assert code(c.contribute(c.contribution(plan, c.send_delta(0.1)))) == "refused"
    wrong_shape = artifact("delta", [d[:-4] for d in shards(0.1)]).to_bytes()
    a.put(wrong_shape)
    answer = a.contribute(a.contribution(plan, canonical.sha256(wrong_shape)))
    assert (answer.status_code, code(answer)) == (400, "artifact")
    wrong_kind = artifact("base", shards(0.1)).to_bytes()
    a.put(wrong_kind)
    assert code(a.contribute(a.contribution(plan, canonical.sha256(wrong_kind)))) == "artifact"
    assert a.put(b"no manifest").status_code == 200
    assert code(a.contribute(a.contribution(plan, canonical.sha256(b"no manifest")))) == "format"
    for other in (
        {"round": 2},
        {"state": "1" * 64},
        {"plan": "1" * 64},
        {"tokens": 1 << 40},
        {"run": "other"},
    ):
        answer = a.contribute(a.contribution(plan, canonical.sha256(b"x"), **other))
        assert code(answer) in ("refused", "not-found"), other
    a.hand_in(plan, float("nan"))
    b.hand_in(plan, 0.25)
    view = a.wait(lambda v: any(n.status == "refused" for n in v.current.nodes) if v.current else True)
    assert view.current is not None
    standing = {n.node: n for n in view.current.nodes}
    assert (standing["ada-1"].status, standing["ada-1"].reason) == ("refused", "not-finite")
    b.wait(lambda v: bool(v.current and [n.status for n in v.current.nodes] == ["refused", "accepted"]))
    a.hand_in(plan, 0.5)  # a refused node may try again
    view = a.wait(lambda v: v.head.merges == 1)
    assert merged_value(a, view.head.state) == pytest.approx(1 - 0.7 * (0.375 + 0.9 * 0.375), rel=1e-6)


def test_missing_blobs_are_named_and_receipts_repeat(serving: CoreUnderTest, plan: Plan, blobs: Path) -> None:
    a, _ = serving.running(plan, blobs, "ada", "bob")
    data = shards(0.5)
    manifest = artifact("delta", data).to_bytes()
    envelope = a.contribution(plan, canonical.sha256(manifest))
    answer = a.contribute(envelope)
    assert (answer.status_code, answer.json()["missing"]) == (409, [canonical.sha256(manifest)])
    a.put(manifest)
    assert a.contribute(envelope).json()["missing"] == list(dict.fromkeys(canonical.sha256(d) for d in data))
    for blob in data:
        a.put(blob)
    first = a.contribute(envelope)
    assert first.status_code == 200
    assert a.contribute(envelope).content == first.content
    other = a.contribute(a.contribution(plan, canonical.sha256(manifest), nonce="1" * 32))
    assert (other.status_code, code(other)) == (409, "conflict")
    events = a.ask("GET", "/v1/events?after=0&limit=1000").json()
    assert [e["type"] for e in events["entries"]].count("contribution-received") == 1
    assert events["head"] == events["entries"][-1]["sequence"]


def test_deadline_quorum_and_lateness(serving: CoreUnderTest, blobs: Path) -> None:
    plan = make_plan(blobs, min_nodes=2, quorum=1, deadline_s=1.5)
    a, b = serving.running(plan, blobs, "ada", "bob")
    envelope = b.contribution(plan, b.send_delta(0.2))
    a.hand_in(plan, 0.5)
    a.wait(lambda v: v.head.merges == 1)
    late = b.contribute(envelope)
    assert (late.status_code, code(late)) == (422, "refused")
    assert "late" in late.json()["error"]["message"]
    assert "late" in b.contribute(envelope).json()["error"]["message"]
    events = b.ask("GET", "/v1/events").json()["entries"]
    assert [e["type"] for e in events].count("contribution-late") == 1


def test_scores_once(serving: CoreUnderTest, plan: Plan, blobs: Path) -> None:
    a, _ = serving.running(plan, blobs, "ada", "bob")
    assert a.score(plan, 2.5).status_code == 200
    assert a.score(plan, 2.5).status_code == 200
    assert code(a.score(plan, 2.6)) == "conflict"
    assert code(a.score(plan, 2.5, state="1" * 64)) == "conflict"
    assert code(a.score(plan, 2.5, merges=9)) == "conflict"
    events = a.ask("GET", "/v1/events").json()["entries"]
    assert [e["type"] for e in events].count("score-published") == 1


def test_a_revised_plan_is_in_force_at_the_next_round(
    serving: CoreUnderTest, plan: Plan, blobs: Path
) -> None:
    a, b = serving.running(plan, blobs, "ada", "bob")
    new = plan.model_copy(update={"revision": 2, "inner": plan.inner.model_copy(update={"steps": 20})})
    operator.revise(serving.root, new)
    assert a.view().plan == plan.digest
    for member in (a, b):
        member.hand_in(plan, 0.5)
    view = a.wait(lambda v: v.head.merges == 1)
    assert view.plan == new.digest
    assert Plan.from_bytes(a.ask("GET", f"/v1/blobs/{new.digest}").content) == new


def test_a_damaged_base_is_shown_not_blamed_on_nodes(serving: CoreUnderTest, plan: Plan, blobs: Path) -> None:
    a, b = serving.running(plan, blobs, "ada", "bob")
    store = BlobStore.open(serving.root / "blobs")
    path = store.path(canonical.sha256(shards(1.0)[0]))
    good = path.read_bytes()
    path.unlink()  # a hard link to the folder the plan was made in
    path.write_bytes(b"\0" + good[1:])
    for member in (a, b):
        member.hand_in(plan, 0.5)
    view = a.wait(lambda v: bool(v.waiting_for and v.waiting_for.startswith("the core")))
    assert view.current is not None and view.current.phase == "merging"
    store.put(good)
    a.wait(lambda v: v.head.merges == 1)
