"""A release from the vote to whoever fetches it, with the commands they would type, on a real core."""

from __future__ import annotations

import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.errors import Unreachable
from tapestry.node.member import member_init, read_key
from tapestry.transport.client import CoreClient
from tests.cli.conftest import Call
from tests.cli.test_proposal import CHARTER, NAMES, VOTING_S, _on_a_clock_of_its_own
from tests.core.support import CoreUnderTest
from tests.file_server import served

PLAN = """\
format = "tapestry.plan-file"
version = 1
[run]
name = "first"
title = "A small model"
[model]
shard_bytes = 16384
[model.config]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 32
tie_word_embeddings = true
[rounds]
total = 1
[inner]
steps = 1
"""


def unreachable(*_: object) -> None:
    raise Unreachable("the line is cut")


def test_a_release_from_the_vote_to_transformers(
    core: CoreUnderTest, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*arguments: object, fails: int = 0) -> Any:
        code, out, err = call(*arguments, "--json")
        assert code == fails, (arguments, out, err)
        return json.loads(out) if not fails else err

    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "charter.toml").write_text(CHARTER)
    state = ask("run", "plan", tmp_path / "plan.toml", "--core", core.root)["state"]
    core.prepare = partial(_on_a_clock_of_its_own, core.root / "later")
    running = core.start()
    folder = {name: tmp_path / name for name in NAMES}
    signed: list[object] = []
    for name in NAMES:
        member_init(folder[name], name)
        token = operator.invite(running.root, name)
        ask("member", "key", "vote", folder[name], "--core", running.url, "--invitation", token)
        signed += ["--signature", tmp_path / f"{name}.json"]
        ask("charter", "sign", tmp_path / "charter.toml", "--member", folder[name], "--out", signed[-1])
    ask("charter", "adopt", tmp_path / "charter.toml", "--core", running.root, *signed)
    home, repository, drafts = (
        ("--core", running.root),
        ("--repository", tmp_path / "repository"),
        iter("abcdef"),
    )

    def propose(*name: str, fails: int = 0) -> Any:
        out = tmp_path / f"draft-{next(drafts)}"
        answer = ask("release", "propose", *name, *home, *repository, "--out", out, fails=fails)
        return answer if fails else out

    assert "no decision of the members accepts" in propose("base-1", fails=5)
    new = ["accept-release", "--release", "base-1", "--state", state, "--member", folder["acme"]]
    vote = ask("proposal", "new", *new)["proposal"]
    for name in NAMES[:2]:
        ask("vote", vote, "yes", "--member", folder[name])
    (running.root / "later").write_text(str(VOTING_S * 1000 + 1))
    for _ in range(100):
        if ask("proposal", "show", vote, "--member", folder["acme"])["outcome"] is not None:
            break
        time.sleep(0.1)
    assert "tapestry member key release" in propose("base-1", fails=5)
    for name in NAMES:
        key = ask("member", "key", "release", folder[name])["key_id"]
        for file in ("release.key", "model.key"):
            assert (folder[name] / file).stat().st_mode & 0o777 == 0o600
    # Again, it is another one, also where it was cut off; the one before stays for a change of holders.
    of_model = (folder["cedar"] / "model.key").read_bytes()
    with monkeypatch.context() as cut:
        cut.setattr(CoreClient, "post_revocation", unreachable)
        ask("member", "key", "release", folder["cedar"], fails=7)
    made = read_key(folder["cedar"] / "next.release.key").key_id
    assert ask("member", "key", "release", folder["cedar"])["key_id"] == made != key
    assert not list(folder["cedar"].glob("next.*"))
    assert (folder["cedar"] / "model.key").read_bytes() != of_model  # copied, when the other was
    assert (folder["cedar"] / "former" / f"{key}.key").exists()

    draft = propose("base-1")
    ledger = tmp_path / "ledger.jsonl"
    ask("ledger", "export", *home, ledger)
    who = {name: ("--member", folder[name], "--ledger", ledger) for name in NAMES}
    looked = ask("release", "sign", draft, *who["acme"], "--look-only")
    assert looked["file"] is None and looked["state"] == state and looked["holders"] == list(NAMES)
    code, out, err = call("release", "sign", draft, *who["acme"])
    assert code == 0 and state in out and "2 of acme, birch, cedar" in out, (out, err)
    few = ask("release", "publish", draft, *home, *repository, fails=5)
    assert "1 of the 2 signatures" in few and "birch, cedar have not signed" in few
    assert "tapestry release sign" in few and not (tmp_path / "repository" / "metadata").exists()
    ask("release", "sign", draft, *who["birch"])
    done = ask("release", "publish", draft, *home, *repository)
    assert done["signed"] == ["acme", "birch"]

    mirror = shutil.copytree(tmp_path / "repository", tmp_path / "mirror")
    root = ("--root", mirror / "metadata" / "1.root.json")
    code, out, err = call("release", "fetch", mirror, *root, "-o", tmp_path / "model")
    assert code == 0 and "those of the state that the members accepted" in err, (out, err)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")("abc", return_tensors="pt").input_ids
    assert model(ids).logits.shape[:2] == ids.shape
    assert "the state that the run began with" in (tmp_path / "model" / "README.md").read_text()

    ask("release", "renew", *home, *repository)
    with served(tmp_path / "repository") as url:
        got = ask(
            *("release", "fetch", url, *root, "--name", "base-1", "--ledger", ledger),
            *("-o", tmp_path / "web"),
        )
    assert got["state"] == state and got["signatures"] == 2 and got["signed_model"] == ["acme", "birch"]
    assert (tmp_path / "web" / "model.safetensors").read_bytes() == (
        tmp_path / "model" / "model.safetensors"
    ).read_bytes()
    assert "rolling back" in ask("release", "fetch", mirror, *root, "-o", tmp_path / "no", fails=3)
    elsewhere = ("--trust", tmp_path / "elsewhere")
    ask("release", "fetch", mirror, *root, *elsewhere, "-o", tmp_path / "yes")
    late = ask(
        "release", "fetch", mirror, *root, *elsewhere, "--as-of", "2300-01-01", "-o", tmp_path / "no", fails=3
    )
    assert "freezing" in late and "renew" in late
    listed = ask("release", "fetch", tmp_path / "repository", *root)["releases"]
    assert [(each["release"], each["revoked"]) for each in listed] == [("base-1", None)]
    later = propose()
    look = ("release", "sign", later, *who["acme"], "--look-only", "--repository", tmp_path / "repository")
    assert ask(*look, *root)["targets"] == 2
    assert "go together" in ask(*look, fails=2)
    assert "rolling back" in ask(*look[:-1], mirror, *root, fails=3)
    assert "published already" in propose("base-1", fails=5)
    assert ask("release", "fetch", mirror, "--root", tmp_path / "none", "-o", tmp_path / "no", fails=2)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
