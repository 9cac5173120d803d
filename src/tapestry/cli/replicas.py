"""The folders of nodes, as a core is recovered from them."""

from __future__ import annotations

from pathlib import Path

from tapestry.core.recover import Replica
from tapestry.errors import InputError, SettingsError
from tapestry.host import files
from tapestry.identity.envelope import Envelope, sign
from tapestry.node import keys, settings
from tapestry.node.home import Home
from tapestry.node.replica import Verified
from tapestry.protocol.messages import Succession


def of_node(folder: Path) -> Replica:
    """What a node's home offers. Raises `SettingsError` for no node, `InputError` for no ledger."""
    home = Home(folder)
    home.check()
    node = settings.load(home).node
    path = home.ledger / "verified.json"
    try:
        found = Verified.from_bytes(files.read_limited(path, Verified.MAX_BYTES))
    except FileNotFoundError as e:
        raise InputError(f"the node in {folder} holds no ledger yet", hint="name other nodes") from e

    def endorse(consortium: str, core_key: str, size: int, root: str) -> Envelope:
        said = Succession(
            consortium=consortium,
            member=node.member,
            node=node.name,
            core_key=core_key,
            size=size,
            root=root,
        )
        try:
            return sign(said, keys.load_pair(home, "witness"))
        except SettingsError as e:
            raise SettingsError(f"the node in {folder} cannot sign for a new core: {e.message}") from e

    return Replica(
        name=f"node {node.name}",
        ledger=home.ledger / "ledger.jsonl",
        ledger_bytes=found.bytes,
        checkpoint=found.checkpoint,
        blobs=home.blobs,
        endorse=endorse,
    )
