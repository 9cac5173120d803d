"""The way out, with real training: one member leaves; then everything local works with no network at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.bundle import check
from tapestry.node import exit as exits
from tapestry.node import leave as leaving
from tapestry.protocol.encoding import Codec, TopK
from tapestry.protocol.plan import Merge, Streaming
from tests.cards import give_card
from tests.federation.support import Federation

ISLAND = """
import json, sys
from tapestry.cli.main import call
from tapestry.host.isolation import measure

found = {"level": measure()}
for name, *words in json.loads(sys.argv[1]):
    found[name] = call(words)
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[2], local_files_only=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2], local_files_only=True)
ids = tokenizer("the loom", return_tensors="pt")["input_ids"]
found["finite"] = bool(model(ids).logits.isfinite().all())
print("FOUND " + json.dumps(found))
"""
ROUNDS = 3


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A run that has ended, with sparse updates of two fragments that take turns; its core still serves."""
    root = tmp_path_factory.mktemp("exit")
    made = Federation(
        root,
        seed_blobs=root / "seed",
        rounds=ROUNDS,
        steps=3,
        streaming=Streaming(fragments=2),
        codec=Codec(matrices=TopK(), error_feedback=0.95),
        merge=Merge(outer="sgd", outer_rate=1.0, outer_momentum=0.0, influence_cap=0.9),
    )
    made.start()
    made.keep_going(timeout_s=240)
    yield made
    made.stop()


def test_an_exit_takes_less_than_a_minute(federation: Federation) -> None:
    out, began = federation.root / "bundle-a", time.monotonic()
    left = leaving.leave(federation.node("a"), out, federation.root / "members" / "a")
    took_s = time.monotonic() - began
    assert left.keys == "revoked"
    assert not left.checked.lacking
    assert len(left.checked.own) == ROUNDS
    (base,) = left.checked.bases
    assert base.newest == base.taken.merges == ROUNDS
    assert base.attested >= 2
    rows = dict(left.checked.rows)
    assert rows["own updates"].startswith(f"{ROUNDS} of {ROUNDS} kept")
    assert rows["inner state"] != "none kept"
    assert took_s < 60, f"{took_s:.1f} s"
    text = (federation.root / "texts" / "a" / "train.txt").read_bytes()[:200]
    key = next(p for p in federation.node("a").glob("keys/node.key")).read_bytes().splitlines()[1]
    for path in (path for path in out.rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert text not in data
        assert key not in data, path


def test_a_card_made_anew_does_not_take_the_old_one_away(federation: Federation, tmp_path: Path) -> None:
    """The trainer has kept the one that its data manifest names."""
    home = Path(shutil.copytree(federation.node("b"), tmp_path / "home"))
    kept = [path.name for path in (home / "cache" / "used-cards").iterdir()]
    new = give_card(home, federation.root / "texts" / "b", replace=True, description="Another.")
    assert kept != [f"{new.digest}.json"]
    found = exits.export(home, tmp_path / "bundle")
    assert not found.lacking
    assert [path.name for path in (tmp_path / "bundle" / "used-cards").iterdir()] == kept


def test_without_a_network_everything_local_works(federation: Federation, tmp_path: Path) -> None:
    """Under a network namespace with nothing in it; only what asks the core fails, and says so."""
    node = str(federation.node("b"))
    out = tmp_path / "bundle"
    local: list[list[str]] = [
        ["status", "node", "status", node, "--json"],
        ["export", "node", "export", node, "--out", str(out), "--json"],
        ["verify", "bundle", "verify", str(out), "--json"],
        ["evidence", "node", "evidence", node, "--out", str(tmp_path / "evidence"), "--json"],
        ["recompute", "run", "recompute", "--node", node, "--json"],
        ["model", "run", "export", "--node", node, "--out", str(tmp_path / "model"), "--json"],
        ["catalog", "catalog", "check", "--home", node, "--json"],
        ["ledger", "ledger", "verify", node, "--no-merges", "--json"],
        ["egress", "node", "egress", "list", node, "--json"],
    ]
    asks = ["asks", "member", "key", "list", node, "--json"]
    python = [sys.executable, "-P"]
    outside = subprocess.run(
        [*python, "-m", "tapestry.cli.main", *asks[1:]], capture_output=True, check=False
    )
    assert outside.returncode == 0, outside.stderr.decode()[-2000:]
    said = island([*local, asks], out / "models" / "run")
    if said["level"] != "netns":
        pytest.skip("the kernel gives no network namespace here")
    assert {name: said[name] for name, *_ in local} == {name: 0 for name, *_ in local}
    assert said["asks"] == 7  # no core to be reached
    assert said["finite"]
    assert not check.check(Path(shutil.copytree(out, tmp_path / "elsewhere"))).lacking


def island(commands: list[list[str]], model: Path) -> dict[str, Any]:
    """Exit codes of commands that run one after the other without a network."""
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "tapestry.host.isolation", "--"),
            *(sys.executable, "-P", "-c", ISLAND, json.dumps(commands), str(model)),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    value: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    if value.get("asks") == 7:
        assert "error:" in done.stderr
    return value
