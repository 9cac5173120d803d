"""The core is killed at each of its failpoints; nothing it acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapestry.core import operator, settings
from tapestry.errors import Busy, PortInUse, SettingsError
from tapestry.identity.envelope import Envelope
from tapestry.protocol import canonical
from tapestry.protocol.messages import Receipt
from tapestry.protocol.views import RoundRecord
from tests.core.support import CoreUnderTest, artifact, make_plan, shards

pytestmark = pytest.mark.long


class Restarting:
    """A member's requests, with the core started again whenever it dies."""

    def __init__(self, core: CoreUnderTest) -> None:
        self.core = core
        self.deaths = 0

    def __call__(self, request: Any, *args: Any, **more: Any) -> Any:
        for _ in range(20):
            try:
                answer = request(*args, **more)
            except httpx.TransportError:
                self.revive()
                continue
            return answer
        raise AssertionError("the core keeps dying")

    def revive(self) -> None:
        process = self.core.process
        assert process is not None
        deadline = time.monotonic() + 5
        while process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not process.is_alive():
            self.core.wait()
            self.deaths += 1
            self.core.start()


@pytest.mark.parametrize(
    "failpoint",
    [
        *(f"core.event.before-commit:{n}" for n in (1, 3, 5)),
        *(f"core.event.after-commit:{n}" for n in (2, 4, 6)),
        "core.merge.before-record",
        "core.blob.received:2",
    ],
)
def test_killed_anywhere(core: CoreUnderTest, tmp_path: Path, failpoint: str) -> None:
    plan = make_plan(tmp_path / "made", total=1)
    operator.plan(core.root, plan, tmp_path / "made")
    operator.start(core.root, "run")
    core.start(TAPESTRY_FAILPOINT=failpoint)
    again = Restarting(core)
    receipts: dict[str, bytes] = {}
    for name in ("ada", "bob"):
        member = core.member(name, join=False)
        token, certificate = operator.invite(core.root, name), member.certificate()
        assert again(member.join, token, certificate).status_code == 200
        assert again(member.enrol, plan).status_code == 200
    for name, value in (("ada", 0.5), ("bob", 0.25)):
        member = core.members[name]
        data = shards(value)
        manifest = artifact("delta", data).to_bytes()
        envelope = member.contribution(plan, canonical.sha256(manifest))
        for blob in (*data, manifest):
            assert again(member.put, blob).status_code in (200, 409)
        answer = again(member.contribute, envelope)
        assert answer.status_code == 200, answer.text
        receipts[name] = answer.content
        assert again(member.contribute, envelope).content == answer.content
    ada = core.members["ada"]
    deadline = time.monotonic() + 60
    while (view := again(ada.view)).status != "finished":
        assert time.monotonic() < deadline, view
        time.sleep(0.1)
    assert again.deaths == 1
    assert view.head.merges == 1
    events = ada.ask("GET", "/v1/events").json()["entries"]
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    count = Counter(e["type"] for e in events)
    assert (count["member-admitted"], count["node-enrolled"]) == (2, 2)
    assert (count["contribution-received"], count["contribution-accepted"]) == (2, 2)
    assert (count["round-opened"], count["round-closed"], count["round-committed"]) == (1, 1, 1)
    record = RoundRecord.from_bytes(ada.ask("GET", "/v1/runs/run/rounds/1").content)
    told = {Envelope.from_bytes(r).open_as(Receipt, ada.core_key()).contribution for r in receipts.values()}
    assert {m.contribution for m in record.merged} == told
    expected = reference_state(tmp_path, plan)
    assert view.head.state == expected


_reference: dict[str, str] = {}


def reference_state(tmp_path: Path, plan: Any) -> str:
    """The state that a run without any fault ends in."""
    if plan.digest not in _reference:
        core = CoreUnderTest(tmp_path / "faultless")
        try:
            core.start()
            for member, value in zip(
                core.running(plan, tmp_path / "made", "ada", "bob"), (0.5, 0.25), strict=True
            ):
                member.hand_in(plan, value)
            done = member.wait(lambda v: v.status == "finished")
            _reference[plan.digest] = done.head.state
        finally:
            core.close()
    return _reference[plan.digest]


def test_killed_in_the_middle_of_a_merge_by_the_replay_worker(core: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made", total=1)
    core.start(TAPESTRY_FAILPOINT="replay.shard.written:2", TAPESTRY_FAILPOINT_ONCE=str(tmp_path / "once"))
    members = core.running(plan, tmp_path / "made", "ada", "bob")
    for member, value in zip(members, (0.5, 0.25), strict=True):
        member.hand_in(plan, value)
    view = members[0].wait(lambda v: v.status == "finished")
    assert (tmp_path / "once").exists()
    assert view.head.state == reference_state(tmp_path, plan)


def test_one_home_has_one_server_and_one_port_has_one_core(core: CoreUnderTest, tmp_path: Path) -> None:
    from tapestry.core.serve import serve

    core.start()
    with pytest.raises(Busy):
        serve(core.root)
    port = int(core.url.rsplit(":", 1)[1])
    operator.init(tmp_path / "second", settings.make(port=port))
    with pytest.raises(PortInUse, match=str(port)):
        serve(tmp_path / "second")
    assert operator.serving_url(core.root) == core.url
    core.kill()
    assert operator.serving_url(core.root) is None


def test_a_home_that_is_none(tmp_path: Path) -> None:
    from tapestry.core.serve import serve

    with pytest.raises(SettingsError, match=r"core\.toml"):
        serve(tmp_path)
