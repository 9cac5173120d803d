"""What lies in a node's folders: a trainer that wants more to leave than numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import HashMismatch, TapestryError
from tapestry.host import files
from tapestry.node.gate import Gate
from tapestry.node.home import Home
from tapestry.protocol.messages import Progress
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob, TrainResult
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.outputs import (
    ADOPTED,
    DATA,
    EXAMINER,
    FITS,
    FOUND,
    HEAD,
    LINKS,
    NAMES,
    REGULAR,
    SIZE,
    altered_shard,
    extra_file,
    extra_shard,
    folder_inside,
    folder_is_a_link,
    gate_refuses,
    grown_shard,
    job_of,
    linked,
    missing_shard,
    other_layout,
    pipe_as_manifest,
    text_as_a_header,
    through_a_pipe,
    too_long,
)
from tests.attacks.switches import Switches
from tests.core.support import shards
from tests.node.support import artifact_name, write_output

WHO = "a trainer, or what lies in its folders"
Given = tuple[Any, ...]


@attacks(
    case(
        "gate-delta-of-another-layout",
        "writes a delta of another layout",
        "the manifest is held against the plan's layout",
        other_layout,
        FITS,
        HEAD,
    ),
    case(
        "gate-text-as-a-header",
        "writes text where a shard's header is due",
        "a shard begins as its layout says",
        text_as_a_header,
        HEAD,
    ),
    case(
        "gate-shard-too-long",
        "writes text behind a shard, and says so in the manifest",
        "the manifest has the sizes of the layout",
        too_long,
        FITS,
    ),
    case(
        "gate-shard-altered",
        "changes a shard after its manifest was written",
        "blobs are adopted by their hash",
        altered_shard,
        ADOPTED,
    ),
    case(
        "gate-shard-grown",
        "writes text behind a shard, and says nothing of it",
        "the size is the manifest's, and the hash its name",
        grown_shard,
        SIZE,
        ADOPTED,
    ),
    case(
        "gate-shard-missing",
        "declares a shard that is not there",
        "each declared shard must be there",
        missing_shard,
        FOUND,
        (f"{EXAMINER}.take", "not self._store.verify(blob)"),
        ("tapestry.storage.blobs.BlobStore.sync", None),
    ),
    case(
        "gate-file-nobody-declared",
        "leaves a text file beside its result",
        "only declared names",
        extra_file,
        NAMES,
    ),
    case(
        "gate-blob-nobody-declared",
        "leaves a text file that is named as a shard",
        "only declared names",
        extra_shard,
        NAMES,
    ),
    case("gate-folder-inside", "hides files in a folder", "only files", folder_inside, NAMES, REGULAR),
    case(
        "gate-symlinked-shard",
        "links a shard to a file elsewhere",
        "links are not followed",
        linked("shard"),
        REGULAR,
        (f"{EXAMINER}._check_shard", None),
    ),
    case(
        "gate-symlinked-manifest",
        "links its manifest to a file elsewhere",
        "links are not followed",
        linked("delta.json"),
        REGULAR,
        LINKS,
    ),
    case(
        "gate-symlinked-result",
        "links its result to a file elsewhere",
        "links are not followed",
        linked("result.json"),
        REGULAR,
        LINKS,
    ),
    case(
        "gate-symlinked-inner-state",
        "links the folder that stays to another one",
        "links are not followed",
        linked("inner"),
        NAMES,
        REGULAR,
    ),
    case(
        "gate-folder-is-a-link",
        "links its whole folder elsewhere",
        "links are not followed",
        folder_is_a_link,
        (f"{EXAMINER}.examine", "not stat.S_ISDIR(folder.lstat().st_mode)"),
    ),
    case(
        "gate-pipe",
        "puts a pipe in the place of a file, for a gate that waits for ever",
        "only regular files",
        pipe_as_manifest,
        (
            "tapestry.node.examiner.files.read_limited",
            None,
            lambda path, most, **_: through_a_pipe(path, most),
        ),
        REGULAR,
    ),
)
def test_files(home: Home, job: TrainJob, switches: Switches, given: Given) -> None:
    gate_refuses(home, job, switches, given)


PROGRESS = Progress(round=1, step=3, steps=10).to_bytes()


@attack(
    "gate-text-as-progress",
    tries="writes text where its progress is due, which leaves many times a second",
    stopped_by="a closed message of at most 4 KiB, and no link",
)
def test_progress(home: Home, switches: Switches) -> None:
    gate = Gate(home, "all")
    text = PROGRESS.replace(b'"step":3', b'"step":3,"text":"raw"')
    for bad in (b"raw text", text, b" " * 100_000, b""):
        home.trainer_progress.unlink(missing_ok=True)
        home.trainer_progress.write_bytes(bad)
        gate.step()
        assert not home.progress.exists()
    home.trainer_progress.unlink()
    home.trainer_progress.symlink_to(home.settings)
    gate.step()
    assert not home.progress.exists()
    home.trainer_progress.unlink()
    home.trainer_progress.write_bytes(PROGRESS)
    gate.step()
    assert home.progress.read_bytes() == PROGRESS
    home.trainer_progress.unlink()
    home.trainer_progress.write_bytes(text)
    open_ = _Open(text)
    with (
        switches.off("tapestry.node.gate.Progress.from_bytes", lambda _: open_),
        switches.off("tapestry.node.gate.publishable_progress", lambda progress, _: progress),
    ):
        gate.step()
    assert home.progress.read_bytes() == text


class _Open:
    """A message that gives back what it was made of."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def to_bytes(self) -> bytes:
        return self._data


