"""What several commands read of a node's home."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tapestry.cli.corehome import choose_run
from tapestry.errors import NotFound
from tapestry.host import files
from tapestry.node.home import Home, parse_round_name
from tapestry.node.memory import AgentMemory
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore

RUN_HINT: Final = "it takes part in none so far; join and start it: tapestry node join, tapestry node run"


def memory(root: Path) -> AgentMemory:
    """What the agent remembers; empty before it first ran. Raises `SettingsError` where there is no node."""
    home = Home(root)
    home.check()
    try:
        return AgentMemory.from_bytes(files.read_limited(home.agent_state, AgentMemory.MAX_BYTES))
    except FileNotFoundError:
        return AgentMemory()


def head(root: Path, run: str | None) -> tuple[BlobStore, str, str]:
    """Blobs, run, and the newest state this node has of it."""
    known = memory(root).runs
    name = choose_run(sorted(known), run, where=root, none_yet=RUN_HINT)
    at = known[name].head
    if at is None:
        raise NotFound(
            f"the node in {root} has no state of run {name} yet", hint="let it run: tapestry node run HOME"
        )
    return BlobStore.open(Home(root).blobs), name, at.state


def records(root: Path, run: str | None) -> tuple[BlobStore, list[RoundRecord], str]:
    """Blobs, the rounds of a run that this node has checked, and the run."""
    home = Home(root)
    name = choose_run(sorted(memory(root).runs), run, where=root, none_yet=RUN_HINT)
    found = []
    for path in home.records.glob("*.json"):
        named = parse_round_name(path.name.removesuffix(".json"))
        if named is None or named[0] != name:
            continue
        found.append(RoundRecord.from_bytes(files.read_limited(path, RoundRecord.MAX_BYTES)))
    if not found:
        raise NotFound(
            f"the node in {root} has no round of run {name}", hint="it keeps those whose merge it repeated"
        )
    return BlobStore.open(home.blobs), sorted(found, key=lambda r: r.round), name
