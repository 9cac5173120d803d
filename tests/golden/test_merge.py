"""Digests of merges, frozen in merge.json. `TAPESTRY_REWRITE_GOLDEN=1` writes them anew: a change means
that members of one run would no longer agree, so it needs a new version of docs/formats/merge.md."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Merge
from tapestry.replay.engine import Engine
from tapestry.storage.blobs import BlobStore
from tests.merge import reference
from tests.replay import cases

FILE = Path(__file__).with_name("merge.json")
WEIGHTS = [5_592_405, 0, 9_000_000, 2_184_811]
PLANS = {
    "nesterov": Merge(),
    "nesterov-0.4-0.6": Merge(outer_rate=0.4, outer_momentum=0.6),
    "nesterov-no-momentum": Merge(outer_momentum=0.0),
    "sgd": Merge(outer="sgd", outer_rate=0.65, outer_momentum=0.0),
    "fedavg": cases.FEDAVG,
}


def frozen_values(layout: Layout, label: str, exponent: int) -> cases.Values:
    """Values from SHA-256 alone: 24-bit signed integers times powers of two, the odd ones among them."""
    values = {}
    for tensor in layout.tensors:
        stream = b"".join(
            hashlib.sha256(f"{label}/{tensor.name}/{i}".encode()).digest()
            for i in range(-(-tensor.elements // 4))
        )
        words = np.frombuffer(stream, dtype="<u4")[: 2 * tensor.elements].reshape(-1, 2)
        whole = (words[:, 0] >> 8).astype(np.int64) - (1 << 23)
        scaled = np.ldexp(whole.astype(np.float64), exponent - 23 - (words[:, 1] % 40).astype(np.int64))
        odd = cases.ODD[words[:, 1] // 256 % len(cases.ODD)]
        mixed = np.where(words[:, 0] % 16 == 0, odd, scaled.astype(np.float32))
        values[tensor.name] = mixed.astype(np.float32).reshape(tensor.shape)
    return values


def run(root: Path, name: str) -> dict[str, Any]:
    """Two merges in a row: without and with momentum."""
    store, layout = BlobStore.open(root / name), cases.layout_of()
    state = cases.put_state(store, layout, frozen_values(layout, "base", 0))
    rounds = []
    for number in (1, 2):
        deltas = [
            cases.put_artifact(store, layout, "delta", frozen_values(layout, f"{number}.{node}", -6))
            for node in range(4)
        ]
        job = cases.job_of(store, layout, state, deltas, weights=WEIGHTS, merge=PLANS[name])
        result = Engine(store).merge(job)
        expected, _ = reference.merge(cases.all_blobs(store), json.loads(job.to_bytes()))
        assert result.state == expected
        base = reference.read_tensors(
            cases.all_blobs(store), result.base, "base", json.loads(layout.to_bytes())
        )
        rounds.append(
            {
                "before": state,
                "state": result.state,
                "base": result.base,
                "outer": result.outer,
                "first_bits": [f"{v:08x}" for v in base["d.vector"][:6].view("<u4").tolist()],
            }
        )
        state = result.state
    return {"layout": layout.digest, "rounds": rounds}


@pytest.mark.parametrize("name", PLANS)
def test_merge_gives_the_frozen_bytes(tmp_path: Path, name: str) -> None:
    made = run(tmp_path, name)
    frozen = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("TAPESTRY_REWRITE_GOLDEN") == "1":
        FILE.write_text(json.dumps({**frozen, name: made}, indent=2, sort_keys=True) + "\n")
    else:
        assert made == frozen[name]
