"""A model spread over an island: FSDP2 (`fully_shard`), precision, recomputed activations, compilation.

Parameters, gradients after their reduction, moments and deltas are fp32 in any case; `bf16` is the type of
forward and backward passes and of the gathered copies of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from tapestry.training.island import Island
from tapestry.training.settings import Training


def spread(module: nn.Module, island: Island, settings: Training | None) -> None:
    """Prepare a model whose parameters have no memory yet; afterwards they are DTensors where the island
    has a mesh, split along their first axis."""
    if settings is not None and settings.recompute_activations:
        enable = module.activation_checkpointing_enable
        assert callable(enable)  # noqa: S101 - a method of every transformers model
        enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if settings is not None and settings.compile:
        for layer in layers(module):
            layer.compile()
    if island.mesh is None:
        return
    policy = MixedPrecisionPolicy()
    if settings is not None and settings.precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # The root reshards as well: a base that is loaded after a score must not meet gathered old weights.
    for each in (*layers(module), module):
        fully_shard(each, mesh=island.mesh, mp_policy=policy, reshard_after_forward=True)


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks that are gathered, recomputed and compiled one at a time."""
    for child in module.modules():
        if isinstance(child, nn.ModuleList):
            yield from child
