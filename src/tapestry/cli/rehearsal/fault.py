"""One fault: its words, and what plays it; `Stage` is what a play tells its story to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tapestry.cli.rehearsal.told import Chapter, Check, Kind, Look, Record

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.scene import Scene
    from tapestry.cli.rehearsal.telling import Teller


LEDGER: Final = "ledger.jsonl"
"""The whole ledger, as a file that anybody can verify, in the rehearsal's folder."""


class NotSeen(Exception):
    """What had to come did not, in the time it was given."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Its `play` makes it, looks what comes of it, and leaves the consortium able to go on."""

    key: str
    title: str
    member: int | None
    """Who has the part that is not the core's, by its place among the members."""
    part: str
    """What becomes of that one, in words."""
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

    def recorded(self, what: str, where: str = LEDGER, entry: int | None = None) -> None:
        """Where it can be read afterwards: a path below the rehearsal's folder, or an entry of the ledger."""
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
            look=(*self._look, *_grep(self._records)),
            failure=failure,
        )


def _grep(records: list[Record]) -> list[Look]:
    """The command that shows their entries, whose canonical JSON has these words in no other place."""
    numbers = "|".join(str(each.entry) for each in records if each.entry is not None)
    if not numbers:
        return []
    command = f"""grep -E '"sequence":({numbers}),"type"' {LEDGER}"""
    return [Look(command=command, shows="these entries of the ledger as they stand there")]
