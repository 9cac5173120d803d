"""The engine gives the bytes of an independent implementation, or a typed error and no state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapestry.errors import ArtifactError, Diverged, HashMismatch, NotFound, OverNorm, TapestryError
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob, State
from tapestry.protocol.encoding import Bf16, Codec, Fp4, Fp32, Int8, TopK
from tapestry.protocol.plan import Merge
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob
from tapestry.storage.blobs import BlobStore
from tests.merge import reference
from tests.replay import cases

SHAPES = st.lists(
    st.one_of(
        st.just(()),
        st.tuples(st.integers(1, 3000)),
        st.tuples(st.integers(1, 200), st.integers(1, 32)),
        st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6)),
        st.just((1, 512)),
    ),
    min_size=1,
    max_size=6,
)
MERGES = st.one_of(
    st.just(cases.FEDAVG),
    st.builds(
        Merge,
        average=st.sampled_from(["all", "senders", "movers"]),
        embedding_rows=st.sampled_from(["all", "users"]),
        clip=st.sampled_from(["none", "median"]),
        combine=st.sampled_from(["mean", "directions"]),
        outer_rate=st.sampled_from([0.7, 1.0, 0.1, 1e-30, 3.3333333]),
        outer_momentum=st.sampled_from([0.9, 0.0, 0.5, 0.123456789]),
    ),
)


def same_as_reference(store: BlobStore, job: MergeJob) -> None:
    try:
        expected, made = reference.merge(cases.all_blobs(store), json.loads(job.to_bytes()))
    except ArithmeticError:
        with pytest.raises(Diverged):
            Engine(store, threads=2).merge(job)
        return
    result = Engine(store, threads=2).merge(job)
    assert result.state == expected
    for sha, data in made.items():
        assert store.read(sha) == data


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shapes=SHAPES,
    merge=MERGES,
    count=st.integers(1, 5),
    seed=st.integers(0, 1 << 20),
    with_momentum=st.booleans(),
    shard_bytes=st.sampled_from([4096, 4100, 10_000, 1 << 20]),
)
def test_equals_the_reference_on_random_layouts(
    shapes: list[tuple[int, ...]],
    merge: Merge,
    count: int,
    seed: int,
    with_momentum: bool,
    shard_bytes: int,
) -> None:
    layout = cases.layout_of(
        {f"t{i}.{('mlp', 'wte')[i % 2]}": shape for i, shape in enumerate(shapes)}, shard_bytes
    )
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore.open(folder)
        job = cases.make_case(store, layout, count=count, seed=seed, with_momentum=with_momentum, merge=merge)
        same_as_reference(store, job)


def test_equals_the_reference_on_shards_longer_than_a_block(store: BlobStore) -> None:
    layout = cases.layout_of({"a": (300, 1001), "b": ()}, shard_bytes=1 << 20)
    same_as_reference(store, cases.make_case(store, layout, count=4, seed=3))


def test_many_merges_in_a_row_equal_the_reference(store: BlobStore) -> None:
    layout = cases.layout_of()
    job = cases.make_case(store, layout, with_momentum=False)
    engine = Engine(store, threads=2)
    for merges in range(1, 5):
        expected, _ = reference.merge(cases.all_blobs(store), json.loads(job.to_bytes()))
        result = engine.merge(job)
        assert result.state == expected
        assert State.from_bytes(store.read(expected)).merges == merges
        deltas = [
            cases.put_artifact(store, layout, "delta", cases.random_values(layout, 100 * merges + i, 0.01))
            for i in range(3)
        ]
        job = cases.job_of(store, layout, expected, deltas)


@pytest.mark.parametrize("kind", ["sparse", "fp4", "mixed"])
def test_encoded_contributions_equal_the_reference(store: BlobStore, kind: str) -> None:
    few = TopK(keep=64, bits=2)
    codec = {
        "sparse": Codec(matrices=few, embeddings=few, norms=few, error_feedback=0.95),
        "fp4": Codec(matrices=Fp4(), embeddings=Fp4(), norms=Bf16()),
        "mixed": Codec(matrices=few, embeddings=Int8(), norms=Fp32(), error_feedback=1.0),
    }[kind]
    shapes = {"a.norm": (130,), "b.wte.weight": (100, 48), "c.matrix": (300, 70), "d.scalar": ()}
    layout = cases.layout_of(shapes, shard_bytes=1 << 15)
    engine, momentum = Engine(store, threads=2), None
    base = cases.random_values(layout, 1)
    for merge in (Merge(outer="sgd", outer_rate=0.7, outer_momentum=0.0), Merge()):
        state = cases.put_state(store, layout, base, momentum)
        deltas = [
            cases.put_encoded(store, layout, codec, cases.random_values(layout, 10 + i, 0.01, odd=0.01))
            for i in range(4)
        ]
        job = cases.job_of(store, layout, state, deltas, merge=merge, codec=codec)
        same_as_reference(store, job)
        for delta in deltas:
            engine.screen(delta, layout.digest, codec)
        momentum = cases.random_values(layout, 3, 0.1)


def test_an_update_larger_than_the_plan_allows_is_refused(store: BlobStore) -> None:
    layout = cases.layout_of({"a": (256, 64), "b": (7,)}, shard_bytes=1 << 15)
    store.put(layout.to_bytes(), durable=False)
    values = cases.random_values(layout, 1, odd=0.0)
    norm = sum(float((each.astype("f8") ** 2).sum()) for each in values.values()) ** 0.5
    digest = cases.put_artifact(store, layout, "delta", values)
    engine = Engine(store)
    engine.screen(digest, layout.digest, largest_norm=norm * 1.001)
    with pytest.raises(OverNorm, match=r"its norm is .*, the plan allows"):
        engine.screen(digest, layout.digest, largest_norm=norm * 0.999)
    engine.screen(digest, layout.digest)  # without the rule it passes


def test_an_encoded_shard_that_is_wrong_is_refused(store: BlobStore) -> None:
    few = TopK()
    codec = Codec(matrices=few, embeddings=few, norms=few)
    layout = cases.layout_of({"a": (256, 64)}, shard_bytes=1 << 15)
    store.put(layout.to_bytes(), durable=False)
    digest = cases.put_encoded(store, layout, codec, cases.random_values(layout, 1, odd=0.0))
    good = Artifact.from_bytes(store.read(digest))
    data = bytearray(store.read(good.shards[0].sha256))
    engine = Engine(store)

    def refused(changed: bytes, why: str) -> None:
        blob = Blob(sha256=store.put(changed, durable=False), bytes=len(changed))
        bad = good.model_copy(update={"shards": (blob, *good.shards[1:])})
        sha = store.put(bad.to_bytes(), durable=False)
        with pytest.raises(ArtifactError, match=why):
            engine.screen(sha, layout.digest, codec)
        state = cases.put_state(store, layout, cases.random_values(layout, 2, odd=0.0))
        with pytest.raises(ArtifactError, match=why):
            engine.merge(cases.job_of(store, layout, state, [sha], codec=codec))

    refused(bytes(data[:-1]), "ends early")
    refused(bytes(data) + b"\0", "bytes behind its last section|bytes, the plan's codec")
    refused(b"X" + bytes(data[1:]), "does not begin as an encoded delta")
    refused(bytes(data[:10]) + b"\0\0\xc0\x7f" + bytes(data[14:]), "not finite")
    refused(bytes(1 << 16), "the plan's codec writes")
    with pytest.raises(ArtifactError, match="its layout says"):
        engine.screen(digest, layout.digest)
    engine.screen(digest, layout.digest, codec)


def test_denormals_are_kept_where_a_library_switched_them_off(store: BlobStore) -> None:
    layout = cases.layout_of({"a": (1000,)})
    small = np.full(1000, 3e-39, dtype=np.float32)
    state = cases.put_state(store, layout, {"a": small * np.float32(0.25)})
    deltas = [cases.put_artifact(store, layout, "delta", {"a": small * k}) for k in np.float32([1, 2, 3])]
    job = cases.job_of(store, layout, state, deltas)
    expected, made = reference.merge(cases.all_blobs(store), json.loads(job.to_bytes()))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert Engine(store).merge(job).state == expected
    finally:
        torch.set_flush_denormal(False)
    base = reference.read_tensors(
        made, State.from_bytes(made[expected]).base, "base", json.loads(layout.to_bytes())
    )
    assert 0 < np.abs(base["a"]).max() < np.finfo(np.float32).tiny


def test_repeating_a_merge_gives_the_same_and_writes_nothing_new(store: BlobStore) -> None:
    job = cases.make_case(store, durable=True)
    first = Engine(store, threads=1).merge(job)
    before = {blob.sha256 for blob in store.iterate()}
    second = Engine(store, threads=3).merge(job)
    assert (first.state, first.base, first.outer) == (second.state, second.base, second.outer)
    assert {blob.sha256 for blob in store.iterate()} == before


def test_buffers_serve_layouts_of_other_sizes_one_after_the_other(store: BlobStore) -> None:
    engine = Engine(store, threads=2)
    for shapes, shard_bytes in (
        ({"a": (10,)}, 4096),
        ({"a": (5000, 3)}, 32768),
        ({f"t{i}": () for i in range(500)}, 4096),
        ({"a": (9,), "b": (700,)}, 4096),
    ):
        job = cases.make_case(store, cases.layout_of(shapes, shard_bytes), seed=5)
        expected, _ = reference.merge(cases.all_blobs(store), json.loads(job.to_bytes()))
        assert engine.merge(job).state == expected


def test_fedavg_is_rate_one_without_momentum(store: BlobStore) -> None:
    layout = cases.layout_of()
    job = cases.make_case(store, layout, merge=cases.FEDAVG)
    plain = job.model_copy(update={"merge": Merge(outer_rate=1.0, outer_momentum=0.0)})
    fedavg, nesterov = Engine(store).merge(job), Engine(store).merge(plain)
    assert fedavg.base == nesterov.base
    assert fedavg.outer is None and nesterov.outer is not None
    assert State.from_bytes(store.read(fedavg.state)).outer is None


def test_input_bytes_are_those_of_all_shards_read(store: BlobStore) -> None:
    layout = cases.layout_of()
    size = sum(shard.total_bytes for shard in layout.shards)
    assert Engine(store).merge(cases.make_case(store, layout, count=3)).input_bytes == 5 * size
    first = cases.make_case(store, layout, count=3, with_momentum=False)
    assert Engine(store).merge(first).input_bytes == 4 * size


# -- the same bytes at every SIMD level and thread count ---------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_same_bytes_at_every_simd_level(
    store: BlobStore, tmp_path: Path, capability: str, threads: int
) -> None:
    layout = cases.layout_of({"a": (300, 1001), "b": (), "c": (77, 33)}, shard_bytes=1 << 20)
    job = cases.make_case(store, layout, count=4, seed=9)
    expected, _ = reference.merge(cases.all_blobs(store), json.loads(job.to_bytes()))
    (tmp_path / "job.json").write_bytes(job.to_bytes())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.replay.cases"),
            *(str(store.root), str(tmp_path / "job.json"), str(threads)),
        ],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=True,
    )
    state, ran_at = done.stdout.split()
    if ran_at.lower() != capability:
        pytest.skip(f"this machine runs {capability} as {ran_at}")
    assert state == expected


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weight", ["all", "none"])
@pytest.mark.parametrize("merge", [cases.NESTEROV, cases.FEDAVG])
def test_not_finite_is_refused(store: BlobStore, bad: float, weight: str, merge: Merge) -> None:
    layout = cases.layout_of()
    values = cases.random_values(layout, 7, 0.01)
    values["d.vector"][2999] = bad
    good = cases.put_artifact(store, layout, "delta", cases.random_values(layout, 8, 0.01))
    evil = cases.put_artifact(store, layout, "delta", values)
    state = cases.put_state(store, layout, cases.random_values(layout, 1))
    one = 1 << 24
    weights = [0, one] if weight == "all" else [one, 0]
    job = cases.job_of(store, layout, state, [good, evil], weights=weights, merge=merge)
    with pytest.raises(Diverged, match="not finite"):
        Engine(store).merge(job)
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        Engine(store).screen(evil, layout.digest)
    Engine(store).screen(good, layout.digest)
    assert states(store) == {state}


def test_overflow_is_refused(store: BlobStore) -> None:
    layout = cases.layout_of({"a": (8,)})
    base = {"a": np.full(8, 3e38, dtype=np.float32)}
    state = cases.put_state(store, layout, base)
    delta = cases.put_artifact(store, layout, "delta", {"a": np.full(8, -3e38, dtype=np.float32)})
    Engine(store).screen(delta, layout.digest)  # the sum overflows, no element is infinite
    with pytest.raises(Diverged, match="not finite"):
        Engine(store).merge(cases.job_of(store, layout, state, [delta], weights=[1 << 24]))


def states(store: BlobStore) -> set[str]:
    paths = [store.path(blob.sha256) for blob in store.iterate()]
    return {path.name for path in paths if b'"tapestry.state"' in path.read_bytes()}


def rewrite_shard(store: BlobStore, artifact_sha: str, index: int, data: bytes, *, claim: int) -> str:
    """The artifact with another shard blob at `index`, said to have `claim` bytes."""
    artifact = json.loads(store.read(artifact_sha))
    artifact["shards"][index] = {"sha256": store.put(data, durable=False), "bytes": claim}
    return store.put(Artifact.model_validate_json(json.dumps(artifact)).to_bytes(), durable=False)


def with_delta(job: MergeJob, delta: str) -> MergeJob:
    first = job.contributions[0].model_copy(update={"delta": delta})
    return job.model_copy(update={"contributions": (first, *job.contributions[1:])})


def expect_error(store: BlobStore, job: MergeJob, kind: type[TapestryError], match: str) -> None:
    before = states(store)
    with pytest.raises(kind, match=match) as caught:
        Engine(store).merge(job)
    assert "node00" in caught.value.message
    with pytest.raises(kind):
        Engine(store).screen(job.contributions[0].delta, job.layout)
    assert states(store) == before


def test_wrong_header(store: BlobStore) -> None:
    layout = cases.layout_of()
    job = cases.make_case(store, layout)
    delta = job.contributions[0].delta
    shard = Artifact.from_bytes(store.read(delta)).shards[2]
    data = bytearray(store.read(shard.sha256))
    data[10] ^= 1
    evil = rewrite_shard(store, delta, 2, bytes(data), claim=len(data))
    expect_error(store, with_delta(job, evil), ArtifactError, "header")


@pytest.mark.parametrize("change", [-4, 4])
def test_wrong_size(store: BlobStore, change: int) -> None:
    layout = cases.layout_of()
    job = cases.make_case(store, layout)
    delta = job.contributions[0].delta
    data = store.read(Artifact.from_bytes(store.read(delta)).shards[1].sha256)
    other = data[:change] if change < 0 else data + bytes(change)
    stated = rewrite_shard(store, delta, 1, other, claim=len(other))
    expect_error(store, with_delta(job, stated), ArtifactError, "layout says")
    lied = rewrite_shard(store, delta, 1, other, claim=len(data))
    expect_error(store, with_delta(job, lied), ArtifactError, "wrong size")
    assert store.has(canonical.sha256(other)), "a whole blob that a manifest lies about stays"


def test_altered_blob(store: BlobStore) -> None:
    job = cases.make_case(store)
    shard = Artifact.from_bytes(store.read(job.contributions[0].delta)).shards[-1]
    good = store.read(shard.sha256)
    flipped = good[:-1] + bytes([good[-1] ^ 64])
    for bad in (flipped, good[:-1], good + b"x"):
        store.path(shard.sha256).write_bytes(bad)
        before = states(store)
        with pytest.raises(HashMismatch, match="node00"):
            Engine(BlobStore.open(store.root)).merge(job)
        assert not store.has(shard.sha256), "a damaged blob is removed, so that it is fetched again"
        assert states(store) == before
        store.put(good)
    Engine(store).merge(job)


@pytest.mark.parametrize("what", ["shard", "manifest"])
def test_missing_blob(store: BlobStore, what: str) -> None:
    job = cases.make_case(store)
    delta = job.contributions[0].delta
    store.delete(delta if what == "manifest" else Artifact.from_bytes(store.read(delta)).shards[3].sha256)
    before = {blob.sha256 for blob in store.iterate()}
    expect_error(store, job, NotFound, "delta of node node00")
    assert {blob.sha256 for blob in store.iterate()} == before, "found before anything was written"


def test_parts_that_do_not_belong_together(store: BlobStore) -> None:
    job = cases.make_case(store)
    other = cases.layout_of({"x": (3,)})
    store.put(other.to_bytes())
    for update, match in (
        ({"run": "other"}, "belongs to run"),
        ({"model": "1" * 64}, "is of model"),
        ({"layout": other.digest}, "has layout"),
    ):
        with pytest.raises(ArtifactError, match=match):
            Engine(store).merge(job.model_copy(update=update))
    base = State.from_bytes(store.read(job.state)).base
    expect_error(store, with_delta(job, base), ArtifactError, "expected an artifact of kind delta")


def test_one_huge_contribution_ends_the_round_and_not_the_worker(store: BlobStore) -> None:
    """Its factor under `directions` is beyond fp32; so is the merge, and nothing else breaks."""
    layout = cases.layout_of({"a": (100,)})
    state = cases.put_state(store, layout, {"a": np.zeros(100, dtype=np.float32)})
    values = [np.full(100, size, dtype=np.float32) for size in (1e-4, 1e37)]
    deltas = [cases.put_artifact(store, layout, "delta", {"a": each}) for each in values]
    merge = Merge(combine="directions")
    job = cases.job_of(store, layout, state, deltas, weights=[1 << 23, 1 << 23], merge=merge)
    with pytest.raises(Diverged, match="node01"):
        Engine(store).merge(job)
