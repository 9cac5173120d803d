"""What the agent must not send any more, since the text behind it was withdrawn.

state/withdrawn.json     hashes of data manifests, and of deltas that went on from rounds with these; written
                         by `tapestry catalog revoke`, since the agent can read neither cards nor manifests
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
    deltas: Annotated[
        tuple[Sha256, ...] | None, Field(max_length=100_000, exclude_if=lambda v: v is None)
    ] = None
    """Of rounds with other text, which went on from moments, parameters or a residual of such rounds."""


_NOTHING: Final = WithdrawnManifests(manifests=())


class Held:
    """Of one home. The agent's threads may share one."""

    def __init__(self, home: Home) -> None:
        self._path = home.state / "withdrawn.json"
        self._seen: tuple[tuple[int, int] | None, WithdrawnManifests] = (None, _NOTHING)

    def covers(self, manifest: str, delta: str | None = None) -> bool:
        """Whether something is held back, by the data manifest it names and its delta.

        Raises `SettingsError` where the file cannot be read: then nothing is to be sent.
        """
        found = self._now()
        return manifest in found.manifests or (delta is not None and delta in (found.deltas or ()))

    def add(self, manifests: Iterable[str], deltas: Iterable[str] = ()) -> None:
        """Durable when this returns. For one process at a time: `node.revoke` holds a lock."""
        before = self._now()
        every = tuple(sorted({*manifests, *before.manifests}))
        made = WithdrawnManifests(
            manifests=every, deltas=tuple(sorted({*deltas, *(before.deltas or ())})) or None
        )
        if made != before or self._seen[0] is None:
            files.write_atomic(self._path, made.to_bytes())

    def _now(self) -> WithdrawnManifests:
        now = identity(str(self._path))  # each version is another file
        before, found = self._seen
        if now != before:
            found = _NOTHING if now is None else self._read()
            self._seen = now, found
        return found

    def _read(self) -> WithdrawnManifests:
        try:
            return WithdrawnManifests.from_bytes(files.read_limited(self._path, WithdrawnManifests.MAX_BYTES))
        except (OSError, TapestryError) as e:
            raise SettingsError(
                f"{self._path} cannot be read: {e}",
                hint="remove it and write it anew: tapestry catalog revoke NAME --home NODE_DIR",
            ) from e
