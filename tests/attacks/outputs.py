"""What a trainer can leave for the gate."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapestry.node.gate import Gate
from tapestry.node.home import Home
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob, TrainResult
from tests.attacks.switches import Switches
from tests.core.support import artifact, shards
from tests.node.support import artifact_name, write_output

Tamper = Callable[[Home, TrainJob], Any]


DATA = shards(5.0)


def other_layout(home: Home, job: TrainJob) -> None:
    layout = Layout(shard_bytes=4096, tensors=(Tensor(name="a", shape=(1200, 2)), Tensor(name="b", shape=())))
    write_output(home, job, shards(5.0, layout), layout)


def text_as_a_header(home: Home, job: TrainJob) -> None:
    text = b"raw text of the owner. " * 10
    data = shards(5.0)
    write_output(home, job, [text + data[0][len(text) :], *data[1:]])


def too_long(home: Home, job: TrainJob) -> None:
    write_output(home, job, [*DATA[:2], DATA[2] + b"raw text"])


def altered_shard(home: Home, job: TrainJob) -> None:
    path = write_output(home, job, DATA) / artifact_name(DATA[2])
    data = bytearray(path.read_bytes())
    data[-8:] = b"raw text"
    path.write_bytes(data)


def grown_shard(home: Home, job: TrainJob) -> None:
    with (write_output(home, job, DATA) / artifact_name(DATA[2])).open("ab") as file:
        file.write(b"raw text")


def missing_shard(home: Home, job: TrainJob) -> None:
    """Of a blob that the node has for another reason, and that was in no manifest."""
    (write_output(home, job, DATA) / artifact_name(DATA[2])).unlink()


def extra_file(home: Home, job: TrainJob) -> None:
    (write_output(home, job, DATA) / "notes.txt").write_text("raw text")


def extra_shard(home: Home, job: TrainJob) -> None:
    (write_output(home, job, DATA) / ("a" * 64)).write_text("raw text")


def folder_inside(home: Home, job: TrainJob) -> None:
    (write_output(home, job, DATA) / "inner.d").mkdir()


def linked(name: str) -> Tamper:
    def tamper(home: Home, job: TrainJob) -> None:
        folder = write_output(home, job, DATA)
        file = folder / (artifact_name(DATA[2]) if name == "shard" else name)
        secret = home.root / "secret"
        file.rename(secret)
        file.symlink_to(secret)

    return tamper


def pipe_as_manifest(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, DATA)
    (folder / "delta.json").unlink()
    os.mkfifo(folder / "delta.json")


def folder_is_a_link(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, DATA)
    folder.rename(home.root / "elsewhere")
    folder.symlink_to(home.root / "elsewhere")


def edited(name: str, old: bytes, new: bytes) -> Tamper:
    def tamper(home: Home, job: TrainJob) -> None:
        path = write_output(home, job, DATA) / name
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return tamper


def path_in_manifest(home: Home, job: TrainJob) -> None:
    folder = write_output(home, job, DATA)
    sha = artifact_name(DATA[2]).encode()
    path = folder / "delta.json"
    data = path.read_bytes().replace(sha, b"../../../secret".ljust(64, b"x"))
    path.write_bytes(data)
    old = TrainResult.from_bytes((folder / "result.json").read_bytes())
    (folder / "result.json").write_bytes(old.model_copy(update={"delta": canonical.sha256(data)}).to_bytes())


def result_with(**other: Any) -> Tamper:
    return lambda home, job: write_output(home, job, DATA, **other)


def huge_result(home: Home, job: TrainJob) -> None:
    path = write_output(home, job, DATA) / "result.json"
    path.write_bytes(path.read_bytes() + b" " * (1 << 20))


def believed(data: bytes) -> TrainResult:
    """A result whose fields are taken as they come."""
    value = json.loads(data)
    known = {name: value.pop(name, None) for name in TrainResult.model_fields}
    known["score"] = None
    return TrainResult.model_construct(**known)


def loose(data: bytes) -> Artifact:
    from tapestry.protocol.artifact import Blob

    value = json.loads(data)
    blobs = tuple(Blob.model_construct(**each) for each in value["shards"])
    return Artifact.model_construct(**value | {"shards": blobs})


def through_a_pipe(path: Path, most: int) -> bytes:
    """As somebody would read who takes anything: a writer at the other end is waited for."""
    import threading

    if path.name != "delta.json":
        return path.read_bytes()[:most]
    manifest = artifact("delta", DATA).to_bytes()
    threading.Thread(target=lambda: path.write_bytes(manifest), daemon=True).start()
    return path.read_bytes()


def job_of(plan: Plan, round: int = 1) -> TrainJob:
    return TrainJob(
        run=plan.run,
        plan=plan,
        round=round,
        merges=round - 1,
        state=plan.initial_state,
        base=plan.initial_state,
        train=True,
        evaluate=True,
    )


def gate_refuses(home: Home, job: TrainJob, switches: Switches, given: tuple[Any, ...]) -> None:
    """What is tampered with stays, all else passes; with the defences switched off it leaves."""
    tamper, *off = given
    BlobStore.open(home.blobs)
    tamper(home, job)
    gate = Gate(home, "all")
    gate.step()
    assert not home.passed("run", 1).exists() and not home.egress_log.exists()
    told = json.loads(home.refusal("run", 1).read_bytes())
    assert told["reason"] and told["code"]
    good = {artifact_name(data) for data in DATA}
    blobs = [p for p in home.blobs.rglob("*") if p.is_file() and p.name not in good]
    assert not any(b"raw text" in p.read_bytes() or b"secret" in p.read_bytes() for p in blobs)
    _not_disturbed(home, job, gate)
    bad = home.root / "bad"
    bad.rename(home.output("run", 1))
    home.passed("run", 1).unlink()
    with switches.all_off(*off):
        Gate(home, "all").step()
    assert any(not path.name.startswith("run.2") for path in home.egress.glob("*.json")), "it has left"


def _not_disturbed(home: Home, job: TrainJob, gate: Gate) -> None:
    """The next round passes, and so does the same one made well."""
    write_output(home, job_of(job.plan, 2), shards(3.0))
    gate.step()
    assert home.passed("run", 2).exists()
    bad, good = home.output("run", 1), home.root / "good"
    bad.rename(home.root / "bad")
    folder = write_output(home, job, DATA)
    gate.step()
    assert home.passed("run", 1).exists() and not home.refusal("run", 1).exists()
    folder.rename(good)
    for data in DATA:
        BlobStore.open(home.blobs).delete(artifact_name(data))


# -- defences that several tests switch off ---------------------------------------------------------

EXAMINER = "tapestry.node.examiner.Examiner"
RESULT = ("tapestry.node.examiner.TrainResult.from_bytes", None, believed)
NAMES = (f"{EXAMINER}._check_names", "entry.name not in allowed")
REGULAR = (f"{EXAMINER}._check_names", "not entry.is_file(follow_symlinks=False)")
CLAIMS = (f"{EXAMINER}._check_result", "if result.steps > steps or result.tokens > tokens")
SIZE = (f"{EXAMINER}._check_shard", "if size != due")
HEAD = (f"{EXAMINER}._check_shard", "os.pread(fd, len(head), 0) != head")
FITS = ("tapestry.protocol.artifact.Artifact.check_against", None, lambda *_, **__: None)
LINKS = (
    "tapestry.node.examiner.files.read_limited",
    None,
    lambda path, most, **_: Path(path).read_bytes()[:most],
)
ADOPTED = ("tapestry.storage.blobs.BlobStore.adopt", "(actual := self._hash(temporary)) != sha")
FOUND = (f"{EXAMINER}._check_shard", None)
TAKE = (f"{EXAMINER}.take", None)
