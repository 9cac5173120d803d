"""A folder of dataset cards, one file each: `cards/` of a node's home, or any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tapestry.catalog import card as cards
from tapestry.catalog import document
from tapestry.catalog.content import Tally
from tapestry.catalog.croissant import CardFile
from tapestry.errors import CardError, Conflict, InputError, NotFound, TapestryError
from tapestry.host import files
from tapestry.protocol.canonical import is_name

CARDS: Final = "cards"
"""Of a node's home."""
ENDING: Final = ".json"
MAX_CARDS: Final = 10_000


class Shelf:
    """Cards of one folder, by the names of their datasets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_node(cls, home: Path) -> Shelf:
        return cls(home / CARDS)

    def path(self, name: str) -> Path:
        """Raises `InputError` for what is no name."""
        if not is_name(name):
            raise InputError(
                f"{name!r} cannot be a dataset's name",
                hint="use a-z, 0-9, '.', '_' and '-', at most 64, ending with a letter or digit",
            )
        return self.folder / f"{name}{ENDING}"

    def names(self) -> list[str]:
        """Of all cards; none where there is no folder."""
        if not self.folder.is_dir():
            return []
        paths = sorted(self.folder.glob(f"*{ENDING}"))
        if len(paths) > MAX_CARDS:
            raise CardError(f"{self.folder} holds more than {MAX_CARDS} cards")
        return [path.name.removesuffix(ENDING) for path in paths if not path.name.startswith(".")]

    def read(self, name: str) -> CardFile:
        """Raises `NotFound`, and `CardError` naming file and field."""
        path = self.path(name)
        try:
            data = files.read_limited(path, document.MAX_BYTES)
        except FileNotFoundError as e:
            raise NotFound(
                f"there is no card {name} in {self.folder}", hint="make one with: tapestry catalog add"
            ) from e
        except (OSError, TapestryError) as e:
            raise CardError(f"{path} cannot be read: {e}") from e
        found = CardFile.from_bytes(data, str(path))
        if found.card.name != name:
            raise CardError(
                f"{path}: name: is {found.card.name}", hint=f"rename it to {found.card.name}{ENDING}"
            )
        return found

    def all(self) -> list[CardFile]:
        """Every card, by name. Errors as of `read`."""
        return [self.read(name) for name in self.names()]

    def check(self, described: dict[str, Any], *, replace: bool, day: str) -> None:
        """Raise what `put` would, as far as is known before the text is read; and for a consent that is over.

        Args:
            described: fields of the card but those that the text gives.
            replace: as of `put`.
            day: today.
        """
        name = str(described["name"])
        if self.path(name).exists() and not replace:
            raise _is_there(name, self.folder)
        nothing = Tally().content().model_dump()
        card = cards.make({**described, "content": nothing, "files": []}, f"card {name}")
        if card.consent_until is not None and card.consent_until < day:
            raise CardError(
                f"card {name}: consent_until: the consent ended on {card.consent_until}",
                hint="ask for a new consent; nothing may be trained on text without one",
            )

    def put(self, values: dict[str, Any], *, replace: bool = False) -> CardFile:
        """Make a card of values, or make the one of that name anew; what only the old one has is kept.

        Raises:
            Conflict: there is one, and it is not to be replaced.
            CardError: a value is wrong; nothing was written.
            DiskFull: no space; the old card is as it was.
        """
        name = str(values["name"])
        path = self.path(name)
        before = self.read(name) if path.exists() else None
        if before is not None and not replace:
            raise _is_there(name, self.folder)
        revision = before.card.revision + 1 if before is not None else 1
        card = cards.make({**values, "revision": revision}, f"card {name}")
        made = CardFile(card=card, kept=before.kept if before is not None else {})
        with files.full_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        files.clean_temporaries(self.folder)
        files.write_atomic(path, made.to_bytes())
        return made


def _is_there(name: str, folder: Path) -> Conflict:
    return Conflict(
        f"there is a card {name} in {folder} already",
        hint="make it anew with --replace, or choose another --name",
    )
