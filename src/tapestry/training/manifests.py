"""What a contribution was trained on, kept at the node by its hash: data manifests and cards they name."""

from __future__ import annotations

from pathlib import Path

from tapestry.catalog.croissant import CardFile
from tapestry.host import files
from tapestry.protocol.canonical import sha256


def store_manifest(cache: Path, manifest: bytes) -> None:
    """Keep a data manifest; its hash is what leaves. Raises `DiskFull`."""
    _keep(cache / "manifests" / f"{sha256(manifest)}.json", manifest)


def store_card(cache: Path, card: CardFile) -> None:
    """Keep a card that a data manifest names: the node's own may be made anew, and the manifest would name
    what nobody has. Raises `DiskFull`."""
    _keep(cache / "used-cards" / f"{card.digest}.json", card.to_bytes())


def _keep(path: Path, data: bytes) -> None:
    if not path.exists():
        with files.full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)
