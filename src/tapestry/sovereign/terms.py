"""What a build holds to from its beginning to its end: base, rights, constitution, chat template, and the
lineage that names them. Whatever of it can be known to be wrong is said before the first stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tapestry import __version__
from tapestry.catalog.protected import Protected
from tapestry.errors import RecipeError, RightsRefused
from tapestry.host import files
from tapestry.protocol.canonical import sha256
from tapestry.sovereign import models
from tapestry.sovereign.chat import Chat
from tapestry.sovereign.constitution import Constitution
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Base, Lineage, Parent
from tapestry.sovereign.places import Catalog, place
from tapestry.sovereign.recipe import Recipe

_PUT_BACK: Final = "put it back as it was, or make a new build: tapestry build init in another folder"


class Terms:
    """Of one build.

    Args:
        home: its folder.
        recipe: that stands there, with its bytes.
    """

    def __init__(self, home: BuildHome, recipe: tuple[Recipe, bytes]) -> None:
        self._home = home
        self.recipe, self._bytes = recipe
        self.base = place(home.root, self.recipe.base)
        self.catalog = Catalog(home.root, self.recipe)

    @property
    def talks(self) -> bool:
        """Whether a stage has examples, which need a chat template."""
        return any(stage.kind != "cpt" for stage in self.recipe.stage)

    def chat(self, tokenizer: Any) -> Chat:
        return Chat.of(tokenizer, self.recipe.template, self._home.root)

    def tokenizer(self) -> Any:
        """The base's, with the chat template where the build has one."""
        found = models.open_tokenizer(self.base)
        if self.talks:
            self.chat(found)
        return found

    def protection(self) -> tuple[Protected | None, str]:
        """What is left out of training, and a digest that stands for it."""
        found, constitution = self.catalog.protected(), self._constitution()
        if constitution is not None:
            found = constitution.beside(found)
        return found, found.digest if found is not None else sha256(b"")

    def lineage(self) -> Lineage:
        """As it stands, or a new one. Raises `RecipeError` where something is another than it was."""
        constitution = self._constitution()
        kept = constitution.digest if constitution is not None else None
        if not self._home.lineage.exists():
            found = self._new(kept, self._dry())
            found.save(self._home.lineage)
            return found
        found = Lineage.load(self._home.lineage)
        if found.weights is None:
            self._require_same(found, kept)
        return found

    def _new(self, constitution: str | None, template: str | None) -> Lineage:
        recipe = self.recipe
        base, places = models.base_of(self.base), [self.base]
        if recipe.adapter is not None:
            places.append(place(self._home.root, recipe.adapter))
            models.require_adapter(places[-1], base)
        return Lineage(
            name=recipe.name,
            owner=recipe.owner,
            level=recipe.level,
            licence=recipe.licence,
            languages=recipe.languages,
            base=base,
            parent=self._parent(base, places),
            recipe=sha256(self._bytes),
            constitution=constitution,
            template=template,
            stages=(),
            weights=None,
            adapter=False,
            release=__version__[:64],
        )

    def _parent(self, base: Base, places: Sequence[Path]) -> Parent | None:
        """The derivative that the build starts from, if it does; its lineage is kept in `parents`."""
        found = models.parent_of(base, places)
        if found is None or found.weights is None:
            return None
        kept = self._home.parents / f"{found.digest}.json"
        with files.full_disk(kept):
            kept.parent.mkdir(exist_ok=True)
        found.save(kept)
        return Parent(lineage=found.digest, weights=found.weights, base=found.base.weights)

    def _require_same(self, lineage: Lineage, constitution: str | None) -> None:
        if lineage.recipe != sha256(self._bytes):
            raise RecipeError(f"{self._home.recipe} was changed since the build began", hint=_PUT_BACK)
        if lineage.constitution != constitution:
            raise RecipeError("the constitution was changed since the build began", hint=_PUT_BACK)
        models.require_base(self.base)
        now = models.base_of(self.base)
        if (lineage.base.weights, lineage.base.tokenizer) != (now.weights, now.tokenizer):
            raise RecipeError(f"the base in {self.base} is another than when the build began", hint=_PUT_BACK)
        if lineage.template not in (None, self._template()):
            raise RecipeError("the chat template was changed since the build began", hint=_PUT_BACK)

    def _dry(self) -> str | None:
        """Everything that can be known to be wrong before hours are spent on the first stage; returns the
        digest of the chat template."""
        models.require_base(self.base)
        for number, stage in self.recipe.stages():
            try:
                self.catalog.permit([card for card, _ in self.catalog.cards(stage)], stage)
            except RightsRefused as e:
                raise RightsRefused(f"stage {number}: {e.message}", hint=e.hint) from e
        template = self._template()
        self.protection()
        return template

    def _template(self) -> str | None:
        """Digest of the chat template; None without one. Raises `RecipeError` for one that does not fit."""
        if not self.talks:
            return None
        text = self.chat(models.open_tokenizer(self.base)).template
        return None if text is None else sha256(text.encode())

    def _constitution(self) -> Constitution | None:
        where = self.recipe.constitution
        return Constitution.load(place(self._home.root, where)) if where is not None else None
