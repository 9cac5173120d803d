"""What a cluster is to the watcher, and what is launched on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from tapestry.training import launcher
from tapestry.training.settings import TrainerSettings

Phase = Literal["queued", "running", "ending", "gone"]
DIGEST_DIGITS: Final = 32
FRESH_STORE: Final = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Ranks that torchrun starts again meet in a new store. In the one that it would share with them they find
the addresses that the dead left there, and wait for each other for ever."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A job as the scheduler tells of it."""

    job: str
    phase: Phase
    reason: str | None = None
    """Why it waits, or how it ended; words of the scheduler."""
    lost: bool = False
    """It was taken away (preempted, its host failed, cancelled by somebody): no fault of what ran in it."""
    digest: str | None = None
    """`Cluster.digest` of whoever submitted it."""


class Cluster(Protocol):
    """Runs one job for one node: all its ranks.

    Every method that asks the scheduler raises `Unreachable` where it gives no answer (call again) and
    `SettingsError` where it refuses or has no such command.
    """

    name: str
    """As in `launcher` of node.toml."""
    by_hand: str
    """How a person submits the text."""
    launch: Launch
    poll_s: float

    @property
    def digest(self) -> str:
        """Names what would be submitted: a job with another one belongs to other settings."""

    def text(self) -> str:
        """The script or manifest."""

    def submit(self, folder: Path) -> str:
        """Write the text below `folder` and hand it to the scheduler; returns the job's name there."""

    def live(self) -> list[Seen]:
        """Jobs of this node that are queued, run or are about to end, whoever submitted them."""

    def state(self, job: str) -> Seen:
        """One job; `gone` for one that the scheduler has forgotten."""

    def cancel(self, job: str) -> None:
        """Ask for the end of a job, which takes a while. Harmless for one that is gone."""

    def tidy(self, job: str) -> None:
        """Remove what is left of a job that is gone."""

    def output(self, job: str) -> str:
        """Where to read what the ranks said: a file, or a command."""


@dataclass(frozen=True)
class Launch:
    """What a cluster is to start: the ranks of one node's home.

    Args:
        home: absolute; where the ranks find it, too, unless the cluster mounts it elsewhere.
        training: settings of the node.
    """

    home: Path
    training: TrainerSettings

    @property
    def name(self) -> str:
        """Of the job: the same for every job of this home, and of no other. A DNS label of at most 48
        characters, since Kubernetes adds to it."""
        node = re.sub(r"[^a-z0-9]+", "-", self.training.node)[:28].strip("-")
        salt = hashlib.sha256(f"{self.training.node}\0{self.home}".encode("utf-8", "surrogateescape"))
        return f"tapestry-{node}-{salt.hexdigest()[:10]}"

    @property
    def hosts(self) -> int:
        return self.training.hosts

    @property
    def meet(self) -> tuple[str, ...]:
        """How torchruns of several hosts find each other; where, each host learns when it starts."""
        return (f"--nnodes={self.training.min_hosts}:{self.training.hosts}", "--rdzv-backend=c10d")

    @property
    def elastic(self) -> bool:
        """Whether the loss of a host leaves enough to go on."""
        return self.training.min_hosts < self.training.hosts

    def digest(self, text: str) -> str:
        """Of the rendered text and of all that the ranks will read of node.toml."""
        content = f"{self.training.model_dump_json()}\0{text}".encode("utf-8", "surrogateescape")
        return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]

    def gpus(self, given: int | None) -> int:
        """GPUs of each host."""
        if given is not None:
            return given
        return self.training.processes if self.training.device == "cuda" else 0

    def environment(self, interface: str | None) -> Mapping[str, str | None]:
        """Variables of the ranks; None removes one."""
        if self.hosts == 1:
            network = dict(launcher.LOOPBACK)
        elif interface is not None:
            network = dict.fromkeys(launcher.LOOPBACK, interface)
        else:
            network = {}
        return {**launcher.environment(self.training.threads), **network, **FRESH_STORE}
