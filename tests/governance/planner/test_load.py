"""What is computed and sent, against figures by hand and against the messages themselves."""

from __future__ import annotations

import pytest

from tapestry.governance.planner.exchange import all_reduce_bytes, moved
from tapestry.governance.planner.load import Load, Work
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.encoding import Codec, Fp4, TopK
from tests.governance.planner.made import PARAMETERS, SHA, layout


def test_operations_of_a_token() -> None:
    work = Work.of(layout(), sequence=50)
    assert work.parameters == PARAMETERS == 37_440
    assert work.products == PARAMETERS - 6400, "the input embedding is looked up, not multiplied"
    assert (work.layers, work.width) == (2, 64)
    assert work.flops_per_token == 6 * 31_040 + 12 * 2 * 64 * 50 == 263_040


def test_an_embedding_that_is_the_output_as_well_is_multiplied() -> None:
    whole = layout()
    tied = whole.model_copy(update={"tensors": tuple(t for t in whole.tensors if t.name != "lm_head.weight")})
    assert Work.of(tied, 50).products == PARAMETERS - 6400 == tied.elements


@pytest.mark.parametrize(
    "codec", [Codec(), Codec(matrices=Fp4()), Codec(matrices=TopK(), error_feedback=0.95)]
)
def test_a_contribution_has_the_bytes_of_its_messages(codec: Codec) -> None:
    of = layout()
    assert len(of.shards) > 1
    load = Load.of(of, codec)
    sizes = [codec.most_bytes(shard) for shard in of.shards]
    manifest = Artifact(
        kind="delta", layout=SHA, shards=tuple(Blob(sha256=SHA, bytes=size) for size in sizes)
    )
    assert load.delta == load.largest_delta == manifest.total_bytes
    assert abs(load.manifest - len(manifest.to_bytes())) <= 1
    assert (load.shards, load.base_shards) == (len(sizes), len(sizes))
    assert load.base == sum(shard.total_bytes for shard in of.shards) and load.dense == 4 * PARAMETERS


def test_fragments_that_the_layout_does_not_have_are_equal_parts() -> None:
    whole, half = Load.of(layout(), Codec()), Load.of(layout(), Codec(), fragments=2)
    assert (half.delta, half.dense, half.shards) == (whole.delta / 2, whole.dense / 2, whole.shards / 2)
    assert half.base == whole.base


def test_bytes_of_a_round_grow_with_what_is_sent_and_received() -> None:
    load = Load.of(layout(), Codec())
    own = load.delta + load.manifest
    found = [moved(load, n, repeats=True, looks_back=False, train_s=0.0) for n in (2, 3, 5)]
    assert [each.payload_sent for each in found] == [own] * 3
    assert [each.payload_received for each in found] == [own, 2 * own, 4 * own]
    # One contribution more is fetched with a request for each shard and one for its manifest.
    shards = load.shards + 1
    assert found[1].messages_sent - found[0].messages_sent == pytest.approx(shards * 1090)
    assert found[1].messages_received - found[0].messages_received == pytest.approx(shards * 200 + 8000)
    fetched = [moved(load, n, repeats=False, looks_back=False, train_s=0.0).payload_received for n in (2, 5)]
    assert fetched == [load.base + load.base_manifest] * 2
    talking = moved(load, 2, repeats=True, looks_back=False, train_s=60.0)
    assert talking.messages_sent - found[0].messages_sent == pytest.approx(60 * 1170)
    back = moved(load, 2, repeats=True, looks_back=True, train_s=0.0)
    assert back.messages_received - found[0].messages_received == pytest.approx(200 + 2 * 1900)


def test_a_ring_all_reduce() -> None:
    assert all_reduce_bytes(1000, 2) == 4000
    assert all_reduce_bytes(1000, 4) == 6000
    assert all_reduce_bytes(1000, 1) == 0
