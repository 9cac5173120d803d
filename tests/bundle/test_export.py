"""What goes into a bundle, from homes of every sort; and that nothing half-made is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tapestry.bundle import base, check
from tapestry.errors import Conflict, InputError
from tapestry.identity.keys import KeyPair
from tapestry.node import evidence as telling
from tapestry.node import exit as exits
from tapestry.node import leave as leaving
from tapestry.node.home import Home
from tapestry.node.memory import AgentMemory
from tapestry.protocol.artifact import Artifact, State
from tests.bundle.support import refused, said, sign_anew


def test_a_lost_manifest_or_card_is_said(made: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    card = home / "cards" / "text.json"
    value = json.loads(card.read_text())
    card.write_text(
        json.dumps(value | {"version": "2.0.0"})
    )  # made anew, and no trainer has kept the old one
    found = exits.export(home, tmp_path / "first")
    assert [each.what.split("/")[0] for each in found.lacking] == ["used-cards"]
    used = home / "cache" / "used-cards"
    used.mkdir()
    (used / f"{found.lacking[0].what.removeprefix('used-cards/')}").write_text(json.dumps(value))
    assert not exits.export(home, tmp_path / "second").lacking
    shutil.rmtree(home / "cache" / "manifests")
    assert [each.what.split("/")[0] for each in exits.export(home, tmp_path / "third").lacking] == [
        "manifests"
    ]


def test_a_damaged_blob_gives_no_bundle(made: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    state = said(made).runs[0].state
    path = home / "blobs" / state[:2] / state
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(Exception, match=state[:12]):
        exits.export(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_one_run_alone_and_a_base_without_momentum(made: Path, tmp_path: Path) -> None:
    """As of a node that fetches merged bases, and has never had the momentum."""
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    assert check.check(made).bases[0].momentum == "held"
    state = State.from_bytes((made / base.blob_path(said(made).runs[0].state)).read_bytes())
    assert state.outer is not None
    (home / "blobs" / state.outer[:2] / state.outer).unlink()
    found = exits.export(home, tmp_path / "out", exits.Wanted(run="toy"))
    assert found.bases[0].momentum == "not kept"
    assert found.said.only == "toy"
    assert not found.lacking
    with pytest.raises(InputError, match="nope"):
        exits.export(home, tmp_path / "other", exits.Wanted(run="nope"))
    half = next(iter((made / "blobs").glob(f"*/{_shard_of(made, state.outer)}")))
    broken = Path(shutil.copytree(made, tmp_path / "broken"))
    lost = broken / half.relative_to(made)
    lost.unlink()
    if not any(lost.parent.iterdir()):
        lost.parent.rmdir()
    sign_anew(broken)
    refused(broken, half.name)


def _shard_of(bundle: Path, artifact: str) -> str:
    found = Artifact.from_bytes((bundle / base.blob_path(artifact)).read_bytes())
    return found.shards[0].sha256


def test_own_models_go_along(made: Path, tmp_path: Path) -> None:
    home = made.with_name("home")
    own = tmp_path / "letters-model"
    (own / "sub").mkdir(parents=True)
    (own / "sub" / "model.gguf").write_bytes(b"weights")
    found = exits.export(home, tmp_path / "out", exits.Wanted(derivatives=[own]))
    assert found.said.derivatives == ("letters-model",)
    assert (tmp_path / "out/derivatives/letters-model/sub/model.gguf").read_bytes() == b"weights"
    (own / "link").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="regular"):
        exits.export(home, tmp_path / "again", exits.Wanted(derivatives=[own]))


def test_a_key_that_the_ledger_does_not_have_yet(made: Path, tmp_path: Path) -> None:
    """Changed while the node did not run: a bundle could not be checked by its ledger."""
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    (home / "keys" / "node.key").write_bytes(KeyPair.generate().to_pem())
    with pytest.raises(InputError, match="new key"):
        exits.export(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_newer_than_the_ledger_on_disk(made: Path, tmp_path: Path) -> None:
    """A node that runs: the state before is taken, which the ledger names."""
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    path = home / "state" / "agent.json"
    memory = AgentMemory.from_bytes(path.read_bytes())
    run, real = memory.runs["toy"], said(made).runs[0].state
    assert run.head is not None
    newer = run.model_copy(
        update={"head": run.head.model_copy(update={"state": "0" * 64}), "older": (*run.older, real)}
    )
    path.write_bytes(memory.model_copy(update={"runs": {"toy": newer}}).to_bytes())
    found = exits.export(home, tmp_path / "out")
    assert [each.taken.state for each in found.bases] == [real]
    assert not found.lacking


def test_what_a_kill_left_is_in_nobodys_way(made: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.tmp"
    (left / "cards").mkdir(parents=True)
    (left / "cards" / "half.json").write_text("{")
    exits.export(made.with_name("home"), tmp_path / "out")
    check.check(tmp_path / "out")
    assert not left.exists()
    with pytest.raises(Exception, match="not empty"):
        exits.export(made.with_name("home"), tmp_path / "out")


def test_what_is_no_whole_bundle_is_not_left_with(made: Path, tmp_path: Path) -> None:
    """Keys end after it: so it must be what leaving would write, not just something that holds."""
    home, own = made.with_name("home"), tmp_path / "own"
    own.mkdir()
    (own / "model.gguf").write_bytes(b"weights")

    def taken(out: Path, wanted: exits.Wanted) -> check.Checked:
        return leaving._bundle(Home(home), out, wanted, lambda *_: None, lambda _: None)

    telling.evidence(home, tmp_path / "evidence")
    exits.export(home, tmp_path / "one", exits.Wanted(run="toy"))
    for out in (tmp_path / "evidence", tmp_path / "one"):
        check.check(out)
        with pytest.raises(Conflict, match="newest"):
            taken(out, exits.Wanted())
    with pytest.raises(Conflict, match="newest"):
        taken(made, exits.Wanted(derivatives=[own]))
    assert taken(made, exits.Wanted()).own


def test_a_bundle_of_other_runs_is_no_key_error(made: Path, tmp_path: Path) -> None:
    """One of another consortium, whose runs this node has never heard of."""
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    path = home / "state" / "agent.json"
    memory = AgentMemory.from_bytes(path.read_bytes())
    path.write_bytes(memory.model_copy(update={"runs": {}}).to_bytes())
    with pytest.raises(Conflict, match="newest"):
        leaving._bundle(Home(home), made, exits.Wanted(), lambda *_: None, lambda _: None)
