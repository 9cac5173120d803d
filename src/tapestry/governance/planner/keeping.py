"""What has to be kept: disk at a node and at the core, memory of an accelerator. Bytes.

Shape legend: P parameters, f fragments, n contributions of a round, R rounds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

from tapestry.governance.planner.load import Load, Work
from tapestry.protocol.layout import ELEMENT_BYTES, Layout
from tapestry.protocol.plan import Plan

_LAYER: Final = re.compile(r"\.layers\.(\d+)\.")
_HALF: Final = 2
"""Bytes of a bf16 value."""
ACTIVATION_BYTES: Final = 34
"""Of one block, a token and a value of the width (arXiv 2205.05198), while it is computed again."""


def state_bytes(plan: Plan, parameters: int) -> int:
    """A base, with its momentum where the outer step has one."""
    return ELEMENT_BYTES * parameters * (2 if plan.merge.keeps_momentum else 1)


def inner_bytes(plan: Plan, parameters: int) -> int:
    """What a round leaves for the next at its node: moments, the node's own values where steps go on without
    the base, and the residual of one fragment. Muon has one moment for matrices; counted as all of them."""
    moments = 4 if plan.inner.optimizer == "muon" else 8
    own = ELEMENT_BYTES if plan.streaming.goes_on else 0
    return (moments + own) * parameters + residual_bytes(plan, parameters)


def residual_bytes(plan: Plan, parameters: int) -> int:
    return ELEMENT_BYTES * parameters if plan.codec.error_feedback is not None else 0


def node_disk(plan: Plan, load: Load, parameters: int, nodes: int, rounds: int, *, repeats: bool) -> float:
    """After R rounds: initial base, newest state, what of the one before differs, kept contributions, inner
    states."""
    f = plan.streaming.fragments
    base = ELEMENT_BYTES * parameters
    state = state_bytes(plan, parameters) if repeats else base
    kept = min(rounds, plan.retention.blob_rounds) * (nodes if repeats else 1) * (load.delta + load.manifest)
    inner = min(rounds, plan.retention.inner_rounds) * inner_bytes(plan, parameters)
    return base + state + state / f + kept + inner


def core_disk(plan: Plan, load: Load, parameters: int, nodes: int, rounds: int) -> float:
    """After R rounds: every state there ever was (what merges left is not erased) and kept contributions."""
    f = plan.streaming.fragments
    kept = min(rounds, plan.retention.blob_rounds) * nodes * (load.delta + load.manifest)
    return ELEMENT_BYTES * parameters + rounds * state_bytes(plan, parameters) / f + kept


def shared_bytes(plan: Plan) -> int:
    """Of a parameter, in equal parts at the accelerators of a node: fp32 value, gradient and moments, and the
    base's value where steps go on without it."""
    moments = 4 if plan.inner.optimizer == "muon" else 8
    return 2 * ELEMENT_BYTES + moments + (ELEMENT_BYTES if plan.streaming.goes_on else 0)


def accelerator_memory(plan: Plan, layout: Layout, work: Work, accelerators: int) -> float:
    """Of one of so many that share the model (FSDP2), with one sequence at a time and activations computed
    again: fp32 values, gradients and moments in equal parts; two blocks in bf16; activations; scores of
    every token."""
    shared = shared_bytes(plan) * work.parameters / accelerators
    blocks: dict[str, int] = defaultdict(int)
    for tensor in layout.tensors:
        if found := _LAYER.search(tensor.name):
            blocks[found[1]] += tensor.elements
    gathered = 2 * _HALF * max(blocks.values(), default=work.parameters)
    tokens = work.sequence
    activations = tokens * work.width * (_HALF * work.layers + ACTIVATION_BYTES)
    return shared + gathered + activations + 2 * ELEMENT_BYTES * tokens * _vocabulary(layout)


def _vocabulary(layout: Layout) -> int:
    """Rows of the embedding; 0 where none has a usual name."""
    return max((t.rows for t in layout.tensors if "embed_tokens" in t.name or "wte" in t.name), default=0)
