"""`ledger verify` repeats the merges whose blobs are at hand: the least lie is found, what lacks is said."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli import corehome, verification
from tapestry.cli.demo import defaults
from tapestry.cli.demo import run as demo
from tapestry.core.service import Core
from tapestry.errors import MergeMismatch
from tapestry.protocol.artifact import Artifact
from tests.audit.liar import LyingScene
from tests.cli.conftest import Call

ROUNDS = 16


def played(root: Path, lies: set[int], *, seed: int = 0, fragments: int = 1, rounds: int = ROUNDS) -> Path:
    """A core that has lied about the merges of these rounds; its home."""
    scene = LyingScene(root, seed)
    with scene.core:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, rounds_total=rounds, fragments=fragments)
        for number in range(1, rounds + 1):
            scene.round(ada, bob, lie=number in lies)
        assert scene.state().merges == rounds
    return root


def verified(call: Call, *arguments: object) -> tuple[int, dict[str, Any], str]:
    code, out, err = call("ledger", "verify", *arguments, "--json")
    return code, json.loads(out), err


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory.mktemp("honest") / "core", set(), rounds=4)


@pytest.mark.parametrize(("seed", "fragments"), [(1, 1), (2, 2)])
def test_one_bit_of_any_tensor_of_a_base_is_found(
    tmp_path: Path, call: Call, seed: int, fragments: int
) -> None:
    """In just the rounds that were lied about, though hashes and signatures agree."""
    lies = set(random.Random(seed).sample(range(1, ROUNDS + 1), ROUNDS // 2))
    root = played(tmp_path / "core", lies, seed=seed, fragments=fragments)
    code, found, err = verified(call, root)
    assert code == 3
    assert [each["round"] for each in found["merges_differing"]] == sorted(lies)
    assert found["merges_repeated"] == ROUNDS - len(lies) and found["merges_skipped"] == []
    assert all(f"round {number} of run run does not come out as recorded" in err for number in lies)
    code, found, _ = verified(call, root, "--no-merges")  # the control: from its bytes the ledger holds
    assert code == 0 and found["merges"] == ROUNDS and found["merges_repeated"] == 0
    assert found["merges_skipped"][0]["rounds"] == list(range(1, ROUNDS + 1))


def test_honest_merges_come_out_as_recorded(tmp_path: Path, honest: Path, call: Call) -> None:
    file, blobs = tmp_path / "ledger.jsonl", honest / "blobs"
    assert call("ledger", "export", "--core", honest, file)[0] == 0
    for arguments in ((honest,), (honest.parent,), (file, "--blobs", blobs)):
        code, found, err = verified(call, *arguments)
        assert (code, found["merges_repeated"], found["merges_differing"]) == (0, 4, []), err
        assert "4 merges repeated, each the same to the bit" in err
    code, found, err = verified(call, file)
    assert (code, found["merges_repeated"]) == (0, 0)
    assert "rounds 1 to 4: no blobs are at hand" in err
    assert call("ledger", "verify", file, "--blobs", tmp_path / "none")[0] == 2
    assert not list(honest.rglob(".recompute-*")), "scratch is left behind"


def test_a_lie_is_found_in_a_file_too(tmp_path: Path, call: Call) -> None:
    root, file = played(tmp_path / "core", {2}, rounds=3), tmp_path / "ledger.jsonl"
    assert call("ledger", "export", "--core", root, file)[0] == 0
    code, found, _ = verified(call, file, "--blobs", root / "blobs")
    assert code == 3 and [each["round"] for each in found["merges_differing"]] == [2]
    assert verified(call, file)[0] == 0


def test_another_base_beside_the_right_state(tmp_path: Path, call: Call) -> None:
    """The entry names the state that the merge gives, and a base that is not in it."""
    scene = LyingScene(tmp_path / "core", 0)
    with scene.core:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, rounds_total=1)
        merge = scene.engine.merge
        scene.engine.merge = lambda job: merge(job).model_copy(update={"base": "7" * 64})  # type: ignore[method-assign]
        scene.round(ada, bob)
    code, found, _ = verified(call, tmp_path / "core")
    assert code == 3
    assert "another base or momentum" in found["merges_differing"][0]["note"]
    assert verified(call, tmp_path / "core", "--no-merges")[0] == 0


def test_the_demo_repeats_its_newest_merges(
    tmp_path: Path, honest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "REPEATED", 2)
    with Core.open(honest) as opened:
        found = demo._verified(opened)
    assert (found["merges"], found["merges_repeated"]) == (4, 2)
    assert [each["rounds"] for each in found["merges_skipped"]] == [[1, 2]]
    with Core.open(played(tmp_path / "core", {1, 4}, rounds=4)) as opened:
        with pytest.raises(MergeMismatch, match="round 4 of run run does not come out"):
            demo._verified(opened)
        monkeypatch.setattr(verification, "repeats_here", lambda: False)  # the control
        assert demo._verified(opened)["merges_repeated"] == 0


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Iterator[Core]:
    with Core.open(shutil.copytree(honest, tmp_path / "core")) as core:
        yield core


def test_what_was_erased_is_said(copied: Core, call: Call) -> None:
    """A round is passed over, those behind it are repeated from bases that are kept."""
    records = corehome.records(copied, "run")
    for number in (1, 2):
        delta = Artifact.from_bytes(copied.store.read(records[number - 1].merged[0].delta))
        copied.store.delete(delta.shards[0].sha256)
    code, found, err = verified(call, copied.home.root)
    assert (code, found["merges_repeated"]) == (0, 2)
    assert [(each["rounds"], each["run"]) for each in found["merges_skipped"]] == [([1, 2], "run")]
    assert "not repeated in run run: rounds 1 to 2: their blobs are not here (any more)" in err


def test_a_damaged_blob_is_said(copied: Core, call: Call) -> None:
    record = corehome.records(copied, "run")[2]
    delta = Artifact.from_bytes(copied.store.read(record.merged[1].delta))
    path = copied.store.path(delta.shards[0].sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, found, err = verified(call, copied.home.root)
    assert (code, found["merges_repeated"]) == (0, 3)
    assert "round 3: a blob of theirs is damaged" in err


def test_without_torch_the_rest_is_verified(
    honest: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    code, found, err = verified(call, honest)
    assert (code, found["merges"], found["merges_repeated"]) == (0, 4, 0)
    assert "rounds 1 to 4: torch is not installed" in err
