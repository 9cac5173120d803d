"""in-toto Statements about a contribution: assertions of the owner. Format: docs/formats/statements.md."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tapestry.bundle.record import Own
from tapestry.catalog.words import Count, Country, Day, Label, Stage
from tapestry.errors import FormatError
from tapestry.identity.envelope import Envelope, sign_bytes
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Part, explain
from tapestry.protocol.messages import Time

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PAYLOAD: Final = "application/vnd.in-toto+json"
DATA_USE: Final = "urn:tapestry:assertion:data-use:1"
RESIDENCY: Final = "urn:tapestry:assertion:residency:1"
KINDS: Final = ("data-use", "residency")
ASSERTION: Final = "stated by the owner of the node; not checked by anybody else"

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+ -]{1,128}$")]
Rule = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""Name of a rule; an owner's own may be any text."""
Why = Annotated[str, StringConstraints(min_length=1, max_length=400)]


class Digest(Part):
    sha256: Sha256


class Subject(Part):
    """What a statement is about."""

    name: Literal["delta", "contribution"]
    digest: Digest


class Recorded(Part):
    """Where the ledger has it."""

    sequence: Count
    at: Time


class Decided(Part):
    """What the rules say of a dataset."""

    permitted: bool
    rule: Rule
    rules: Annotated[tuple[Rule, ...], Field(max_length=1000)]
    day: Day


class Used(Part):
    """A dataset, and what it was used for."""

    name: Label
    card: Digest
    stage: Stage
    decision: Decided


class Placed(Part):
    """A dataset, and whether it may be processed where the node says it stands."""

    name: Label
    card: Digest
    allowed: bool


class _Predicate(Part):
    assertion: Literal["stated by the owner of the node; not checked by anybody else"] = ASSERTION
    consortium: Sha256
    member: Name
    node: Name
    run: Name
    round: Count
    recorded: Recorded
    lacking: Why | None


class DataUse(_Predicate):
    """Which data went into a contribution, and what the rules say of it."""

    dataManifest: Digest  # noqa: N815 - as in-toto writes names
    tokens: Count
    steps: Count
    datasets: Annotated[tuple[Used, ...], Field(max_length=1000)]
    policy: Digest


class Residency(_Predicate):
    """Where the text was processed, and how far it was kept from the network."""

    residency: Country | None
    airlock: Word | None
    datasets: Annotated[tuple[Placed, ...], Field(max_length=1000)]


class Statement(BaseModel):
    """The payload."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT, alias="_type")
    subject: Annotated[tuple[Subject, ...], Field(min_length=2, max_length=2)]
    predicateType: Literal["urn:tapestry:assertion:data-use:1", "urn:tapestry:assertion:residency:1"]  # noqa: N815
    predicate: DataUse | Residency

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> Statement:
        """Raises `FormatError`."""
        value = canonical.decode(data, what="statement", max_bytes=Envelope.MAX_BYTES)
        try:
            found = cls.model_validate_json(data)
        except ValidationError as e:
            raise FormatError(f"the statement is not valid: {explain(e)}") from e
        if canonical.encode(value) != found.to_bytes() or found.predicateType != _type_of(found.predicate):
            raise FormatError("the statement is not of the type it names, or leaves out fields")
        return found


def _type_of(predicate: DataUse | Residency) -> str:
    return DATA_USE if isinstance(predicate, DataUse) else RESIDENCY


def path_of(digest: str, kind: str) -> str:
    """Of the statement about a contribution."""
    return f"statements/{digest}.{kind}.json"


def stated(own: Own) -> dict[str, Any]:
    """What predicates of both types repeat of a contribution."""
    said = own.said
    return {
        "consortium": said.consortium,
        "member": said.member,
        "node": said.node,
        "run": said.run,
        "round": said.round,
        "recorded": Recorded(sequence=own.entry.sequence, at=own.entry.at),
    }


def subjects(own: Own) -> tuple[Subject, Subject]:
    return (
        Subject(name="delta", digest=Digest(sha256=own.said.delta)),
        Subject(name="contribution", digest=Digest(sha256=own.digest)),
    )


def make(own: Own, predicate: DataUse | Residency) -> Statement:
    """About a contribution."""
    kind: Any = _type_of(predicate)
    return Statement(subject=subjects(own), predicateType=kind, predicate=predicate)


def sign(statement: Statement, keypair: KeyPair) -> Envelope:
    """In an envelope that any DSSE reader opens."""
    return sign_bytes(PAYLOAD, statement.to_bytes(), keypair)


def check_about(statement: Statement, own: Own) -> None:
    """Raise `FormatError` unless it says of a contribution what that says itself."""
    said, predicate = own.said, statement.predicate
    same = statement.subject == subjects(own) and all(
        getattr(predicate, name) == value for name, value in stated(own).items()
    )
    if isinstance(predicate, DataUse):
        same = same and (predicate.tokens, predicate.steps) == (said.tokens, said.steps)
        same = same and predicate.dataManifest.sha256 == said.data_manifest
    else:
        same = same and predicate.airlock == said.environment.get("airlock")
    if not same:
        raise FormatError("the statement does not say what the contribution itself says")
