"""Checkpoints: what a ledger's tree was at some size, as the text of a C2SP tlog-checkpoint.

Three lines, of which one is the whole encoding: the origin, the number of leaves, the root in base64. No
extension lines: what nobody could check has no place under a signature.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final, Self

from tapestry.errors import FormatError
from tapestry.ledger.tree import HASH_BYTES

ORIGIN_PREFIX: Final = "tapestry/"
_ORIGIN: Final = re.compile(r"tapestry/[0-9a-f]{64}")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}")
MAX_SIZE: Final = 1 << 53


def origin_of(consortium: str) -> str:
    """Of a consortium's ledger."""
    return ORIGIN_PREFIX + consortium


@dataclass(frozen=True)
class Checkpoint:
    """A tree's head.

    Args:
        origin: of the ledger.
        size: leaves.
        root: hash of the tree.
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `FormatError`."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise FormatError("a checkpoint has three lines: origin, size, root")
        origin, size, root = lines[:3]
        if not _ORIGIN.fullmatch(origin):
            raise FormatError(f"{origin[:80]!r} is not the origin of a Tapestry ledger")
        if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
            raise FormatError(f"{size[:80]!r} is not the size of a tree")
        try:
            found = cls(origin, int(size), base64.b64decode(root, validate=True))
        except (binascii.Error, ValueError) as e:
            raise FormatError("the root of a checkpoint is not base64") from e
        if len(found.root) != HASH_BYTES or found.text != text:
            raise FormatError("the root of a checkpoint is 32 bytes in base64, in one form")
        return found
