from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.host import failpoints
from tapestry.host.isolation import measure
from tapestry.node import settings
from tapestry.node.gate import Gate
from tapestry.node.home import Home
from tapestry.node.settings import Publish
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.messages import Progress
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob, TrainResult
from tests.core.support import artifact, make_plan, shards
from tests.node.support import artifact_name, result_of, wait_until, write_output


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
    progress = Progress(round=1, step=3, steps=10, loss=1.5, tokens_per_s=100.0)
    home.trainer_progress.write_bytes(progress.to_bytes())
    Gate(home, publish).step()
    passed = TrainResult.from_bytes(home.passed("run", 1).read_bytes())
    assert ((passed.loss is not None), (passed.score is not None)) == (loss, score)
    assert ("score" in kinds(home)) == score
    out = Progress.from_bytes(home.progress.read_bytes())
    assert (out.step, out.loss is not None) == (3, loss)
    text = home.egress_log.read_text() + home.passed("run", 1).read_text() + home.progress.read_text()
    assert ("2.5" in text or "1.5" in text) == loss


# -- hostile outputs ----------------------------------------------------------------------------

Tamper = Callable[[Home, TrainJob], Any]


def _other_layout(home: Home, job: TrainJob) -> None:
    layout = Layout(shard_bytes=4096, tensors=(Tensor(name="a", shape=(4, 600)), Tensor(name="b", shape=())))
    write_output(home, job, shards(5.0, layout), layout)


def _wrong_shape(home: Home, job: TrainJob) -> None:
    """Same number of bytes, another shape in the header."""
    data = shards(5.0)
    data[0] = data[0].replace(b'"shape":[', b'"shApe":[', 1)
    write_output(home, job, data)


def _too_long(home: Home, job: TrainJob) -> None:
    write_output(home, job, [*shards(5.0)[:2], shards(5.0)[2] + b"text!"])


def _altered_shard(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, shards(5.0))
    path = folder / artifact_name(shards(5.0)[2])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _grown_shard(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, shards(5.0))
    with (folder / artifact_name(shards(5.0)[2])).open("ab") as file:
        file.write(b"raw text")


def _missing_shard(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, shards(5.0))
    (folder / artifact_name(shards(5.0)[2])).unlink()


def _extra_file(home: Home, job: TrainJob) -> None:
    (write_output(home, job, shards(5.0)) / "notes.txt").write_text("raw text")


def _extra_shard(home: Home, job: TrainJob) -> None:
    (write_output(home, job, shards(5.0)) / ("a" * 64)).write_text("raw text")


def _folder_inside(home: Home, job: TrainJob) -> None:
    (write_output(home, job, shards(5.0)) / "inner.d").mkdir()


def _symlink(name: str) -> Tamper:
    def tamper(home: Home, job: TrainJob) -> None:
        folder = write_output(home, job, shards(5.0))
        file = folder / (artifact_name(shards(5.0)[2]) if name == "shard" else name)
        secret = home.root / "secret"
        file.rename(secret)
        file.symlink_to(secret)

    return tamper


def _pipe(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, shards(5.0))
    (folder / "delta.json").unlink()
    os.mkfifo(folder / "delta.json")


def _folder_is_a_link(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, shards(5.0))
    folder.rename(home.root / "elsewhere")
    folder.symlink_to(home.root / "elsewhere")


def _edited(name: str, old: bytes, new: bytes) -> Tamper:
    def tamper(home: Home, job: TrainJob) -> None:
        path = write_output(home, job, shards(5.0)) / name
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return tamper


def _path_in_manifest(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, shards(5.0))
    sha = artifact_name(shards(5.0)[2]).encode()
    path = folder / "delta.json"
    data = path.read_bytes().replace(sha, b"../../../secret".ljust(64, b"x"))
    path.write_bytes(data)
    from tapestry.protocol.canonical import sha256

    old = TrainResult.from_bytes((folder / "result.json").read_bytes())
    (folder / "result.json").write_bytes(old.model_copy(update={"delta": sha256(data)}).to_bytes())


