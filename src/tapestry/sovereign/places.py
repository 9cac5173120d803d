"""What a recipe names, opened: cards, rules, protected topics, and whether a dataset may enter a stage."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.catalog.croissant import CardFile
from tapestry.catalog.policy import Policy
from tapestry.catalog.protected import MAX_FILE_BYTES, Protected
from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import CardError, RecipeError, RightsRefused, TapestryError
from tapestry.host import files
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.recipe import STAGES, Recipe, StageTable
from tapestry.training.cards import cards_of, hold_all
from tapestry.training.corpus import TextFile, find_files
from tapestry.training.holding import changes, hold, in_words
from tapestry.training.rights import protected_of, rules, today
from tapestry.training.shelf import Shelf
from tapestry.training.withdrawals import Withdrawals

MAX_SETTINGS_BYTES = 1 << 20


@dataclass(frozen=True)
class Admitted:
    """The datasets of one stage, that hold and may enter it."""

    cards: tuple[CardFile, ...]
    files: tuple[tuple[CardFile, TextFile], ...]
    """All files of all splits, with their cards, by dataset and path."""


class Catalog:
    """Cards and rights as a recipe names them.

    Args:
        root: the build's folder, from which relative places count.
        recipe: of the build.
    """

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self._root = root
        self.node, self.member, self.residency = recipe.name, recipe.owner, recipe.residency
        self._home: Path | None = None
        if recipe.node is not None:
            self._home = home = place(root, recipe.node)
            self.node, self.member, self.residency = _node(home)
            if self.member != recipe.owner:
                raise RecipeError(
                    f"owner is {recipe.owner}, and the node in {home} is of member {self.member}",
                    hint="name the node's member as owner, or another node",
                )
            self.shelf = Shelf.of_node(home)
        else:
            self.shelf = Shelf(place(root, recipe.cards or ""))
        self._protected = recipe.protected
        self.withdrawals = Withdrawals(self.shelf.folder.parent) if self._home is not None else None

    def policy(self) -> Policy:
        """Raises `SettingsError`."""
        return rules(self._home) if self._home is not None else Policy()

    def protected(self) -> Protected | None:
        """What is not to be trained on. Raises `SettingsError`, `RecipeError`."""
        if self._home is not None:
            return protected_of(self._home)
        if self._protected is None:
            return None
        path = place(self._root, self._protected)
        try:
            return Protected.parse(files.read_limited(path, MAX_FILE_BYTES), str(path))
        except OSError as e:
            raise RecipeError(f"protected: {path} cannot be read: {e.strerror}") from e

    def permit(self, cards: Sequence[CardFile], stage: StageTable) -> None:
        """Raise `RightsRefused` for a dataset that may not enter a stage today."""
        policy, day = self.policy(), today()
        for each in cards:
            policy.decide(
                each.card, STAGES[stage.kind], node=self.node, member=self.member, residency=self.residency,
                today=day, withdrawn=self.is_withdrawn(each),
            ).enforce()  # fmt: skip

    def is_withdrawn(self, card: CardFile) -> bool:
        return self.withdrawals is not None and self.withdrawals.covers(card.card)

    def require_kept(self, lineage: Lineage, ancestors: Sequence[Lineage] = ()) -> None:
        """Raise `RightsRefused` where a dataset of a stage that is done, or of a derivative that it goes on
        from, was withdrawn since: all that goes on from there is made of it."""
        require_kept(self.marks(), lineage, ancestors)

    def marks(self) -> tuple[Withdrawn, ...]:
        """Of all that was withdrawn; none without a node, which keeps them. Raises `SettingsError`."""
        return self.withdrawals.marks() if self.withdrawals is not None else ()

    def cards(self, stage: StageTable) -> tuple[tuple[CardFile, Path], ...]:
        """Of a stage's data, each with its folder, by name.

        Raises:
            CardError: there are none, or they are not of this folder.
            NotFound: no card has that name.
        """
        if stage.data is not None:
            folder = place(self._root, stage.data)
            return tuple((each, folder) for each in cards_of(folder, self.shelf.all(), self.shelf.folder))
        return tuple((card, _folder(card)) for card in map(self.shelf.read, sorted(set(stage.datasets))))

    def admit(self, stage: StageTable) -> Admitted:
        """The data of a stage, held against its cards; read in full.

        Raises:
            RightsRefused: a rule forbids it.
            CardError, CorpusError, NotFound: no card, or not of this text.
        """
        found = self.cards(stage)
        self.permit([card for card, _ in found], stage)
        if stage.data is not None:
            hold_all(found[0][1], [card for card, _ in found])
        else:
            for card, folder in found:
                _hold(card, folder)
        texts = []
        for card, folder in found:
            named = {file.path for file in card.card.files}
            texts += [(card, file) for file in find_files(folder) if file.name in named]
        return Admitted(tuple(card for card, _ in found), tuple(texts))


def require_kept(marks: Sequence[Withdrawn], lineage: Lineage, ancestors: Sequence[Lineage]) -> None:
    """Raise `RightsRefused` where a mark covers what a derivative, or one before it, was trained on."""
    for which in (lineage, *ancestors):
        of = "" if which is lineage else f" of {which.name}, from which it goes on,"
        for number, stage in enumerate(which.stages, start=1):
            for each in stage.datasets:
                if any(mark.covers(each.name, each.root) for mark in marks):
                    raise RightsRefused(
                        f"stage {number}{of} was trained on dataset {each.name}, which was withdrawn since "
                        "(rule withdrawn)",
                        hint="make a new build without it (tapestry build init), and delete this one",
                    )


def place(root: Path, text: str) -> Path:
    """A path of the recipe; relative ones count from the build's folder."""
    return (root / Path(text).expanduser()).absolute()


def _node(home: Path) -> tuple[str, str, str | None]:
    """Name, member and residency of a node. Raises `RecipeError`."""
    path = home / "node.toml"
    try:
        table = tomllib.loads(files.read_limited(path, MAX_SETTINGS_BYTES).decode())
        node, training = table["node"], table.get("training", {})
        return str(node["name"]), str(node["member"]), training.get("residency")
    except FileNotFoundError as e:
        raise RecipeError(
            f"node: there is no node in {home}",
            hint="give the home of a node, or a folder of cards as `cards`",
        ) from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError, TapestryError) as e:
        raise RecipeError(f"node: {path} cannot be read: {e}") from e


def _folder(card: CardFile) -> Path:
    folder = Path(card.card.folder)
    if not card.card.folder or not folder.is_dir():
        raise CardError(
            f"the text of dataset {card.card.name} is not at {card.card.folder or 'any place'} any more",
            hint="name the folder where it lies in the recipe: data = DIR",
        )
    return folder


def _hold(card: CardFile, folder: Path) -> None:
    """Read the files that a card names, and raise `CardError` where they are not what it describes."""
    named = {file.path for file in card.card.files}
    holding = hold(folder, only=named.__contains__)
    different = changes(card.card, holding.files)
    if different or holding.content != card.card.content:
        what = in_words(different) if different else "documents hash to another root"
        raise CardError(
            f"the text in {folder} is not what card {card.card.name} describes: {what}",
            hint=f"make the card anew: tapestry catalog add {folder} --name {card.card.name} ... --replace",
        )
