"""How a dataset came to be out of another: `lineage.json` of a curated folder, and part of its card."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from tapestry.catalog.words import Count, Label
from tapestry.errors import CardError, FormatError
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Sha256
from tapestry.protocol.message import Part, explain

FILE: Final = "lineage.json"
MAX_BYTES: Final = 1 << 20
_HINT: Final = "curate the text again, or take lineage.json out of its folder; see docs/formats/cards.md"

Words = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9 ._+-]+$")]
Json = dict[str, Any]


class State(Part):
    """Text between two steps, as a card counts it."""

    documents: Count
    bytes: Count
    root: Sha256


class Activity(Part):
    """One step."""

    name: Label
    library: Words
    version: Words
    settings: Sha256
    """Of what the step was told."""
    before: State
    after: State


class Lineage(Part):
    """All steps, in the order in which each document went through them."""

    format: Literal["tapestry.lineage"] = "tapestry.lineage"
    version: Literal[1] = 1
    tool: Words
    """The release that did it."""
    source: State
    steps: Annotated[tuple[Activity, ...], Field(max_length=100)]
    result: State

    @model_validator(mode="after")
    def _unbroken(self) -> Lineage:
        state = self.source
        for number, step in enumerate(self.steps):
            if step.before != state:
                raise ValueError(f"steps.{number}: does not begin with what was there before")
            state = step.after
        if state != self.result:
            raise ValueError("result: is not what the last step gave")
        if len({step.name for step in self.steps}) != len(self.steps):
            raise ValueError("steps: two have one name")
        return self

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Lineage:
        """Raises `CardError` naming file and field."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as e:
            said = explain(e).replace("Value error, ", "")
            raise CardError(f"{where}: {said}", hint=_HINT) from e

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json"))

    def require(self, state: State, where: str) -> None:
        """Raise `CardError` unless the text is what came out."""
        if state != self.result:
            raise CardError(f"{where} is of other text than lies there now", hint=_HINT)

    def render(self) -> Json:
        """As JSON-LD in the words of PROV-O: a content that was derived from another, by activities."""
        return {
            **_entity(self.result),
            "tapestry:tool": self.tool,
            "prov:wasDerivedFrom": _entity(self.source),
            "prov:wasGeneratedBy": [
                {
                    "@id": f"urn:tapestry:activity:{step.before.root}:{step.name}",
                    "@type": "prov:Activity",
                    "name": step.name,
                    "tapestry:library": step.library,
                    "tapestry:version": step.version,
                    "tapestry:settings": step.settings,
                    "prov:used": _entity(step.before),
                    "prov:generated": _entity(step.after),
                }
                for step in self.steps
            ],
        }

    @classmethod
    def values(cls, found: Json) -> Json:
        """Of JSON-LD that `render` gave, as values to be checked. Raises `FormatError`."""
        try:
            return {
                "tool": found["tapestry:tool"],
                "source": _state(found["prov:wasDerivedFrom"]),
                "steps": [
                    {
                        "name": each["name"],
                        "library": each["tapestry:library"],
                        "version": each["tapestry:version"],
                        "settings": each["tapestry:settings"],
                        "before": _state(each["prov:used"]),
                        "after": _state(each["prov:generated"]),
                    }
                    for each in found["prov:wasGeneratedBy"]
                ],
                "result": _state(found),
            }
        except (KeyError, TypeError, AttributeError) as e:
            raise FormatError("is not written as docs/formats/cards.md has it") from e


def _entity(state: State) -> Json:
    """Without an `@id`: one text is what a step gave and what the next one used, and not every reader of
    Croissant takes a node that stands in two places."""
    return {
        "@type": "prov:Entity",
        "tapestry:root": state.root,
        "tapestry:documents": state.documents,
        "tapestry:bytes": state.bytes,
    }


def _state(found: Json) -> Json:
    return {
        "documents": found["tapestry:documents"],
        "bytes": found["tapestry:bytes"],
        "root": found["tapestry:root"],
    }
