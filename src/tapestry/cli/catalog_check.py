"""`tapestry catalog check`: cards held against files, and what a node's rules say of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.cli.output import counted, emit_table

if TYPE_CHECKING:
    from tapestry.catalog.card import Card
    from tapestry.catalog.policy import Decision
    from tapestry.training.holding import Change
    from tapestry.training.shelf import Shelf


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of one card.

    Args:
        error: why the text could not be read.
        root: whether the documents hash to the card's root.
        withheld: documents that the node's protected.toml keeps from training, by topic or holding; None
            where there is no such file.
    """

    name: str
    folder: str
    changes: list[Change]
    root: bool
    error: str | None = None
    decisions: list[Decision]
    withheld: dict[str, int] | None = None

    @property
    def whole(self) -> bool:
        return self.root and not self.changes and self.error is None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": self.folder,
            "whole": self.whole,
            "error": self.error,
            "changes": [{"path": each.path, "what": each.what} for each in self.changes],
            "withheld": self.withheld,
            "stages": [
                {
                    "stage": each.stage,
                    "permitted": each.permitted,
                    "rules": list(each.rules),
                    "needed": each.needed,
                }
                for each in self.decisions
            ],
        }


def check_all(shelf: Shelf, names: list[str], folder: Path | None, home: Path | None) -> list[Checked]:
    """Hold each card against its folder. Raises `InputError`, and `CardError` for a card that is none."""
    from tapestry.errors import InputError, TapestryError

    wanted = names or shelf.names()
    if folder is not None and len(wanted) != 1:
        raise InputError("--folder is for one dataset", hint="name it")
    every = []
    for name in shelf.names():
        with suppress(TapestryError):
            every.append(shelf.read(name).card)
    return [_check(shelf.read(name).card, every, folder, home) for name in wanted]


def _check(card: Card, every: list[Card], folder: Path | None, home: Path | None) -> Checked:
    from tapestry.errors import CorpusError
    from tapestry.training.holding import changes, hold
    from tapestry.training.rights import protected_of
    from tapestry.training.withheld import withheld

    protected = protected_of(home) if home is not None else None
    where = folder or Path(card.folder)
    permitted = decisions(card, home) if home is not None else []
    mine = {file.path for file in card.files}
    others = {
        file.path
        for each in every
        if each.name != card.name and each.folder == card.folder
        for file in each.files
        if file.path not in mine
    }
    try:
        with counted(f"hashing {card.name}") as tell:
            found = hold(where, tell, only=lambda path: path not in others)
        kept_out = (
            withheld(where, protected, lambda path: path not in others) if protected is not None else None
        )
    except CorpusError as e:
        return Checked(
            name=card.name, folder=str(where), changes=[], root=False, error=e.message, decisions=permitted
        )
    return Checked(
        name=card.name,
        folder=str(where),
        changes=changes(card, found.files),
        root=found.content == card.content,
        decisions=permitted,
        withheld=kept_out,
    )


def decisions(card: Card, home: Path) -> list[Decision]:
    """What the rules of a node say today of each stage that a card permits."""
    from tapestry.training.rights import rules, today
    from tapestry.training.settings import TrainerSettings
    from tapestry.training.withdrawals import Withdrawals

    settings = TrainerSettings.load(home)
    policy, withdrawn = rules(home), Withdrawals(home).covers(card)
    return [
        policy.decide(
            card,
            stage,
            node=settings.node,
            member=settings.member,
            residency=settings.residency,
            today=today(),
            withdrawn=withdrawn,
        )
        for stage in card.stages
    ]


def print_checked(checked: list[Checked]) -> None:
    """A line a dataset, and one for each file that changed."""
    lines: list[tuple[str, str, str | None]] = []
    for each in checked:
        verdict = "as its card says" if each.whole else each.error or "other documents than its card says"
        stages = [
            one.stage if one.permitted else f"not {one.stage} ({', '.join(one.rules)})"
            for one in each.decisions
        ]
        lines.append((each.name, verdict, ", ".join(stages) or None))
        lines += [("", f"{change.path}: {change.what}", None) for change in each.changes]
        withheld = (each.withheld or {}).items()
        lines += [("", f"withheld, {name}: {count} documents", None) for name, count in withheld]
    emit_table(("name", "text", "may enter"), lines)
