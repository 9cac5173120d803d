"""Named points at which a test lets a process die as if the power had gone.

Every place where the order of two durable steps matters calls `reach(name)`. In normal use that is
one dictionary look-up. Two environment variables arm points for a process and its children:

- `TAPESTRY_FAILPOINT=name`, `name:n` or several with commas between: the process sends itself
  SIGKILL at its n-th reach (first if n is left out);
- `TAPESTRY_FAILPOINT_ONCE=path`: only one process dies of each point: the one that creates this file
  (`path.name` where several points are armed). Where it exists the failpoint is off, so a process
  that a supervisor restarted lives on.

A new failpoint is one more line in `NAMES` and one call of `reach` with the name as a literal.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from typing import Final

from tapestry.errors import SettingsError

VARIABLE: Final = "TAPESTRY_FAILPOINT"
ONCE_VARIABLE: Final = "TAPESTRY_FAILPOINT_ONCE"

NAMES: Final[dict[str, str]] = {
    "file.before-rename": "write_atomic: the temporary file is on disk, the old content still in place",
    "file.after-rename": "write_atomic: the new content is in place, its folder not synced yet",
    "core.event.before-commit": "core: an event is decided, its transaction still open",
    "core.event.after-commit": "core: an event is committed, nobody has been told",
    "core.merge.before-record": "core: the blobs of a merge are there, no event records it",
    "core.blob.received": "core: an uploaded blob is durable, not acknowledged",
    "node.head.before-save": "agent: it has learnt of a new state and not saved it",
    "node.head.after-save": "agent: the new state is saved, no job written for it",
    "node.ledger.before-save": "agent: entries of the ledger are on disk, nothing says that they hold",
    "node.attestation.signed": "agent: a base's attestation is signed and saved, not sent",
    "node.attestation.sent": "agent: the core has recorded an attestation",
    "node.contribution.signed": "agent: an envelope is signed and saved, not sent",
    "node.contribution.committed": "agent: the core has an envelope, its bytes wait for the seal",
    "node.contribution.sent": "agent: the core has answered, its receipt is not saved",
    "node.contribution.receipted": "agent: the receipt is saved, the round not yet tidied away",
    "gate.blobs.linked": "gate: the delta's blobs lie in blobs/, the egress log says nothing of them",
    "gate.log.written": "gate: the egress log has its line, the result is not published",
    "gate.result.published": "gate: the result lies in egress/, the spool is not tidied",
    "trainer.inner.saved": "trainer: the inner optimizer's state is written",
    "trainer.delta.written": "trainer: all shards of the delta are written, the folder not renamed",
    "trainer.result.published": "trainer: the result folder has its final name",
    "trainer.step": "trainer: a training step has ended",
    "build.checkpoint.written": "build: a checkpoint is written, the folder not renamed",
    "build.checkpoint.published": "build: a checkpoint has its name, older ones are still there",
    "build.step": "build: a step of a stage has ended",
    "build.result.published": "build: a stage's result has its name, the lineage does not have the stage",
    "build.model.published": "build: the model has its name, the lineage does not say that it is done",
    "replay.shard.written": "replay: one shard of the new state is written",
    "replay.state.written": "replay: the new state is written, the answer not given",
}
"""Every failpoint and what is true when it is reached."""


@dataclass
class _Armed:
    remaining: int
    once: str | None


_lock = threading.Lock()
_armed: dict[str, _Armed] | None = None
"""None before the environment is read."""


def armed() -> tuple[str, ...]:
    """Names that this process's environment arms. Raises `SettingsError` for one not in `NAMES`."""
    global _armed
    with _lock:
        if _armed is None:
            _armed = _from_environment()
        return tuple(_armed)


def reach(name: str) -> None:
    """Go on, or die here if this point is armed. Raises `ValueError` for a name that is not in `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"no failpoint is named {name!r}; add it to tapestry.host.failpoints.NAMES")
    if _armed is not None and not _armed:
        return
    if name in armed():
        _count_down(name)


def _count_down(name: str) -> None:
    with _lock:
        point = _armed.get(name) if _armed else None
        if _armed is None or point is None:
            return
        point.remaining -= 1
        if point.remaining > 0:
            return
        if point.once is not None:
            try:
                os.close(os.open(point.once, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            except FileExistsError:
                del _armed[name]
                return
        os.kill(os.getpid(), signal.SIGKILL)


def _from_environment() -> dict[str, _Armed]:
    points = [p for p in os.environ.get(VARIABLE, "").split(",") if p]
    once = os.environ.get(ONCE_VARIABLE) or None
    found: dict[str, _Armed] = {}
    for point in points:
        name, colon, count = point.partition(":")
        if name not in NAMES:
            raise SettingsError(
                f"{VARIABLE} names {name[:64]!r}, which is no failpoint",
                hint="the names are the keys of tapestry.host.failpoints.NAMES",
            )
        if colon and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise SettingsError(
                f"{VARIABLE}={point[:80]!r}: {count[:16]!r} is not a count", hint="write name or name:3"
            )
        marker = f"{once}.{name}" if once and len(points) > 1 else once
        found[name] = _Armed(remaining=int(count) if colon else 1, once=marker)
    return found
