"""The contract every message and file obeys: closed schema, `format`, `version`, canonical bytes."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tapestry.errors import FormatError, TapestryError, VersionError
from tapestry.protocol import canonical


def explain(error: ValidationError) -> str:
    """The first fault of a pydantic error in one line that names the field."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "message"
    return f"{where}: {first['msg']}"


class Part(BaseModel):
    """A nested value of a message: closed, immutable, no conversions between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Message(Part):
    """A value that travels or is stored on its own, under `format` and `version`.

    A subclass states both as literal fields:

        format: Literal["tapestry.state"] = "tapestry.state"
        version: Literal[1] = 1

    Its bytes are the canonical JSON of all fields, and `digest` addresses them.
    """

    MAX_BYTES: ClassVar[int] = canonical.MAX_MESSAGE_BYTES

    @classmethod
    def format_name(cls) -> str:
        return str(cls.model_fields["format"].default)

    @classmethod
    def format_version(cls) -> int:
        return int(cls.model_fields["version"].default)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`."""
        return canonical.sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and validate foreign bytes. Raises `FormatError`, `VersionError` or `TooLarge`."""
        what = cls.format_name()
        canonical.check_limits(data, what=what, max_bytes=cls.MAX_BYTES)
        found = cls.exact(data)
        if found is not None:
            return found
        message = cls._checked(canonical.decode(data, what=what, max_bytes=cls.MAX_BYTES), data)
        if message.to_bytes() != data:
            raise FormatError(f"{what} leaves out fields that its canonical form states")
        return message

    @classmethod
    def exact(cls, data: bytes) -> Self | None:
        """The message whose bytes these are, so that they are canonical, with every field stated. None where
        there is none; what is wrong is then for others to find."""
        try:
            message = cls.model_validate_json(data)
            return message if message.to_bytes() == data else None
        except (ValidationError, TapestryError):
            return None

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Validate a parsed JSON value that states its `format` and `version`."""
        return cls._checked(value, None)

    @classmethod
    def _checked(cls, value: Any, data: bytes | None) -> Self:
        """`data`: the canonical bytes of the value, where they are at hand."""
        name, version = cls.format_name(), cls.format_version()
        if not isinstance(value, dict):
            raise FormatError(f"{name} is not a JSON object")
        if value.get("format") != name:
            raise VersionError(
                f"expected {name}, got {str(value.get('format'))[:64]!r}",
                hint="the other side may run another release of Tapestry",
            )
        if type(value.get("version")) is not int or value["version"] != version:
            raise VersionError(
                f"{name} version {str(value.get('version'))[:16]} is not supported "
                f"(this release speaks {version})",
                hint="upgrade the older side to the release the other one runs",
            )
        try:
            return cls.model_validate_json(canonical.encode(value) if data is None else data)
        except ValidationError as e:
            raise FormatError(f"{name} is not valid: {explain(e)}") from e
