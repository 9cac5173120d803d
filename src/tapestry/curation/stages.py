"""The steps in their order, as a request asks for them. Every process makes its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.catalog.protected import Protected
from tapestry.curation.contamination import Contamination, Evaluation
from tapestry.curation.duplicates import Duplicates
from tapestry.curation.language import UNTOLD, Language
from tapestry.curation.letters import Document
from tapestry.curation.pii import Pii
from tapestry.curation.quality import Quality
from tapestry.curation.settings import Action, CurationSettings
from tapestry.curation.step import Look, Step
from tapestry.curation.withhold import Withhold
from tapestry.ledger.tree import leaf_hash
from tapestry.protocol import canonical


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        settings: of all steps.
        languages: BCP 47 tags that documents should be in; empty where any will do.
        protected: the node's file, empty where there is none.
        evaluation: hashes of the evaluation sets; None where there are none.
        scratch: folder for what does not stay in memory.
    """

    settings: CurationSettings
    languages: tuple[str, ...]
    protected: bytes = b""
    evaluation: Evaluation | None = None
    scratch: Path


@dataclass(frozen=True)
class Stage:
    """A step, and what becomes of what it finds."""

    step: Step
    action: Action
    settings: str
    """Digest of what it was told."""


def stages(request: Request) -> list[Stage]:
    """The steps that are not off. Raises `SettingsError` where a library is missing."""
    given, found = request.settings, []
    if request.protected:
        protected = Protected.parse(request.protected, "protected.toml")
        found.append(Stage(Withhold(protected), "drop", protected.digest))
    if given.language.action != "off":
        step = Language(given.language, request.languages)
        told = canonical.sha256(canonical.encode([given.language.digest, sorted(request.languages)]))
        found.append(Stage(step, given.language.action, told))
    if given.quality.action != "off":
        found.append(Stage(Quality(given.quality), given.quality.action, given.quality.digest))
    if given.contamination.action != "off" and request.evaluation is not None:
        check = Contamination(given.contamination, request.evaluation)
        told = canonical.sha256(canonical.encode([given.contamination.digest, check.digest]))
        found.append(Stage(check, given.contamination.action, told))
    if given.duplicates.action != "off":
        twice = Duplicates(given.duplicates, request.scratch)
        found.append(Stage(twice, given.duplicates.action, given.duplicates.digest))
    if given.pii.action != "off":
        found.append(Stage(Pii(given.pii), given.pii.action, given.pii.digest))
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What the steps make of one document that does not depend on others.

    Args:
        looks: of each step, up to the first that leaves the document out.
        leaf: of the document in the content hash, and of the text that takes its place.
        size: bytes of the same.
        language: as far as it was found.
    """

    looks: tuple[Look, ...]
    leaf: tuple[bytes, bytes]
    size: tuple[int, int]
    language: str


def look(text: str, over: Sequence[Stage]) -> Seen:
    """At one document."""
    document, looks = Document(text), []
    for stage in over:
        found = stage.step.look(document)
        looks.append(found)
        if found.why is not None and stage.action == "drop":
            break
    first = text.encode()
    changed = next((each.text for each in looks if each.text is not None), None)
    second = first if changed is None else changed.encode()
    language = next((each.language for each in looks if each.language is not None), UNTOLD)
    return Seen(tuple(looks), (leaf_hash(first), leaf_hash(second)), (len(first), len(second)), language)
