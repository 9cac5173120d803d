"""Whether a bundle's data manifests are those that the ledger names, and its cards those of the manifests."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from tapestry.bundle.folder import Folder, as_bundle_error
from tapestry.bundle.record import Own
from tapestry.catalog import document
from tapestry.catalog.card import MAX_FILES
from tapestry.catalog.croissant import CardFile
from tapestry.catalog.words import Count, Label, Stage
from tapestry.errors import BundleError
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Sha256
from tapestry.protocol.message import Message, Part

MAX_MANIFEST_BYTES: Final = 64 << 20


class Tokens(Part):
    train: Count
    valid: Count


class ManifestCard(Part):
    """A dataset that was trained on."""

    name: Label
    card: Sha256
    root: Sha256
    documents: Count
    bytes: Count
    tokenizer: Sha256
    tokens: Tokens
    stage: Stage


class ManifestFile(Part):
    path: Annotated[str, Field(min_length=1, max_length=4096)]
    bytes: Count
    sha256: Sha256
    split: Literal["train", "valid"]


class WithheldDocuments(Part):
    train: Count
    valid: Count


class WithheldBy(Part):
    """What a node's protected.toml, by its hash, kept out."""

    sha256: Sha256
    withheld: WithheldDocuments


class DataManifest(Message):
    """What a contribution was trained on; see docs/formats/cards.md."""

    format: Literal["tapestry.data-manifest"] = "tapestry.data-manifest"
    version: Literal[2] = 2
    MAX_BYTES: ClassVar[int] = MAX_MANIFEST_BYTES

    cards: Annotated[tuple[ManifestCard, ...], Field(min_length=1, max_length=1000)]
    files: Annotated[tuple[ManifestFile, ...], Field(max_length=MAX_FILES)]
    protected: WithheldBy | None = Field(default=None, exclude_if=lambda value: value is None)


def manifest_path(sha: str) -> str:
    return f"manifests/{sha}.json"


def used_path(digest: str) -> str:
    return f"used-cards/{digest}.json"


def read_cards(folder: Folder) -> dict[str, CardFile]:
    """Every card in a bundle, by its digest. Raises `BundleError`."""
    found = {}
    for path in (*folder.below("cards"), *folder.below("used-cards")):
        with as_bundle_error(path):
            card = CardFile.from_bytes(folder.read(path, document.MAX_BYTES), path)
        if path not in (f"cards/{card.card.name}.json", used_path(card.digest)):
            raise BundleError(f"{path} holds card {card.card.name} with digest {card.digest[:12]}")
        found[card.digest] = card
    return found


def check_manifest(folder: Folder, own: Own, cards: dict[str, CardFile], lacking: frozenset[str]) -> int:
    """The manifest of a contribution and its cards; returns how many of these are there."""
    path = manifest_path(own.said.data_manifest)
    if path not in folder.files and path in lacking:
        return 0
    data = folder.read(path, MAX_MANIFEST_BYTES)
    if canonical.sha256(data) != own.said.data_manifest:
        raise BundleError(f"{path} is not the manifest that the contribution to round {own.said.round} names")
    with as_bundle_error(path):
        manifest = DataManifest.from_bytes(data)
    held = 0
    for named in manifest.cards:
        card = cards.get(named.card)
        if card is None:
            if used_path(named.card) not in lacking:
                raise BundleError(f"{used_path(named.card)} is missing: the card that {path} names")
            continue
        content = card.card.content
        said = (named.name, named.root, named.documents, named.bytes)
        if said != (card.card.name, content.root, content.documents, content.bytes):
            raise BundleError(f"{path} and card {card.card.name} do not tell of the same dataset")
        if named.stage not in card.card.stages:
            raise BundleError(f"{path}: card {card.card.name} does not permit stage {named.stage}")
        held += 1
    return held
