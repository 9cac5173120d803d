"""What the agent must not send any more, since the text behind it was withdrawn.

state/withdrawn.json     hashes of data manifests; written by `tapestry catalog revoke`, since the agent can
                         read neither cards nor manifests
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.node.home import Home, identity
from tapestry.protocol.canonical import Sha256
from tapestry.protocol.message import Message

WITHDRAWN: Final = "the text it was trained on was withdrawn by its owner"


class WithdrawnManifests(Message):
    """The file."""

    format: Literal["tapestry.withdrawn-manifests"] = "tapestry.withdrawn-manifests"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 16 << 20

    manifests: Annotated[tuple[Sha256, ...], Field(max_length=100_000)]


class Held:
    """Of one home."""

    def __init__(self, home: Home) -> None:
        self._path = home.state / "withdrawn.json"
        self._seen: tuple[int, int] | None = None
        self._manifests: frozenset[str] = frozenset()

    def manifests(self) -> frozenset[str]:
        """All there are. Raises `SettingsError` where the file cannot be read: then nothing is to be sent."""
        now = identity(str(self._path))  # each version is another file
        if now != self._seen:
            self._manifests = frozenset() if now is None else self._read()
            self._seen = now
        return self._manifests

    def covers(self, manifest: str) -> bool:
        return manifest in self.manifests()

    def add(self, manifests: Iterable[str]) -> None:
        """Durable when this returns."""
        every = {*manifests, *self.manifests()}
        if every != self._manifests or self._seen is None:
            made = WithdrawnManifests(manifests=tuple(sorted(every)))
            files.write_atomic(self._path, made.to_bytes())

    def _read(self) -> frozenset[str]:
        try:
            data = files.read_limited(self._path, WithdrawnManifests.MAX_BYTES)
            return frozenset(WithdrawnManifests.from_bytes(data).manifests)
        except (OSError, TapestryError) as e:
            raise SettingsError(
                f"{self._path} cannot be read: {e}",
                hint="remove it and write it anew: tapestry catalog revoke NAME --home NODE_DIR",
            ) from e
