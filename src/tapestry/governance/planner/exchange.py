"""Bytes of one round at one node, all of HTTP: what its contribution, the others' and every message take.

Shape legend: n contributions of a round. TCP, IP and TLS around HTTP are not counted (some 3 to 5 % more).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tapestry.governance.planner.load import Load

HEAD_SENT: Final = 1_090
"""Of a request: its line and headers, the signed proof above all."""
HEAD_RECEIVED: Final = 200
REQUESTS: Final = 12.3
"""Of a round, beside those for blobs and progress: polls, ledger, record, words, attestation."""
MESSAGES_SENT: Final = 4_600.0
"""Bodies of these: the contribution's envelope twice, an attestation. Counted in captures of whole rounds."""
MESSAGES_RECEIVED: Final = 4_700.0
RECEIVED_PER_NODE: Final = 8_000.0
"""Of each contribution: its entries in the ledger, its envelope in the round's record."""
RECORD_PER_NODE: Final = 1_900.0
"""Of a round's record. A node with error feedback looks once more whether its last update was merged."""
PROGRESS_PER_S: Final = 1.0
PROGRESS_SENT: Final = 1_170
"""Of one word about progress, its head too."""
ASK_BYTES: Final = 67.0
"""Of a blob whose lack is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """Bytes and requests of one node in one round."""

    payload_sent: float
    payload_received: float
    messages_sent: float
    messages_received: float
    requests_up: float
    """That carry shards and manifests there; and back."""
    requests_down: float

    @property
    def sent(self) -> float:
        return self.payload_sent + self.messages_sent

    @property
    def received(self) -> float:
        return self.payload_received + self.messages_received


def moved(
    load: Load,
    nodes: int,
    *,
    repeats: bool,
    looks_back: bool,
    train_s: float,
    sent_part: float = 1.0,
    received_part: float = 1.0,
) -> Moved:
    """Of a node that `repeats` merges, or else fetches what came of them.

    Args:
        load: what a contribution is.
        nodes: n.
        repeats: whether it fetches the others' contributions.
        looks_back: whether it has error feedback.
        train_s: in which it tells its progress.
        sent_part, received_part: calibration of all but shards and manifests.
    """
    up = load.shards + 1
    if repeats:
        down = (nodes - 1) * (load.shards + 1)
        received = (nodes - 1) * (load.delta + load.manifest)
    else:
        fragments = load.base_shards / load.shards
        down = load.shards + 2
        received = load.base / fragments + load.base_manifest
    asked, told = up + down + REQUESTS + 1 + looks_back, PROGRESS_PER_S * train_s
    sent = asked * HEAD_SENT + told * PROGRESS_SENT + MESSAGES_SENT + ASK_BYTES * up
    each = RECEIVED_PER_NODE + looks_back * RECORD_PER_NODE
    heard = (asked + told) * HEAD_RECEIVED + MESSAGES_RECEIVED + each * nodes
    return Moved(
        payload_sent=load.delta + load.manifest,
        payload_received=received,
        messages_sent=sent * sent_part,
        messages_received=heard * received_part,
        requests_up=up,
        requests_down=down,
    )


def all_reduce_bytes(parameters: int, nodes: int, *, bytes_each: int = 4) -> float:
    """What synchronous data parallel sends, and receives, a step and node: a ring all-reduce of gradients."""
    return 2 * (nodes - 1) / nodes * parameters * bytes_each
