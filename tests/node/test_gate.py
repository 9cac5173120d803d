from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapestry.host import failpoints
from tapestry.host.isolation import measure
from tapestry.node import settings
from tapestry.node.gate import Gate
from tapestry.node.home import Home
from tapestry.node.settings import Publish
from tapestry.protocol.messages import Progress
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob, TrainResult
from tests.core.support import artifact, make_plan, shards
from tests.node.support import result_of, wait_until, write_output


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "node")
    home.make_folders()
    made = settings.make(member="m", name="m-1", corpus="text")
    home.settings.write_text(settings.render(made))
    return home


@pytest.fixture
def job(home: Home) -> TrainJob:
    plan = make_plan(home.blobs, total=9)
    BlobStore.open(home.blobs).put(plan.to_bytes())
    return job_of(plan)


def job_of(plan: Plan, round: int = 1, **other: Any) -> TrainJob:
    fields: dict[str, Any] = {
        "run": plan.run,
        "plan": plan,
        "round": round,
        "merges": round - 1,
        "state": plan.initial_state,
        "base": plan.initial_state,
        "train": True,
        "evaluate": True,
    }
    return TrainJob(**(fields | other))


def lines(home: Home) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in home.egress_log.read_text().splitlines()]
    except FileNotFoundError:
        return []


def kinds(home: Home) -> list[str]:
    return sorted(line["kind"] for line in lines(home))


GOOD = sorted(["result", "score", "delta-manifest", *["delta-shard"] * 3])


def test_a_good_result_passes(home: Home, job: TrainJob) -> None:
    data = shards(2.0)
    folder = write_output(home, job, data)
    gate = Gate(home, "all")
    assert gate.step() == 1
    passed = TrainResult.from_bytes(home.passed("run", 1).read_bytes())
    delta = artifact("delta", data)
    assert passed == result_of(job, delta)
    store = BlobStore.open(home.blobs)
    for blob in delta.shards:
        assert store.read(blob.sha256)
        assert store.path(blob.sha256).stat().st_nlink > 1  # not copied
    assert store.read(delta.digest) == delta.to_bytes()
    assert kinds(home) == GOOD
    assert {line["sha256"] for line in lines(home)} >= {delta.digest, *(b.sha256 for b in delta.shards)}
    assert sum(line["bytes"] for line in lines(home) if line["kind"] == "delta-shard") == delta.total_bytes
    assert (folder / "inner").exists()
    assert not any(b"stays here" in p.read_bytes() for p in home.blobs.rglob("*") if p.is_file())
    assert gate.step() == 0


def test_a_score_alone_passes(home: Home, job: TrainJob) -> None:
    final = job_of(job.plan, 10, train=False)
    write_output(home, final, [])
    Gate(home, "all").step()
    passed = TrainResult.from_bytes(home.passed("run", 10).read_bytes())
    assert passed.delta is None and passed.score is not None
    assert kinds(home) == ["result", "score"]


@pytest.mark.parametrize(
    ("publish", "loss", "score"), [("all", True, True), ("scores", False, True), ("none", False, False)]
)
def test_what_the_owner_does_not_publish_stays(
    home: Home, job: TrainJob, publish: Publish, loss: bool, score: bool
) -> None:
    write_output(home, job, shards(2.0))
    progress = Progress(round=1, step=3, steps=10, loss=1.53125, tokens_per_s=100.0)
    home.trainer_progress.write_bytes(progress.to_bytes())
    Gate(home, publish).step()
    passed = TrainResult.from_bytes(home.passed("run", 1).read_bytes())
    assert ((passed.loss is not None), (passed.score is not None)) == (loss, score)
    assert ("score" in kinds(home)) == score
    out = Progress.from_bytes(home.progress.read_bytes())
    assert (out.step, out.loss is not None) == (3, loss)
    log = [json.loads(line) for line in home.egress_log.read_text().splitlines()]
    told = json.dumps([{k: v for k, v in entry.items() if k != "time"} for entry in log])  # may end in 2.5
    text = told + home.passed("run", 1).read_text() + home.progress.read_text()
    assert ("1.53125" in text) == loss
    assert ("2.5" in text) == loss


# -- other names --------------------------------------------------------------------------------


def test_other_names_are_passed_over(home: Home, job: TrainJob) -> None:
    for name in ("run.1.tmp", "run.1.partial", "run.01", "run.x", "..1", "run.1.old", "run.99999999999999"):
        (home.outputs / name).mkdir()
    gate = Gate(home, "all")
    assert gate.step() == 0
    assert list(home.refused.iterdir()) == []


# -- kills --------------------------------------------------------------------------------------


def start(home: Home, **environment: str) -> subprocess.Popen[bytes]:
    gate = [sys.executable, "-m", "tapestry.node.gate", "--home", str(home.root)]
    return subprocess.Popen(
        [sys.executable, "-m", "tapestry.host.isolation", "--", *gate],
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("point", [name for name in failpoints.NAMES if name.startswith("gate.")])
def test_killed_at_any_point_it_goes_on(home: Home, job: TrainJob, point: str) -> None:
    data = shards(2.0)
    write_output(home, job, data)
    assert start(home, TAPESTRY_FAILPOINT=point).wait(60) == -9
    assert home.passed("run", 1).exists() == (point == "gate.result.published")
    if home.egress_log.exists():
        with home.egress_log.open("ab") as file:
            file.write(b'{"time": 1, "kind": "to')  # a torn line
    again = start(home)
    try:
        wait_until(lambda: home.passed("run", 1).exists())
        write_output(home, job_of(job.plan, 2), shards(3.0))
        wait_until(lambda: home.passed("run", 2).exists())
    finally:
        again.terminate()
        assert again.wait(60) == 0
    assert kinds(home) == sorted(GOOD * 2)
    for blob in artifact("delta", data).shards:
        assert BlobStore.open(home.blobs).read(blob.sha256)


def test_the_process_has_no_network(home: Home) -> None:
    process = start(home)
    try:
        status = wait_until(
            lambda: json.loads(_text(home.status("gate"))).get("phase") == "watching" and True
        )
        assert status
        own = Path(f"/proc/{process.pid}/ns/net").readlink()
        told = json.loads(_text(home.status("gate")))
        if own != Path("/proc/self/ns/net").readlink():
            assert told["level"] == "netns"
            assert "eth" not in Path(f"/proc/{process.pid}/net/dev").read_text()
        else:
            assert told["level"] == measure()
    finally:
        process.terminate()
        process.wait(60)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return "{}"


def test_the_log_is_not_read_for_every_result(
    home: Home, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(home, "all")
    monkeypatch.setattr("tapestry.node.gate.present_lines", lambda *_: pytest.fail("read the whole log"))
    write_output(home, job, shards(2.0))
    gate.step()
    assert kinds(home) == GOOD


def test_a_full_disk_ends_the_gate_and_loses_nothing(
    home: Home, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapestry.errors import DiskFull

    write_output(home, job, shards(2.0))
    real = os.pwrite

    def full(*_: Any) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        Gate(home, "all").step()
    assert not home.passed("run", 1).exists()
    monkeypatch.setattr(os, "pwrite", real)
    Gate(home, "all").step()
    assert home.passed("run", 1).exists()
    assert kinds(home) == GOOD
