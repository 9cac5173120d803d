"""Where things lie in a node's home; see "Node home" in docs/architecture.md."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.protocol.canonical import is_name

Role = Literal["supervisor", "gate", "trainer", "agent"]
ROLES: Final[tuple[Role, ...]] = ("supervisor", "gate", "trainer", "agent")

MAX_STATUS_BYTES: Final = 256 << 10


@dataclass(frozen=True)
class Home:
    """Paths of one node. Nothing is made or read by asking for a path."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "node.toml"

    @property
    def consortium(self) -> Path:
        return self.root / "consortium.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def train(self) -> Path:
        return self.root / "spool" / "train"

    @property
    def jobs(self) -> Path:
        """Where the agent says what is to be trained; all of the spool that it can read."""
        return self.root / "spool" / "job"

    @property
    def job(self) -> Path:
        return self.jobs / "job.json"

    @property
    def outputs(self) -> Path:
        return self.train / "out"

    @property
    def trainer_progress(self) -> Path:
        return self.train / "progress.json"

    @property
    def egress(self) -> Path:
        return self.root / "egress"

    @property
    def refused(self) -> Path:
        return self.egress / "refused"

    @property
    def progress(self) -> Path:
        return self.egress / "progress.json"

    @property
    def approvals(self) -> Path:
        """What waits for the owner's word, and that word; see `node.approval`."""
        return self.root / "approvals"

    @property
    def canaries(self) -> Path:
        """The marker of the canaries in the node's text; for the owner and the gate alone."""
        return self.root / "canaries.json"

    @property
    def egress_log(self) -> Path:
        """What passed the gate; written by the gate alone."""
        return self.root / "egress.jsonl"

    @property
    def egress_messages(self) -> Path:
        """What the agent signed and sent; written by the agent alone."""
        return self.root / "egress-messages.jsonl"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def agent_state(self) -> Path:
        return self.state / "agent.json"

    @property
    def traffic(self) -> Path:
        """Bytes sent and received by all agents this node has had; a kill loses the last half second."""
        return self.state / "traffic.json"

    @property
    def times(self) -> Path:
        """What each round cost this node in seconds and bytes; see `node.account`."""
        return self.state / "times.jsonl"

    @property
    def receipts(self) -> Path:
        """Signed contributions and the core's receipts for them."""
        return self.state / "receipts"

    @property
    def records(self) -> Path:
        """What each round was made of, as this node checked it."""
        return self.state / "rounds"

    @property
    def ledger(self) -> Path:
        """The consortium's ledger, as this node has verified it."""
        return self.root / "ledger"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def status(self, role: Role) -> Path:
        return self.root / "status" / f"{role}.json"

    def log(self, role: Role) -> Path:
        return self.logs / f"{role}.log"

    def output(self, run: str, round: int) -> Path:
        return self.outputs / round_name(run, round)

    def passed(self, run: str, round: int) -> Path:
        return self.egress / f"{round_name(run, round)}.json"

    def refusal(self, run: str, round: int) -> Path:
        return self.refused / f"{round_name(run, round)}.json"

    def make_folders(self) -> None:
        """Every folder a node's processes write to."""
        with files.full_disk(self.root):
            for folder in (
                self.blobs,
                self.jobs,
                self.outputs,
                self.refused,
                self.approvals / "pending",
                self.approvals / "decided",
                self.state,
                self.receipts,
                self.records,
                self.ledger,
                self.root / "status",
                self.logs,
                self.cache,
            ):
                folder.mkdir(parents=True, exist_ok=True)
            self.keys.mkdir(mode=0o700, parents=True, exist_ok=True)

    def check(self) -> None:
        """Raise `SettingsError` unless a node was set up here."""
        if not self.settings.is_file():
            raise SettingsError(
                f"{self.root} is not a node's home: it has no node.toml",
                hint="make one with: tapestry node init",
            )


def round_name(run: str, round: int) -> str:
    """Name of what belongs to one round of one run: `<run>.<round>`."""
    return f"{run}.{round}"


def parse_round_name(name: str) -> tuple[str, int] | None:
    """The run and round of `<run>.<round>`; None for any other name."""
    run, dot, number = name.rpartition(".")
    if not dot or not is_name(run) or not (number.isascii() and number.isdigit()):
        return None
    if len(number) > 13 or str(int(number)) != number:
        return None
    return run, int(number)


def identity(path: str) -> tuple[int, int] | None:
    """Changes when another file takes its place; None where there is none. Cheap enough for a hundred
    times a second."""
    try:
        info = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return info.st_ino, info.st_mtime_ns


def write_status(home: Home, role: Role, value: dict[str, Any]) -> None:
    """Say where a process is; a reader sees the old or the new, a power cut may lose both."""
    files.write_atomic(home.status(role), json.dumps(value).encode() + b"\n", durable=False)


def read_json(path: Path, max_bytes: int = MAX_STATUS_BYTES) -> dict[str, Any] | None:
    """A JSON object that a process of this node wrote for people; None where there is none."""
    try:
        value = json.loads(files.read_limited(path, max_bytes))
    except (OSError, ValueError, RecursionError, TapestryError):
        return None
    return value if isinstance(value, dict) else None
