"""Cards of a demo's texts, and one dataset whose rights keep it out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tapestry.cli.demo.places import Places
    from tapestry.cli.demo.texts import MemberText

HERE: Final = "CH"
"""Where all nodes of a demo say they stand."""
KEPT_OUT: Final = "letters"
_LETTERS: Final = ("Dear all, this stays between us.", "Dear all, and so does this.")


@dataclass(frozen=True, kw_only=True)
class KeptOut:
    """A dataset of one member that no rule lets into the shared base."""

    member: str
    dataset: str
    rule: str
    reason: str
    needed: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.member}: {self.reason}; needed: {self.needed}"


def make(members: list[MemberText], places: Places, *, own_text: bool) -> None:
    """A card for the text of each member, where it has none; again after the text changed.

    Args:
        members: of the demo.
        places: of the demo.
        own_text: whether the text is the user's, of whose rights nothing is known here.
    """
    for member in members:
        if own_text:
            terms: dict[str, Any] = {
                "licence": "LicenseRef-own-text",
                "consent_basis": "whoever called the demo gave this folder to it",
                "languages": ["und"],
            }
        else:
            terms = {"licence": "PSF-2.0", "languages": ["en"]}
        terms |= {"category": "open", "description": member.about, "owner": member.name}
        _card(places.node(member.name), member.folder, f"{member.name[:48]}-text", terms)


def of_own_model(member: MemberText, kept: Path, places: Places, *, own_text: bool) -> str:
    """A card for text that may train only what stays with its member; its name."""
    name = f"{member.name[:48]}-own"
    terms: dict[str, Any] = {
        "licence": "LicenseRef-own-text" if own_text else "PSF-2.0",
        "languages": ["und"] if own_text else ["en"],
        "category": "private",
        "stages": ["private-cpt"],
        "description": "Text for this member's own model, which went into no run.",
        "owner": member.name,
    }
    if own_text:
        terms["consent_basis"] = "whoever called the demo gave this folder to it"
    _card(places.node(member.name), kept, name, terms)
    return name


def keep_out(members: list[MemberText], places: Places) -> KeptOut:
    """Give the first member a second dataset, whose card lets it into no base; and ask its node's rules."""
    from tapestry.cli.catalog_check import decisions
    from tapestry.errors import RightsRefused
    from tapestry.training.shelf import Shelf

    member = members[0].name
    folder, home = places.out / KEPT_OUT, places.node(member)
    folder.mkdir(exist_ok=True)
    for split, text in zip(("train", "valid"), _LETTERS, strict=True):
        if not (path := folder / f"{split}.jsonl").is_file():
            path.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    terms = {
        "licence": "LicenseRef-private",
        "consent_basis": "their writers, for this member's own use",
        "languages": ["en"],
        "category": "private",
        "description": "Letters that may train nothing which leaves this member.",
        "owner": member,
    }
    _card(home, folder, KEPT_OUT, terms)
    decision = decisions(Shelf.of_node(home).read(KEPT_OUT).card, home)[0]
    try:
        decision.enforce()
    except RightsRefused as e:
        return KeptOut(
            member=member, dataset=KEPT_OUT, rule=decision.rule, reason=e.message, needed=e.hint or ""
        )
    raise AssertionError("the demo's private letters were let into the base")


def _card(home: Path, folder: Path, name: str, terms: dict[str, Any]) -> None:
    from tapestry.training.holding import changes, hold
    from tapestry.training.rights import today
    from tapestry.training.shelf import Shelf

    shelf = Shelf.of_node(home)
    holding = hold(folder)
    if shelf.path(name).exists() and not changes(shelf.read(name).card, holding.files):
        return
    fields: dict[str, Any] = {"name": name, "made": today(), "residency": [HERE], "stages": ["base"], **terms}
    shelf.put(holding.values(folder, **fields), replace=True)
