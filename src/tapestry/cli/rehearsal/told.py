"""What a rehearsal has found, as it stands in `report.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tapestry.protocol.message import Part

Kind = Literal["detected", "recovered"]


class Check(Part):
    """One thing that had to be seen, and what was."""

    kind: Kind
    """Whether it shows that the fault was noticed, or that nothing was lost by it."""
    what: str
    held: bool
    seen: str


class Record(Part):
    """Where it can be read afterwards."""

    what: str
    where: str
    """Path below the rehearsal's folder."""
    entry: int | None = None
    """Of the ledger."""


class Look(Part):
    """How to look for yourself."""

    command: str
    shows: str


class Chapter(Part):
    """One fault."""

    key: str
    title: str
    fault: str
    """What was done."""
    expected: str
    began_s: float
    ended_s: float
    done: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    records: tuple[Record, ...] = ()
    look: tuple[Look, ...] = ()
    failure: str | None = None
    """What ended it before its time, where something did."""

    def verdict(self, kind: Kind) -> bool:
        """Whether every check of this kind held; without any, nothing was shown."""
        own = [check.held for check in self.checks if check.kind == kind]
        return self.failure is None and bool(own) and all(own)

    @property
    def detected(self) -> bool:
        return self.verdict("detected")

    @property
    def recovered(self) -> bool:
        return self.verdict("recovered")

    @property
    def passed(self) -> bool:
        return self.detected and self.recovered


class Figure(Part):
    """A number with its name."""

    name: str
    value: str


class Member(Part):
    """Who took part, and what became of it."""

    name: str
    about: str
    part: str
    merged: int
    """Contributions of its nodes that are in merges."""
    start: float | None
    """Bits per byte of the first base it scored, on its own valid text."""
    end: float | None


class Report(Part):
    """All of it."""

    format: Literal["tapestry.rehearsal"] = "tapestry.rehearsal"
    version: Literal[1] = 1
    release: str
    began: str
    """UTC, by this machine's clock."""
    seconds: float
    machine: str
    consortium: str
    quick: bool
    passed: bool
    members: tuple[Member, ...]
    chapters: tuple[Chapter, ...]
    figures: tuple[Figure, ...]
    merges: Annotated[tuple[tuple[float, int], ...], Field(max_length=100_000)]
    """When, in seconds from the beginning, and how many there were by then."""