def _result(**other: Any) -> Tamper:
    return lambda home, job: write_output(home, job, shards(5.0), **other)


def _huge_result(home: Home, job: TrainJob) -> None:
    (write_output(home, job, shards(5.0)) / "result.json").write_bytes(b" " * (1 << 20))


HOSTILE: dict[str, Tamper] = {
    "other layout": _other_layout,
    "wrong shape": _wrong_shape,
    "shard too long": _too_long,
    "altered shard": _altered_shard,
    "grown shard": _grown_shard,
    "missing shard": _missing_shard,
    "extra file": _extra_file,
    "extra shard": _extra_shard,
    "folder inside": _folder_inside,
    "symlinked shard": _symlink("shard"),
    "symlinked manifest": _symlink("delta.json"),
    "symlinked result": _symlink("result.json"),
    "symlinked inner state": _symlink("inner"),
    "pipe": _pipe,
    "folder is a link": _folder_is_a_link,
    "score not a number": _edited("result.json", b"3.25", b"NaN"),
    "score infinite": _edited("result.json", b"3.25", b"1e999"),
    "score huge": _edited("result.json", b"3.25", b"3e7"),
    "loss negative": _edited("result.json", b'"loss":2.5', b'"loss":-2.5'),
    "free text": _edited("result.json", b'"environment":{}', b'"environment":{"note":"a secret\\n"}'),
    "unknown field": _edited("result.json", b'"environment":{}', b'"environment":{},"extra":"raw text"'),
    "path in manifest": _path_in_manifest,
    "other kind": _edited("delta.json", b'"delta"', b'"bases"'),
    "too many tokens": _result(tokens=1 << 40),
    "too many steps": _result(steps=1000),
    "no steps": _result(steps=0),
    "another run": _result(run="other"),
    "another round": _result(round=7),
    "unknown plan": _result(plan="f" * 64),
    "huge result": _huge_result,
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_output_is_refused(home: Home, job: TrainJob, attack: str) -> None:
    BlobStore.open(home.blobs)
    HOSTILE[attack](home, job)
    gate = Gate(home, "all")
    gate.step()
    assert not home.passed("run", 1).exists()
    assert lines(home) == []
    told = json.loads(home.refusal("run", 1).read_bytes())
    assert told["reason"] and told["code"]
    good = {artifact_name(data) for data in shards(5.0)}
    blobs = [p for p in home.blobs.rglob("*") if p.is_file() and p.name not in good]
    assert not any(b"raw text" in p.read_bytes() or b"secret" in p.read_bytes() for p in blobs)
    # the next round, and the same round made well, are not disturbed
    write_output(home, job_of(job.plan, 2), shards(3.0))
    gate.step()
    assert home.passed("run", 2).exists()
    bad = home.output("run", 1)
    bad.rename(home.root / "bad")
    write_output(home, job, shards(5.0))
    gate.step()
    assert home.passed("run", 1).exists()
    assert not home.refusal("run", 1).exists()
    assert kinds(home) == sorted(GOOD * 2)


def test_other_names_are_passed_over(home: Home, job: TrainJob) -> None:
    for name in ("run.1.tmp", "run.1.partial", "run.01", "run.x", "..1", "run.1.old", "run.99999999999999"):
        (home.outputs / name).mkdir()
    gate = Gate(home, "all")
    assert gate.step() == 0
    assert list(home.refused.iterdir()) == []


def test_hostile_progress_stays(home: Home) -> None:
    gate = Gate(home, "all")
    good = Progress(round=1, step=3, steps=10).to_bytes()
    for bad in (b"raw text", good.replace(b'"step":3', b'"step":3,"text":"raw"'), b" " * 100_000, b""):
        home.trainer_progress.unlink(missing_ok=True)
        home.trainer_progress.write_bytes(bad)
        gate.step()
        assert not home.progress.exists()
    home.trainer_progress.unlink()
    home.trainer_progress.symlink_to(home.settings)
    gate.step()
    assert not home.progress.exists()
    home.trainer_progress.unlink()
    home.trainer_progress.write_bytes(good)
    gate.step()
    assert home.progress.read_bytes() == good


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
