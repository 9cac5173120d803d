"""Small plans, models and members, in figures that can be reckoned by hand."""

from __future__ import annotations

from typing import Any

from tapestry.governance.planner.members import Core, Goal, Member, MembersFile, Prices
from tapestry.governance.planner.rates import DEFAULT, Rates
from tapestry.governance.planner.scenario import Scenario
from tapestry.governance.planner.spread import Spread
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Retention, Rounds, Streaming, Witness

SHA = "0" * 64
SHAPES = {
    "lm_head.weight": (100, 64),
    "model.embed_tokens.weight": (100, 64),
    "model.layers.0.mlp.up_proj.weight": (128, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.1.mlp.up_proj.weight": (128, 64),
    "model.layers.1.self_attn.q_proj.weight": (64, 64),
    "model.norm.weight": (64,),
}
PARAMETERS = 2 * 6400 + 2 * (8192 + 4096) + 64


def layout(shard_bytes: int = 1 << 16) -> Layout:
    tensors = tuple(Tensor(name=name, shape=shape) for name, shape in SHAPES.items())
    return Layout(shard_bytes=shard_bytes, tensors=tensors)


def plan(**changed: Any) -> Plan:
    """Ten rounds of 10 steps of 100 tokens, dense, without momentum."""
    fields: dict[str, Any] = {
        "rounds": Rounds(total=10, min_nodes=2, quorum=1, deadline_s=1000.0),
        "inner": Inner(steps=10, sequence_length=50, batch_sequences=2),
        "codec": Codec(),
        "merge": Merge(outer="sgd", outer_momentum=0.0),
        "streaming": Streaming(),
        "witness": Witness(),
        "evaluation": Evaluation(every_rounds=1 << 20, max_tokens=1),
        "retention": Retention(blob_rounds=4, inner_rounds=2),
    }
    named = dict.fromkeys(("model", "layout", "initial_state"), SHA)
    return Plan(run="r", parameters=PARAMETERS, **{**fields, **named, **changed})


def member(name: str = "a", **changed: Any) -> Member:
    """1,000 tokens a second, 8 Mbit/s each way."""
    fields: dict[str, Any] = {
        "tokens_per_s": 1000.0,
        "up_mbit": 8.0,
        "down_mbit": 8.0,
        "round_trip_ms": 0.0,
        "available": 1.0,
    }
    fields |= changed
    if "accelerator" in changed or "peak_tflops" in changed:
        del fields["tokens_per_s"]
    return Member(name=name, **fields)


def members(*listed: Member, **changed: Any) -> MembersFile:
    fields: dict[str, Any] = {"goal": Goal(utilisation=0.01), "core": Core(), "prices": Prices(), **changed}
    return MembersFile(
        format="tapestry.members-file", version=1, members=listed or (member("a"), member("b")), **fields
    )


def exact(**changed: float) -> Rates:
    """No uncertainty; everything but links and training takes no time unless it is given."""
    none: dict[str, Spread] = {
        "link_efficiency": Spread.exactly(1.0),
        "round_trips": Spread.exactly(0.0),
        "request_s": Spread.exactly(0.0),
        "fixed_s": Spread.exactly(0.0),
        "encode_bytes_s": Spread.exactly(1e18),
        "disk_bytes_s": Spread.exactly(1e18),
        "merge_bytes_s": Spread.exactly(1e18),
        "decode_bytes_s": Spread.exactly(1e18),
        "sent_messages": Spread.exactly(1.0),
        "received_messages": Spread.exactly(1.0),
    }
    return DEFAULT.with_measured(none | {k: Spread.exactly(v) for k, v in changed.items()}, "given")


def scenario(
    *, who: MembersFile | None = None, rates: Rates | None = None, of: Layout | None = None, **changed: Any
) -> Scenario:
    return Scenario(
        plan=plan(**changed), layout=of or layout(), members=who or members(), rates=rates or exact()
    )