@attack(
    "gate-more-than-the-owner-publishes",
    tries="writes loss and score though the owner publishes nothing",
    stopped_by="the gate takes out what `publish` does not name",
)
def test_publish(home: Home, job: TrainJob, switches: Switches) -> None:
    write_output(home, job, DATA)
    Gate(home, "none").step()
    passed = TrainResult.from_bytes(home.passed("run", 1).read_bytes())
    assert passed.loss is None and passed.score is None and passed.delta is not None
    with switches.off("tapestry.node.gate.publishable", lambda result, _: result):
        write_output(home, job_of(job.plan, 2), shards(3.0))
        Gate(home, "none").step()
    assert TrainResult.from_bytes(home.passed("run", 2).read_bytes()).loss == 2.5


@attack(
    "shard-changed-after-it-has-passed",
    tries="keeps a hard link to a shard and changes it once the gate has looked",
    stopped_by="whoever reads a blob hashes it; a bad one is removed",
)
def test_changed_afterwards(home: Home, job: TrainJob, switches: Switches) -> None:
    folder = write_output(home, job, DATA)
    Gate(home, "all").step()
    sha = artifact_name(DATA[2])

    def change() -> None:
        with (folder / sha).open("r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(b"raw text")

    change()
    store = BlobStore.open(home.blobs)
    with pytest.raises(HashMismatch):
        store.read(sha)
    assert not store.has(sha), "and it is gone"
    assert store.read(artifact_name(DATA[0])) == DATA[0]
    store.adopt(_copied(folder / sha, DATA[2]), sha)
    os.link(store.path(sha), home.root / "again")
    with (home.root / "again").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"raw text")
    with switches.check_off("tapestry.storage.blobs.BlobStore._check", "actual != sha"):
        assert b"raw text" in store.read(sha)


def _copied(beside: Path, data: bytes) -> Path:
    path = beside.with_suffix(".good")
    path.write_bytes(data)
    return path


@attack(
    "key-that-others-can-read",
    tries="replaces a node's key with a file of its own before it is written",
    stopped_by="a secret is never written over a file that is there, and only its owner reads it",
)
def test_private_files(tmp_path: Path, switches: Switches) -> None:
    path, secret = tmp_path / "node.key", b"a private key"
    path.write_bytes(b"")
    path.chmod(0o666)
    with pytest.raises(TapestryError, match="exists"):
        files.private_write(path, secret)
    assert path.read_bytes() == b""
    with switches.off(
        "tapestry.host.files._rename_new", lambda temporary, final: final.write_bytes(temporary.read_bytes())
    ):
        files.private_write(path, secret)
    assert path.read_bytes() == secret and path.stat().st_mode & 0o077, "and all can read it"
    other = tmp_path / "other.key"
    files.private_write(other, secret)
    assert other.stat().st_mode & 0o777 == 0o600
