"""What a bundle says of itself: `bundle.json`, `files.jsonl`, and the proofs in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Final, Literal, NamedTuple

from pydantic import Field, StringConstraints, field_validator

from tapestry.errors import BundleError
from tapestry.ledger.tree import MAX_PROOF
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

BUNDLE: Final = "bundle.json"
LIST: Final = "files.jsonl"
LEDGER: Final = "ledger.jsonl"
CONSORTIUM: Final = "consortium.json"
RIGHTS: Final = "rights.cedar"
EGRESS: Final = ("egress.jsonl", "egress-messages.jsonl")
SUMMARY: Final = ("summary.md", "summary.json")
PAGE: Final = "index.html"

Kind = Literal["exit", "evidence"]
PLACES: Final[Mapping[str, frozenset[str]]] = {
    "exit": frozenset(
        (
            LEDGER,
            CONSORTIUM,
            RIGHTS,
            *EGRESS,
            "certificates",
            "proofs",
            "models",
            "blobs",
            "manifests",
            "cards",
            "used-cards",
            "receipts",
            "inner",
            "derivatives",
        )
    ),
    "evidence": frozenset(
        (LEDGER, CONSORTIUM, *SUMMARY, PAGE, "certificates", "proofs", "statements"),
    ),
}
"""First parts of paths, by kind."""
MAX_FILES: Final = 1 << 20
MAX_LINE_BYTES: Final = 2048
MAX_LIST_BYTES: Final = 256 << 20
MAX_DEPTH: Final = 8
MAX_RUNS: Final = 1000
MAX_LACKING: Final = 4096

_PART: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+=@-]{0,127}")
Count = Annotated[int, Field(ge=0, le=canonical.MAX_INTEGER)]
Said = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Taken(Part):
    """The newest base of a run that the node has."""

    run: Name
    plan: Sha256
    state: Sha256
    merges: Count
    round: Count


class Lacking(Part):
    """Something that belongs in a bundle and is not there."""

    what: Annotated[str, StringConstraints(min_length=1, max_length=1100)]
    """Its path."""
    why: Said


class Bundle(Message):
    """A bundle's own word, signed by a node key."""

    format: Literal["tapestry.bundle"] = "tapestry.bundle"
    version: Literal[1] = 1

    kind: Kind
    consortium: Sha256
    member: Name
    node: Name
    made: Time
    list: Sha256
    files: Annotated[int, Field(ge=1, le=MAX_FILES)]
    bytes: Count
    entries: Annotated[int, Field(ge=1, le=1 << 53)]
    root: Sha256
    only: Name | None
    runs: Annotated[tuple[Taken, ...], Field(max_length=MAX_RUNS)]
    contributions: Count
    derivatives: Annotated[tuple[Name, ...], Field(max_length=MAX_RUNS)]
    lacking: Annotated[tuple[Lacking, ...], Field(max_length=MAX_LACKING)]

    @field_validator("runs")
    @classmethod
    def _by_name(cls, runs: tuple[Taken, ...]) -> tuple[Taken, ...]:
        if any(first.run >= second.run for first, second in pairwise(runs)):
            raise ValueError("are not in the order of their names, each once")
        return runs

    @field_validator("derivatives")
    @classmethod
    def _ascending(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(first >= second for first, second in pairwise(names)):
            raise ValueError("are not in ascending order, each once")
        return names


class Inclusion(Message):
    """That a contribution is in the ledger, for whoever has the core's key and nothing else."""

    format: Literal["tapestry.inclusion"] = "tapestry.inclusion"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 4 << 20

    checkpoint: str
    entry: str
    envelope: str
    proof: Annotated[tuple[Sha256, ...], Field(max_length=MAX_PROOF)]


class Listed(NamedTuple):
    """A file of a bundle."""

    sha256: str
    bytes: int


def check_path(path: str, kind: Kind | None = None) -> str:
    """A path that may stand in a bundle. Raises `BundleError`."""
    parts = path.split("/")
    if len(parts) > MAX_DEPTH or any(p in (".", "..") or not _PART.fullmatch(p) for p in parts):
        raise BundleError(f"{path[:200]!r} cannot be the path of a file in a bundle")
    if kind is not None and parts[0] not in PLACES[kind]:
        raise BundleError(f"{path[:200]} belongs in no bundle of kind {kind}")
    return path


def list_lines(files: Mapping[str, Listed]) -> Iterator[bytes]:
    """`files.jsonl`, a line at a time."""
    for path in sorted(files):
        found = files[path]
        line = {"bytes": found.bytes, "path": path, "sha256": found.sha256}
        yield canonical.encode(line) + b"\n"


def parse_list(lines: Iterable[bytes], kind: Kind) -> dict[str, Listed]:
    """Files by path, from lines with their line feeds. Raises `BundleError` naming the line."""
    found: dict[str, Listed] = {}
    before = ""
    for number, line in enumerate(lines, start=1):
        where = f"{LIST}, line {number}"
        if number > MAX_FILES or len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
            raise BundleError(f"{where}: cut off, too long, or too many")
        value = canonical.decode(line[:-1], what=where, max_bytes=MAX_LINE_BYTES)
        if not isinstance(value, dict) or set(value) != {"bytes", "path", "sha256"}:
            raise BundleError(f"{where}: a line has the fields bytes, path and sha256")
        path, size, sha = value["path"], value["bytes"], value["sha256"]
        if not isinstance(path, str) or not isinstance(sha, str) or not canonical.is_sha256(sha):
            raise BundleError(f"{where}: path or sha256 is none")
        if type(size) is not int or not 0 <= size <= canonical.MAX_INTEGER:
            raise BundleError(f"{where}: bytes is no size")
        if path <= before:
            raise BundleError(f"{where}: {path[:200]} does not stand in ascending order")
        before = check_path(path, kind)
        found[path] = Listed(sha, size)
    return found
