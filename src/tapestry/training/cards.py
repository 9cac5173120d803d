"""Which cards are of a folder's text. Each names its files; together they name all, and none twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tapestry.catalog.card import Card
from tapestry.catalog.croissant import CardFile
from tapestry.errors import CardError
from tapestry.training.corpus import TextFile, find_files
from tapestry.training.holding import Change, changes, hold, in_words


def cards_of(folder: Path, every: Sequence[CardFile], shelf: Path) -> tuple[CardFile, ...]:
    """The cards made of this folder, or, where the folder was moved, of files that are here; by name.

    Of several, those that name no file that is here are of text that went.

    Raises:
        CardError: none, or two that name one file.
        CorpusError: there is no text.
    """
    place = folder.resolve()
    found = [each for each in every if Path(each.card.folder) == place]
    if len(found) == 1:
        return tuple(found)
    held = find_files(folder)
    if found:
        paths = {file.name for file in held}
        found = [each for each in found if any(file.path in paths for file in each.card.files)]
    else:
        found = [each for each in every if _looks_like(each.card, held)]
    if not found:
        raise CardError(
            f"the text in {folder} has no card, and nothing is trained without one",
            hint="make one with: tapestry catalog add DIR --name NAME --license SPDX ... --home "
            f"{shelf.parent}",
        )
    _refuse_shared(folder, found, shelf)
    return tuple(sorted(found, key=lambda each: each.card.name))


def hold_all(folder: Path, found: Sequence[CardFile]) -> None:
    """Read the text in full, and raise `CardError` where it is not what its cards describe."""
    named = {file.path for each in found for file in each.card.files}
    different = [Change(file.name, "new") for file in find_files(folder) if file.name not in named]
    other = []
    for each in found:
        mine = {file.path for file in each.card.files}
        holding = hold(folder, only=mine.__contains__)
        different += changes(each.card, holding.files)
        if holding.content != each.card.content:
            other.append(each.card.name)
    if not different and not other:
        return
    names = ", ".join(each.card.name for each in found)
    what = "documents hash to another root"
    if different:
        what = in_words(sorted(different, key=lambda each: each.path))
    elif len(found) > 1:
        what += f" than that of {', '.join(other)}"
    which = f"card {names} describes" if len(found) == 1 else f"cards {names} describe"
    name = names if len(found) == 1 else "NAME"
    files = "" if len(found) == 1 else " --file ..."
    raise CardError(
        f"the text in {folder} is not what {which}: {what}",
        hint=f"see what changed: tapestry catalog check {name}; then make the card anew: "
        f"tapestry catalog add {folder} --name {name}{files} ... --replace",
    )


def _refuse_shared(folder: Path, found: Sequence[CardFile], shelf: Path) -> None:
    """One file has one card: rights of two could not both hold."""
    by_path: dict[str, list[str]] = defaultdict(list)
    for each in found:
        for file in each.card.files:
            by_path[file.path].append(each.card.name)
    for path, names in by_path.items():
        if len(names) > 1:
            raise CardError(
                f"the text in {folder} has {len(names)} cards: {', '.join(sorted(names)[:5])}, which all "
                f"name {path}",
                hint=f"remove all but one from {shelf}, or make them anew of different files with --file",
            )


def _looks_like(card: Card, held: Sequence[TextFile]) -> bool:
    """Whether just such files are here, among others that other cards may name."""
    here = {(file.name, file.split, file.path.stat().st_size) for file in held}
    return bool(card.files) and all((file.path, file.split, file.bytes) in here for file in card.files)
