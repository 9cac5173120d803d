"""The story on the terminal as it goes: in colour with a spinner, or plain lines anywhere else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from tapestry.cli.output import human_seconds, messages, note

if TYPE_CHECKING:
    from rich.console import Console

    from tapestry.cli.rehearsal.fault import Fault
    from tapestry.cli.rehearsal.told import Chapter, Check, Record

CLOSING: Final = "closing"
WORDS: Final = {"detected": "seen", "recovered": "safe"}


class Teller(Protocol):
    """Hears what is done and what is found."""

    def say(self, text: str) -> None: ...
    def waits(self, text: str) -> None: ...
    def begins(self, number: int, of: int, fault: Fault) -> None: ...
    def checked(self, check: Check) -> None: ...
    def recorded(self, record: Record) -> None: ...
    def ends(self, chapter: Chapter) -> None: ...


def verdict(chapter: Chapter) -> str:
    """One line."""
    if chapter.key == CLOSING:
        return "HOLDS" if chapter.recovered else "DOES NOT HOLD"
    if chapter.passed:
        return "DETECTED, RECOVERED"
    found = "DETECTED" if chapter.detected else "NOT DETECTED"
    return f"{found}, {'RECOVERED' if chapter.recovered else 'NOT RECOVERED'}"


def good(chapter: Chapter) -> bool:
    """Whether all of it is as it should be; the last check is of no fault, and detects none."""
    return chapter.recovered if chapter.key == CLOSING else chapter.passed


def place(record: Record) -> str:
    """Where something is recorded, in words."""
    return record.where if record.entry is None else f"ledger entry {record.entry} ({record.where})"


class PlainTeller:
    """Lines on stderr."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        note(f"[{time.monotonic() - self._began:6.1f} s] {text}")

    def waits(self, text: str) -> None:
        self.say(f"  … {text}")

    def begins(self, number: int, of: int, fault: Fault) -> None:
        note("")
        self.say(f"{number}/{of}  {fault.title}")
        note(f"           We do:    {fault.does}")
        note(f"           Expected: {fault.expected}")

    def checked(self, check: Check) -> None:
        mark = "ok" if check.held else "FAILED"
        self.say(f"  {WORDS[check.kind]} {mark}: {check.what}: {check.seen}")

    def recorded(self, record: Record) -> None:
        self.say(f"  recorded: {record.what}: {place(record)}")

    def ends(self, chapter: Chapter) -> None:
        if chapter.failure:
            self.say(f"  broke off: {chapter.failure}")
        self.say(f"{verdict(chapter)} ({human_seconds(chapter.ended_s - chapter.began_s)})")


class RichTeller:
    """The same on a terminal."""

    def __init__(self, console: Console) -> None:
        self._out = console
        self._status = console.status("")

    def _line(self, *parts: str | tuple[str, str]) -> None:
        from rich.padding import Padding
        from rich.text import Text

        self._out.print(Padding(Text.assemble(*parts), (0, 0, 0, 2)))

    def say(self, text: str) -> None:
        self._line(("· ", "dim"), text)

    def waits(self, text: str) -> None:
        self._status.update(text)

    def begins(self, number: int, of: int, fault: Fault) -> None:
        self._out.print()
        self._out.rule(f"[bold]{number}/{of}  {fault.title}[/bold]", align="left", style="blue")
        self._line(("we do     ", "dim"), fault.does)
        self._line(("expected  ", "dim"), fault.expected)

    def checked(self, check: Check) -> None:
        mark = ("✓ ", "bold green") if check.held else ("✗ ", "bold red")
        self._line(mark, check.what, ("  ", ""), (check.seen, "cyan" if check.held else "red"))

    def recorded(self, record: Record) -> None:
        self._line(("↳ ", "blue"), record.what, ("  ", ""), (place(record), "dim"))

    def ends(self, chapter: Chapter) -> None:
        if chapter.failure:
            self._line(("broke off: ", "bold red"), chapter.failure)
        style = "bold green" if good(chapter) else "bold red"
        took = human_seconds(chapter.ended_s - chapter.began_s)
        self._line((verdict(chapter), style), (f"  {took}", "dim"))

    def __enter__(self) -> RichTeller:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()


@contextmanager
def choose() -> Iterator[Teller]:
    """By whether somebody looks; both on stderr."""
    console = messages()
    if console.is_terminal and not console.is_dumb_terminal and os.environ.get("CI") is None:
        with RichTeller(console) as told:
            yield told
    else:
        yield PlainTeller()
