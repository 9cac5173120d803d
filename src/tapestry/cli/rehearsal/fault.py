"""One fault: its words, and what plays it; `Stage` is what a play tells its story to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tapestry.cli.rehearsal.told import Chapter, Check, Kind, Look, Record

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.scene import Scene
    from tapestry.cli.rehearsal.telling import Teller


class NotSeen(Exception):
    """What had to come did not, in the time it was given."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Its `play` makes it, looks what comes of it, and leaves the consortium able to go on."""

    key: str
    title: str
    does: str
    expected: str
    play: Callable[[Scene, Stage], None]


class Stage:
    """Takes down what is done and seen in one chapter, and shows it as it comes."""

    def __init__(self, fault: Fault, teller: Teller, began_s: float) -> None:
        self._fault, self._teller, self._began_s = fault, teller, began_s
        self._done: list[str] = []
        self._checks: list[Check] = []
        self._records: list[Record] = []
        self._look: list[Look] = []

    def did(self, text: str) -> None:
        """Something was done."""
        self._done.append(text)
        self._teller.say(text)

    def waits(self, text: str) -> None:
        """What goes on, while it does; in no report."""
        self._teller.waits(text)

    def detected(self, what: str, held: bool, seen: str) -> None:
        """A check of whether the fault was noticed."""
        self._check("detected", what, held, seen)

    def recovered(self, what: str, held: bool, seen: str) -> None:
        """A check of whether all went on and nothing was lost."""
        self._check("recovered", what, held, seen)

    def _check(self, kind: Kind, what: str, held: bool, seen: str) -> None:
        check = Check(kind=kind, what=what, held=held, seen=seen)
        self._checks.append(check)
        self._teller.checked(check)

    def recorded(self, what: str, where: str, entry: int | None = None) -> None:
        """Where it can be read afterwards: a path below the rehearsal's folder."""
        record = Record(what=what, where=where, entry=entry)
        self._records.append(record)
        self._teller.recorded(record)

    def look(self, command: str, shows: str) -> None:
        """A command that shows it, in the folder that is kept."""
        self._look.append(Look(command=command, shows=shows))

    def chapter(self, ended_s: float, failure: str | None = None) -> Chapter:
        return Chapter(
            key=self._fault.key,
            title=self._fault.title,
            fault=self._fault.does,
            expected=self._fault.expected,
            began_s=round(self._began_s, 2),
            ended_s=round(ended_s, 2),
            done=tuple(self._done),
            checks=tuple(self._checks),
            records=tuple(self._records),
            look=tuple(self._look),
            failure=failure,
        )
