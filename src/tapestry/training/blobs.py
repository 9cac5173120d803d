"""What training needs of a blob folder. `storage.blobs.BlobStore` satisfies both contracts; training never
imports storage."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tapestry.errors import ArtifactError, HashMismatch, NotFound
from tapestry.host import files
from tapestry.protocol.canonical import is_sha256, sha256


class BlobSink(Protocol):
    """Takes bytes and gives their address."""

    def put(self, data: bytes, /) -> str: ...


class BlobSource(Protocol):
    """Gives verified bytes by address."""

    def read(self, sha: str, max_bytes: int, /) -> bytes: ...


class BlobFolder:
    """Reads `<root>/<aa>/<sha256>` and verifies every byte; never writes or removes anything.

    Raises (from `read`):
        NotFound: the blob is not there.
        TooLarge: it has more than `max_bytes`.
        HashMismatch: its content is not what its name says.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, sha: str) -> bool:
        """Whether it lies there, whatever is in it."""
        return is_sha256(sha) and (self.root / sha[:2] / sha).is_file()

    def read(self, sha: str, max_bytes: int, /) -> bytes:
        if not is_sha256(sha):
            raise ArtifactError(f"{sha[:64]!r} is not a blob address")
        try:
            data = files.read_limited(self.root / sha[:2] / sha, max_bytes)
        except FileNotFoundError as e:
            raise NotFound(f"blob {sha} is not in {self.root}", hint="the agent fetches it again") from e
        if sha256(data) != sha:
            raise HashMismatch(f"blob {sha} in {self.root} is corrupt", hint="the agent fetches it again")
        return data
