"""What nodes and core have written, read as anybody could who has their folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.cli.rehearsal.defaults import RUN

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.scene import Scene
    from tapestry.node.home import Home

MAX_LOG_BYTES: Final = 16 << 20


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def log_lines(path: Path, after: int = 0) -> Iterator[dict[str, Any]]:
    """Lines of a process's log behind an offset."""
    with path.open("rb") as file:
        file.seek(after)
        for line in file.read(MAX_LOG_BYTES).splitlines():
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value


def troubles(home: Home, after: int, code: str | None = None) -> list[dict[str, Any]]:
    """What a node's agent stumbled over since then: what it said, with its code."""
    told = (line for line in log_lines(home.log("agent"), after) if line.get("event") == "trouble")
    return [line for line in told if code is None or line.get("code") == code]


@dataclass(frozen=True, kw_only=True)
class Receipted:
    """A contribution for which a node holds the core's signed receipt."""

    node: str
    round: int
    contribution: str
    sequence: int
    path: Path


def receipts(scene: Scene) -> list[Receipted]:
    """Of all nodes, each receipt's signature verified."""
    from tapestry.host import files
    from tapestry.identity.envelope import Envelope
    from tapestry.protocol import canonical
    from tapestry.protocol.messages import Receipt

    key, found = scene.opened.consortium.core_key.public_key, []
    for member in scene.members:
        for path in sorted(scene.home(member.name).receipts.glob(f"{RUN}.*.json")):
            both = canonical.decode(files.read_limited(path, 1 << 20), max_bytes=1 << 20)
            receipt = Envelope.model_validate_json(json.dumps(both["receipt"])).open_as(Receipt, key)
            found.append(
                Receipted(
                    node=receipt.node,
                    round=receipt.round,
                    contribution=receipt.contribution,
                    sequence=receipt.sequence,
                    path=path,
                )
            )
    return found


def borne_out(scene: Scene, held: list[Receipted]) -> int:
    """Of these receipts, how many the ledger has at the position they name."""
    entries = scene.entries()
    return sum(
        each.sequence <= len(entries)
        and entries[each.sequence - 1].body.get("contribution") == each.contribution
        for each in held
    )


def merged_nodes(scene: Scene, number: int) -> dict[str, int]:
    """Node → weight, of a round's merge; empty while there is none."""
    entry = scene.find("round-closed", round=number)
    return {} if entry is None else {each["node"]: each["weight"] for each in entry.body["merged"]}


def committed(scene: Scene, number: int) -> int | None:
    """Position of the entry that commits a round's merge."""
    entry = scene.find("round-committed", round=number)
    return None if entry is None else entry.sequence


def witnesses(scene: Scene, number: int) -> list[str]:
    """Members whose node has repeated a round's merge and signed that."""
    return [
        str(entry.body["member"])
        for entry in scene.entries()
        if entry.scope == RUN and entry.type == "base-attested" and entry.body["round"] == number
    ]


def update_of(home: Home, number: int) -> tuple[str, int] | None:
    """Hash and size of the shard that passed a node's gate for a round; None before it has."""
    name = f"{RUN}.{number}/delta/"
    if not home.egress_log.exists():
        return None
    for line in log_lines(home.egress_log):
        if line.get("kind") == "delta-shard" and str(line.get("name")).startswith(name):
            return str(line["sha256"]), int(line["bytes"])
    return None
