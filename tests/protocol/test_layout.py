"""Layouts fix every shard to the byte; artifacts are held against them."""

from __future__ import annotations

import itertools
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import deserialize

from tapestry.errors import ArtifactError, FormatError, VersionError
from tapestry.protocol.artifact import Artifact, Blob, State
from tapestry.protocol.layout import Layout, Tensor

SHAPES = st.lists(
    st.one_of(
        st.just(()),
        st.tuples(st.integers(1, 3000)),
        st.tuples(st.integers(1, 200), st.integers(1, 32)),
        st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6)),
    ),
    min_size=1,
    max_size=8,
)


def make(shapes: list[tuple[int, ...]], shard_bytes: int = 4096) -> Layout:
    tensors = tuple(Tensor(name=f"t{i}", shape=shape) for i, shape in enumerate(shapes))
    return Layout(shard_bytes=shard_bytes, tensors=tensors)


@given(SHAPES)
def test_shards_cover_every_row_once_in_order(shapes: list[tuple[int, ...]]) -> None:
    layout = make(shapes)
    pieces = [piece for shard in layout.shards for piece in shard.pieces]
    for tensor in layout.tensors:
        own = [p for p in pieces if p.tensor == tensor]
        assert own[0].row_start == 0
        assert own[-1].row_stop == tensor.rows
        assert all(a.row_stop == b.row_start for a, b in itertools.pairwise(own))
    assert sum(shard.elements for shard in layout.shards) == layout.elements
    assert all(0 < shard.data_bytes <= layout.shard_bytes for shard in layout.shards)
    assert Layout.from_bytes(layout.to_bytes()) == layout


@given(SHAPES)
def test_a_shard_is_a_plain_safetensors_file(shapes: list[tuple[int, ...]]) -> None:
    for shard in make(shapes).shards:
        data = shard.header + bytes(shard.data_bytes)
        assert len(data) == shard.total_bytes
        read = dict(deserialize(data))
        assert {n: tuple(t["shape"]) for n, t in read.items()} == {
            p.tensor.name: p.shape for p in shard.pieces
        }
        (length,) = struct.unpack("<Q", shard.header[:8])
        assert length % 8 == 0
        assert json.loads(shard.header[8:])


def test_unsorted_twice_and_too_wide_are_refused() -> None:
    a, b = Tensor(name="a", shape=(2,)), Tensor(name="b", shape=(2,))
    Layout(tensors=(a, b))
    for tensors in ((b, a), (a, a)):
        with pytest.raises(ValidationError, match="order"):
            Layout(tensors=tensors)
    with pytest.raises(ValidationError, match="row of tensor"):
        Layout(shard_bytes=4096, tensors=(Tensor(name="a", shape=(1, 1025)),))


def manifest(of: Layout, **changes: object) -> Artifact:
    shards = tuple(Blob(sha256=f"{s.index:064x}", bytes=s.total_bytes) for s in of.shards)
    fields: dict[str, object] = {"kind": "delta", "layout": of.digest, "shards": shards}
    return Artifact(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_artifact_that_does_not_fit_its_layout_is_refused() -> None:
    layout = make([(3000,), (5, 5)])
    manifest(layout).check_against(layout, kind="delta")
    good = manifest(layout).shards
    bigger = (good[0].model_copy(update={"bytes": good[0].bytes + 4}), *good[1:])
    for wrong in (
        manifest(layout, kind="base"),
        manifest(layout, layout="0" * 64),
        manifest(layout, shards=good[:-1]),
        manifest(layout, shards=bigger),
    ):
        with pytest.raises(ArtifactError):
            wrong.check_against(layout, kind="delta")


def test_version_and_missing_fields_are_told_apart() -> None:
    state = State(run="r", model="0" * 64, merges=0, base="0" * 64, outer=None)
    data = state.to_bytes()
    assert State.from_bytes(data) == state
    with pytest.raises(VersionError, match="version 2"):
        State.from_bytes(data.replace(b'"version":1', b'"version":2'))
    with pytest.raises(VersionError, match="tapestry\\.other"):
        State.from_bytes(data.replace(b"tapestry.state", b"tapestry.other"))
    with pytest.raises(FormatError, match="Extra"):
        State.from_bytes(data.replace(b'"base"', b'"aase":1,"base"'))
