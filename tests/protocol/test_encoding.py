from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tapestry.errors import ArtifactError
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.encoding import PLAIN, Bf16, Codec, Fp4, Int8, TopK
from tapestry.protocol.layout import MAX_BLOB_BYTES, MAX_SHARD_BYTES, Layout, Tensor
from tapestry.protocol.plan import Inner, Merge, Plan, Rounds

LAYOUT = Layout(
    tensors=(
        Tensor(name="model.embed_tokens.weight", shape=(100, 32)),
        Tensor(name="model.layers.0.mlp.weight", shape=(64, 64)),
        Tensor(name="model.norm.weight", shape=(32,)),
    )
)


def test_a_tensor_has_the_encoding_of_its_class() -> None:
    codec = Codec(matrices=TopK(), embeddings=Int8(), norms=Bf16())
    assert [codec.named(t.name, t.shape).kind for t in LAYOUT.tensors] == ["int8", "topk", "bf16"]
    assert Codec(matrices=Fp4(), embedding_names=("mlp",)).named("a.mlp.b", (2, 2)).kind == "fp32"
    assert Codec(matrices=Fp4()).named("a.not_embed_tokens.b", (2, 2)).kind == "fp4"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"matrices": {"kind": "topk", "keep": 4097}}, "keep"),
        ({"matrices": {"kind": "topk", "keep": 65, "side": 8}}, "64 values of a block"),
        ({"matrices": {"kind": "topk", "keep": 0}}, "keep"),
        ({"matrices": {"kind": "topk", "bits": 1}}, "bits"),
        ({"matrices": {"kind": "topk", "bits": 9}}, "bits"),
        ({"matrices": {"kind": "topk", "side": 48}}, "side"),
        ({"matrices": {"kind": "fp8"}}, "kind"),
        ({"matrices": {"kind": "fp4", "keep": 3}}, "keep"),
        ({"matrices": {"kind": "fp4"}, "error_feedback": 0.0}, "error_feedback"),
        ({"matrices": {"kind": "fp4"}, "error_feedback": 1.5}, "error_feedback"),
        ({"error_feedback": 0.9}, "of use only where"),
        ({"embedding_names": ["a.b"]}, "embedding_names"),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Codec.model_validate_json(json.dumps(fields))


def test_no_encoded_shard_is_larger_than_a_blob_may_be() -> None:
    """Whatever the settings; a dense value takes 4 bytes, one of `topk` at most 8 + 2 bits and its index."""
    elements = MAX_SHARD_BYTES // 4
    for side in (8, 64):
        for keep in (1, side * side // 2, side * side):
            worst = TopK(keep=keep, side=side, bits=8)  # type: ignore[arg-type]
            assert worst.most_bytes((elements,)) < MAX_BLOB_BYTES
            assert worst.most_bytes((elements // 64, 64)) < MAX_BLOB_BYTES


def test_a_delta_is_held_against_the_codec() -> None:
    codec = Codec(matrices=TopK(), embeddings=Fp4(), norms=Fp4())
    (shard,) = LAYOUT.shards
    most = codec.most_bytes(shard)
    assert most == 8 + (13 + 1600) + (2 + 4 * 4 + 16 + 48 + 16) + (1 + 16)

    def manifest(size: int) -> Artifact:
        blob = Blob(sha256="0" * 64, bytes=size)
        return Artifact(kind="delta", layout=LAYOUT.digest, shards=(blob,))

    manifest(most).check_against(LAYOUT, kind="delta", codec=codec)
    with pytest.raises(ArtifactError, match=f"the plan's codec writes {most} at most"):
        manifest(most + 1).check_against(LAYOUT, kind="delta", codec=codec)
    with pytest.raises(ArtifactError, match="its layout says"):
        manifest(most).check_against(LAYOUT, kind="delta", codec=PLAIN)


def test_outer_momentum_and_error_feedback_are_not_together_by_accident() -> None:
    plan_fields: dict[str, Any] = {
        **dict.fromkeys(("model", "layout", "initial_state"), "0" * 64),
        "run": "r",
        "parameters": 1,
        "rounds": Rounds(total=1),
        "inner": Inner(steps=1),
    }
    codec = Codec(matrices=TopK(), error_feedback=0.95)
    with pytest.raises(ValidationError, match="momentum_on_feedback"):
        Plan(**plan_fields, codec=codec, merge=Merge())
    Plan(**plan_fields, codec=codec, merge=Merge(momentum_on_feedback=True))
    Plan(**plan_fields, codec=codec, merge=Merge(outer="sgd", outer_momentum=0.0))
    Plan(**plan_fields, codec=codec, merge=Merge(outer="fedavg", outer_rate=1.0, outer_momentum=0.0))
    for rule in ({"average": "movers"}, {"embedding_rows": "users"}):
        with pytest.raises(ValidationError, match="influence_cap below 1 means nothing"):
            Merge(influence_cap=0.5, **rule)
    with pytest.raises(ValidationError, match="sgd needs outer_momentum"):
        Merge(outer="sgd")
    with pytest.raises(ValidationError, match="momentum_on_feedback"):
        Plan(**plan_fields, codec=codec, merge=Merge(outer="delayed", refresh=4))
    Plan(**plan_fields, codec=codec, merge=Merge(outer="delayed", outer_momentum=0.0, refresh=4))


@pytest.mark.parametrize("outer", ["nesterov", "sgd", "fedavg"])
def test_refresh_is_of_a_delayed_momentum_alone(outer: str) -> None:
    fields = {
        "nesterov": {},
        "sgd": {"outer_momentum": 0.0},
        "fedavg": {"outer_rate": 1.0, "outer_momentum": 0.0},
    }[outer] | {"outer": outer}
    assert Merge.model_validate({**fields, "refresh": 1}).keeps_momentum == (outer == "nesterov")
    with pytest.raises(ValidationError, match="refresh is of outer = delayed alone"):
        Merge.model_validate({**fields, "refresh": 2})


def test_limits_of_refresh() -> None:
    for refresh in (1, 4096):
        assert Merge(outer="delayed", refresh=refresh).keeps_momentum
    for refresh in (0, 4097):
        with pytest.raises(ValidationError, match="refresh"):
            Merge(outer="delayed", refresh=refresh)
