"""The ranks that train one node's copy of the model together: one process, or many under torchrun.

R: ranks. A rank holds the same share of every batch and, sharded, a run of rows of every parameter. What
ranks tell each other here are numbers and bytes of ours; torch's own parts (rendezvous, checkpoint plans)
pickle among themselves, which is why an island's network belongs to the island alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tapestry.errors import OutOfMemory, RankLost, SettingsError
from tapestry.training.settings import Training

CPU: Final = torch.device("cpu")
JOIN: Final = timedelta(minutes=10)
"""To find each other, and for each exchange of weights and gradients."""
PATIENCE: Final = timedelta(hours=24)
"""The lead may read a large corpus so long while the others wait. A rank that dies is noticed at once."""
_NO_MEMORY: Final = ("can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc")
_PEER_GONE: Final = ("Connection closed", "Connection reset", "connection was closed", "Broken pipe", "gloo/")
_HINT: Final = (
    "in node.toml: fewer sequences_at_once, recompute_activations = true, or more processes; see "
    "docs/guides/islands.md"
)


@dataclass(frozen=True)
class Island:
    """This rank's place among the ranks. `ISLAND_OF_ONE` needs no torchrun and no process group."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = CPU
    mesh: DeviceMesh | None = None
    """One axis over all ranks; None for a model that is not sharded."""
    words: dist.ProcessGroup | None = None
    """For what the ranks tell each other, which may take long."""

    @classmethod
    def join(cls, settings: Training) -> Island:
        """Find the other ranks that torchrun started.

        Raises:
            SettingsError: the device is not there, or there are fewer than ranks.
        """
        rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device = _device(settings.device, int(os.environ.get("LOCAL_RANK", "0")))
        if ranks == 1 and settings.precision == "fp32":
            return cls(device=device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with _translated(rank, device):
            if "MASTER_ADDR" in os.environ:
                dist.init_process_group(backend, timeout=JOIN)
            else:
                store = dist.HashStore()  # type: ignore[attr-defined]
                dist.init_process_group(backend, store=store, rank=0, world_size=1)
            mesh = init_device_mesh(device.type, (ranks,), mesh_dim_names=("rank",))
            words = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(rank, ranks, device, mesh, words)

    @property
    def alone(self) -> bool:
        return self.ranks == 1

    @property
    def lead(self) -> bool:
        """Whether this is the rank that reads jobs, writes status and publishes."""
        return self.rank == 0

    def share(self, data: bytes | None) -> bytes:
        """What the lead gives, at every rank."""
        if self.alone:
            return data or b""
        given = data if self.lead and data else b""
        size = torch.tensor([len(given)])
        dist.broadcast(size, 0, group=self.words)
        if size.item() == 0:
            return b""
        body = torch.frombuffer(bytearray(given), dtype=torch.uint8) if self.lead else None
        if body is None:
            body = torch.empty(int(size.item()), dtype=torch.uint8)
        dist.broadcast(body, 0, group=self.words)
        return body.numpy().tobytes()

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank gives, in the order of ranks, at every rank."""
        if self.alone:
            return [data]
        sizes = torch.zeros(self.ranks, dtype=torch.int64)
        sizes[self.rank] = len(data)
        dist.all_reduce(sizes, group=self.words)
        room = int(sizes.max())
        mine = torch.zeros(room, dtype=torch.uint8)
        if data:
            mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(everyone, mine, group=self.words)
        pairs = zip(everyone, sizes.tolist(), strict=True)
        return [tensor[:size].numpy().tobytes() for tensor, size in pairs]

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks, in double precision."""
        if self.alone:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.words)
        return [float(each) for each in total.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether it holds at one rank at least."""
        return self.sum(float(flag))[0] > 0

    def barrier(self) -> None:
        """Go on when every rank is here."""
        self.sum(0.0)

    def exchange(self, outgoing: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Give rank k the flat fp32 tensor `outgoing[k]` and get `sizes[k]` values from it, on the CPU."""
        if self.alone:
            return [outgoing[0].cpu()]
        sent = torch.cat([each.reshape(-1) for each in outgoing]).to(self.device)
        got = torch.empty(sum(sizes), dtype=torch.float32, device=self.device)
        dist.all_to_all_single(got, sent, list(sizes), [each.numel() for each in outgoing])
        return list(torch.split(got.cpu(), list(sizes)))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Foreign failures made ours.

        Raises:
            OutOfMemory: of this rank, naming it.
            RankLost: another rank ended while this one waited for it.
        """
        with _translated(self.rank, self.device):
            yield


ISLAND_OF_ONE: Final = Island()


def _device(kind: str, local_rank: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingsError(
            'device = "cuda", but torch finds no GPU here',
            hint='install a torch with CUDA and its driver, or set device = "cpu" in node.toml',
        )
    if local_rank >= torch.cuda.device_count():
        raise SettingsError(
            f"this host has {torch.cuda.device_count()} GPUs, fewer than processes in node.toml",
            hint="set processes to the number of GPUs",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def _translated(rank: int, device: torch.device) -> Iterator[None]:
    try:
        yield
    except MemoryError as e:
        raise OutOfMemory(f"rank {rank} ran out of memory", hint=_HINT) from e
    except RuntimeError as e:
        said = str(e)
        if isinstance(e, torch.OutOfMemoryError) or any(text in said for text in _NO_MEMORY):
            where = "accelerator memory" if device.type != "cpu" else "memory"
            raise OutOfMemory(f"rank {rank} ran out of {where}", hint=_HINT) from e
        if isinstance(e, dist.DistError) or any(text in said for text in _PEER_GONE):
            raise RankLost(f"rank {rank} lost another rank of its island") from e
        raise
