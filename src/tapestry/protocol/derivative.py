"""What an owner shows of a derivative: a closed schema, in which no weights, path or unknown field can be."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

MAX_OF_MEMBER: Final = 1000
MAX_LISTED: Final = 10_000
MAX_AHEAD_S: Final = 300.0
"""A record may be of a time so far ahead of the core's."""
Level = Literal["global", "regional", "national", "entity"]
Kind = Literal["cpt", "sft", "dpo", "port", "heal"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Prose = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]
Licence = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9 .+()-]+$")]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$")]
Short = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class ShownBase(Part):
    """The base it stands on."""

    weights: Sha256
    state: Sha256 | None
    run: Name | None
    round: Annotated[int, Field(ge=0, le=1 << 53)] | None


class ShownFigure(Part):
    """A figure its owner chose to show."""

    measure: Short
    part: Short
    value: Number
    base: Number | None


class ShownDerivative(Part):
    """Fields that the owner shows to the consortium; None where one is private or absent."""

    description: Prose | None
    base: ShownBase | None
    weights: Sha256 | None
    lineage: Sha256 | None
    parent: Sha256 | None
    stages: Annotated[tuple[Kind, ...], Field(max_length=64)] | None
    licence: Licence | None
    level: Level | None
    languages: Annotated[tuple[Language, ...], Field(max_length=100)] | None
    figures: Annotated[tuple[ShownFigure, ...], Field(max_length=200)] | None
    entitlement: Sha256 | None


FIELDS: Final = tuple(ShownDerivative.model_fields)
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]


class DerivativeRecord(Message):
    """A member's word about one of its derivatives; signed by a node key."""

    MAX_BYTES: ClassVar[int] = 1 << 16

    format: Literal["tapestry.derivative"] = "tapestry.derivative"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    node: Name
    derivative: Name
    at: Time
    shown: ShownDerivative | None
    """None takes it back."""
    public: Annotated[tuple[FieldName, ...], Field(max_length=len(FIELDS))]

    @model_validator(mode="after")
    def _public(self) -> Self:
        if list(self.public) != sorted(set(self.public)):
            raise ValueError("public is not sorted, or names a field twice")
        if any(self.shown is None or getattr(self.shown, name, None) is None for name in self.public):
            raise ValueError("public names a field that is not shown")
        return self
