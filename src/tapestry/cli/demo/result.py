"""What a demo came to: the numbers behind its table, its plot and its JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tapestry.errors import FormatError
from tapestry.host import files

MAX_BYTES = 16 << 20


@dataclass(kw_only=True)
class MemberResult:
    """One member's part."""

    name: str
    about: str
    scores: dict[int, float]
    """Merges → bits per byte of that shared base on this member's valid text."""
    tokens: int
    bytes_sent: int
    bytes_received: int
    egress: str
    """Path of the node's egress log."""
    bits_per_byte_bigram: float | None = None
    bits_per_byte_alone: float | None = None
    bits_per_byte_pooled: float | None = None
    times: dict[str, Any] | None = None
    """Mean seconds and bytes of a round, as `node status` has them."""

    @property
    def start(self) -> float | None:
        return self.scores.get(0)

    @property
    def base(self) -> float | None:
        return self.scores[max(self.scores)] if self.scores else None

    def to_json(self, *, compared: bool) -> dict[str, Any]:
        value: dict[str, Any] = {
            "name": self.name,
            "bits_per_byte_start": self.start,
            "bits_per_byte_base": self.base,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "tokens": self.tokens,
            "bits_per_byte_bigram": self.bits_per_byte_bigram,
            "egress_log": self.egress,
            "times": self.times,
        }
        if compared:
            value["bits_per_byte_alone"] = self.bits_per_byte_alone
            value["bits_per_byte_pooled"] = self.bits_per_byte_pooled
        return value


@dataclass(kw_only=True)
class Result:
    """The finished demo; kept as result.json, so that a second call shows it again."""

    run: str
    rounds: int
    parameters: int
    base: str
    export: str
    plot: str
    sample: str
    seconds: float
    compared: bool
    ledger: dict[str, Any] = field(default_factory=dict)
    """What its verification has seen, as `tapestry ledger verify --json` says it."""
    kept_out: dict[str, Any] = field(default_factory=dict)
    """A dataset whose rights kept it out of training: member, dataset, rule, reason, what would be needed."""
    members: list[MemberResult] = field(default_factory=list)
    sovereign: dict[str, Any] | None = None
    """With --build: whose model, where it lies, bits per byte beside those of base and training alone."""

    def to_json(self) -> dict[str, Any]:
        """The one object of `--json`."""
        value = {
            "run": self.run,
            "rounds": self.rounds,
            "parameters": self.parameters,
            "base": self.base,
            "export": self.export,
            "seconds": round(self.seconds, 3),
            "plot": self.plot,
            "sample": self.sample,
            "ledger": self.ledger,
            "kept_out": self.kept_out,
            "members": [member.to_json(compared=self.compared) for member in self.members],
        }
        return value if self.sovereign is None else {**value, "sovereign": self.sovereign}


def save(result: Result, path: Path) -> None:
    files.write_atomic(path, json.dumps(asdict(result), indent=1, ensure_ascii=False).encode() + b"\n")


def load(path: Path) -> Result | None:
    """The result of an earlier call; None where there is none. Raises `FormatError` where it is damaged."""
    if not path.is_file():
        return None
    try:
        value = json.loads(files.read_limited(path, MAX_BYTES))
        members = [
            MemberResult(**{**member, "scores": {int(k): v for k, v in member["scores"].items()}})
            for member in value.pop("members")
        ]
        return Result(**value, members=members)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise FormatError(f"{path} is damaged", hint=f"remove {path}; the same command makes it again") from e
