"""egress-messages.jsonl: what the agent signs and sends besides the artifacts of the egress log.

One line a signed message (enrolment, contribution, score). Progress and the signed proofs that go
with each request are many and small: they are counted and written as one line from time to time.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from tapestry.host import files
from tapestry.node import lines
from tapestry.node.home import Home, read_json
from tapestry.protocol.canonical import sha256
from tapestry.transport.connection import Traffic

COUNTED_EVERY_S: Final = 60.0


class Outbox:
    """Writes the log; one process and thread."""

    def __init__(self, home: Home, traffic: Traffic) -> None:
        self._path = home.egress_messages
        self._traffic = traffic
        self._requests = 0
        self._proof_bytes = 0
        self._progress = 0
        self._progress_bytes = 0
        self._written = time.monotonic()
        self._total_path = home.traffic
        self._earlier = read_json(home.traffic) or {}
        self._total: dict[str, int] = {}

    def total(self) -> dict[str, int]:
        """Traffic of this process and of the agents before it; kept for the next one."""
        total = {key: self._before(key) + value for key, value in self._traffic.as_json().items()}
        if total != self._total:
            files.write_atomic(self._total_path, json.dumps(total).encode(), durable=False)
            self._total = total
        return total

    def _before(self, key: str) -> int:
        value = self._earlier.get(key)
        return value if isinstance(value, int) and value >= 0 else 0

    def signed(self, kind: str, name: str, envelope: bytes) -> None:
        """A signed message is about to be sent for the first time."""
        self._append({"kind": kind, "name": name, "bytes": len(envelope), "sha256": sha256(envelope)})

    def progress(self, size: int) -> None:
        self._progress += 1
        self._progress_bytes += size

    def count(self, *, now: bool = False) -> None:
        """Write what was counted, if it is time."""
        if not now and time.monotonic() - self._written < COUNTED_EVERY_S:
            return
        self._written = time.monotonic()
        traffic = self._traffic.as_json()
        requests = traffic["requests"] - self._requests
        proofs = traffic["proof_bytes"] - self._proof_bytes
        self._requests, self._proof_bytes = traffic["requests"], traffic["proof_bytes"]
        if requests:
            self._counted("requests", requests, proofs)
        if self._progress:
            self._counted("progress", self._progress, self._progress_bytes)
            self._progress = self._progress_bytes = 0

    def _counted(self, kind: str, count: int, size: int) -> None:
        self._append({"kind": kind, "name": None, "count": count, "bytes": size, "sha256": None})

    def _append(self, line: dict[str, Any]) -> None:
        lines.append(self._path, [{"time": round(time.time(), 3), **line}], durable=False)


def egress_table(home: Home) -> list[dict[str, Any]]:
    """All that left or was let out, oldest first: time, kind, name, count, bytes, sha256.

    A merge of the gate's log (artifacts, each durable in it before the agent learns of it) and the
    agent's (signed messages, and counts of the small ones).
    """
    merged = [*lines.read(home.egress_log), *lines.read(home.egress_messages)]
    keys = ("time", "kind", "name", "count", "bytes", "sha256")
    table = [{"count": 1, **{key: line[key] for key in keys if key in line}} for line in merged]
    return sorted(table, key=lambda line: float(line.get("time") or 0.0))
