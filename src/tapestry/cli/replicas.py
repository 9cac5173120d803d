"""The folders of nodes, as a core is recovered from them."""

from __future__ import annotations

from pathlib import Path

from tapestry.core.recover import Replica
from tapestry.errors import FormatError, InputError, IntegrityError, SettingsError
from tapestry.host import files
from tapestry.identity.envelope import Envelope, sign
from tapestry.node import keys, settings
from tapestry.node.home import Home
from tapestry.node.kept import Kept
from tapestry.protocol.messages import Succession


def of_node(folder: Path) -> Replica:
    """What a node's home offers. Raises `SettingsError` for no node, `InputError` for no ledger."""
    home = Home(folder)
    kept = Kept.of(home)
    node = settings.load(home).node

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
            raise SettingsError(
                f"the node in {folder} cannot sign for a new core: {e.message}",
                hint="leave it out, or put its keys back from a backup",
            ) from e

    return Replica(
        name=f"node {node.name}",
        ledger=kept.path,
        ledger_bytes=kept.size,
        checkpoint=kept.checkpoint,
        blobs=home.blobs,
        endorse=endorse if (home.keys / "witness.key").exists() else None,
    )


def endorsement(path: Path) -> Envelope:
    """What a member has signed for a core's key. Raises `InputError` for no file, `FormatError` for
    another."""
    try:
        return Envelope.from_bytes(files.read_limited(path, Envelope.MAX_BYTES))
    except OSError as e:
        raise InputError(
            f"cannot read {path}: {e.strerror}", hint="a member makes it with: tapestry node endorse"
        ) from e
    except IntegrityError as e:
        raise FormatError(
            f"{path} holds no endorsement: {e.message}", hint="a member makes it with: tapestry node endorse"
        ) from e
