from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.training.baselines import Baselines
from tapestry.training.bigrams import ADDED, Bigrams
from tapestry.training.corpus import open_corpus
from tapestry.training.tokenizer import Tokenizer

from .support import Node, write_corpus

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.make(tmp_path / "home", steps=20)


def corpora(node: Node) -> dict[str, Any]:
    other = write_corpus(node.root / "other", documents=20)
    folders = {"acme": node.root / "corpus", "zeta": other}
    return {
        name: open_corpus(folder, Tokenizer.byte_level(), node.root / "cache")
        for name, folder in folders.items()
    }


def test_bigrams_choose_what_they_add_on_training_text(node: Node) -> None:
    corpus = corpora(node)["acme"]
    model = Bigrams.fit(corpus)
    assert model.added in ADDED
    assert model.counts.sum() == pytest.approx(len(corpus.train.tokens), abs=2)
    assert np.allclose((2.0 ** -model.bits()).sum(axis=1), 1)
    assert 0 < model.score(corpus.valid, max_tokens=512).bits_per_byte < 5


def test_pooled_takes_a_batch_from_each_member_and_rates_are_tuned(node: Node) -> None:
    runs = Baselines(node.plan, node.store, corpora(node))
    sizes = []
    task = runs.tasks["acme"]
    real = task.loss
    task.loss = lambda model, batch: sizes.append(len(batch)) or real(model, batch)  # type: ignore
    pooled = runs.pooled()
    assert set(sizes) == {4}
    assert len(sizes) == 4 * 10 + 60 * len(pooled["full"])
    assert pooled["learning_rate"] == float(min(pooled["full"], key=pooled["full"].get))
    assert pooled["steps"] == 60 and len(pooled["tried"]) == 4
    assert set(pooled["bits_per_byte"]) == {"acme", "zeta"}
    sizes.clear()
    alone = runs.alone("acme")
    assert set(sizes) == {2}
    assert alone["bits_per_byte"]["acme"] < 6
    assert float(alone["learning_rate"]) in {0.0025, 0.005, 0.01, 0.02}


def test_the_command_prints_json(node: Node) -> None:
    request = {
        "plan": node.plan.digest,
        "blobs": str(node.root / "blobs"),
        "members": {"acme": str(node.root / "corpus")},
        "cache": str(node.root / "cache"),
    }
    path = node.root / "request.json"
    path.write_text(json.dumps(request))
    command = [sys.executable, "-m", "tapestry.training.baselines", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found) == {"format", "version", "plan", "bigrams", "alone", "pooled"}
    assert found["alone"]["acme"]["bits_per_byte"] == found["pooled"]["bits_per_byte"]
    path.write_text(json.dumps({**request, "what": ["trigrams"]}))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "format"
