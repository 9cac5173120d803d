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
import torch

from tapestry.errors import Diverged
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.plan import Merge
from tapestry.replay.engine import Engine
from tapestry.rounds.weights import UNIT
from tapestry.storage.blobs import BlobStore
from tapestry.tensors.shards import pack
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
    "delayed": Merge(outer="delayed", refresh=2),
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


def test_each_fragment_counts_its_own_merges(tmp_path: Path) -> None:
    """Fragments take turns; the momentum of each is refreshed in every second merge of its own."""
    store = BlobStore.open(tmp_path)
    names = ("a", "b", "c")
    layout = Layout(tensors=tuple(Tensor(name=name, shape=(9,)) for name in names), fragments=(0, 1, 2))
    shape = json.loads(layout.to_bytes())
    bases = frozen_values(layout, "base", 0)
    momenta = {name: np.zeros(9, dtype=np.float32) for name in names}
    state = cases.put_state(store, layout, bases)
    for merges in range(9):
        name = names[merges % 3]
        values = frozen_values(layout, f"{merges}", -6)
        blobs = []
        for shard in layout.fragment_at(merges).shards:
            data = pack(shard, {name: torch.tensor(values[name])})
            blobs.append(Blob(sha256=store.put(data), bytes=len(data)))
        delta = store.put(Artifact(kind="delta", layout=layout.digest, shards=tuple(blobs)).to_bytes())
        merge = Merge(outer="delayed", refresh=2)
        result = Engine(store).merge(cases.job_of(store, layout, state, [delta], weights=[UNIT], merge=merge))
        with np.errstate(all="ignore"):
            bases[name], momenta[name] = reference.merge_values(
                bases[name],
                momenta[name],
                [values[name]],
                [UNIT],
                outer="delayed",
                rate=0.7,
                mu=0.9,
                refresh=2,
                number=merges // 3 + 1,
            )
        made = cases.all_blobs(store)
        for kind, sha, expected in (("base", result.base, bases), ("outer", result.outer, momenta)):
            assert sha is not None
            tensors = reference.read_tensors(made, sha, kind, shape)
            assert all(tensors[each].tobytes() == expected[each].tobytes() for each in names)
        state = result.state


def test_a_delayed_momentum_that_overflows_is_found_at_once(tmp_path: Path) -> None:
    """The base takes none of it before the next refresh."""
    store, layout = BlobStore.open(tmp_path), cases.layout_of({"a": (9,)})
    huge = {"a": np.full(9, 3e38, dtype=np.float32)}
    state = cases.put_state(store, layout, {"a": np.zeros(9, dtype=np.float32)}, huge)
    delta = cases.put_artifact(store, layout, "delta", huge)
    job = cases.job_of(store, layout, state, [delta], merge=Merge(outer="delayed", refresh=2))
    with pytest.raises(ArithmeticError, match="momentum"):
        reference.merge(cases.all_blobs(store), json.loads(job.to_bytes()))
    with pytest.raises(Diverged, match=r"the merged momentum is not finite .* node00"):
        Engine(store).merge(job)
