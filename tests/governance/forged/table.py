"""The table of classes, and what is done with one forged message."""

from __future__ import annotations

import importlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from cryptography.exceptions import InvalidSignature

from tapestry.errors import TapestryError
from tapestry.governance.machine import Step
from tapestry.ledger.entries import Entry
from tests.attacks.switches import Switches
from tests.audit.second import VOTED
from tests.governance.forged.world import Tip, World, copied

MODULES: Final = (
    *("ballots", "forms", "envelopes", "proposals", "questions", "adoptions"),
    *("ledgers", "entries", "plans", "requests"),
)
"""Of this folder; each says who forges in `WHO`."""
NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
Off = tuple[Any, ...]
"""A check that is switched off: arguments as of `Switches.all_off`."""


@dataclass(frozen=True, kw_only=True)
class Forged:
    """One forged message.

    Args:
        act: puts it to the rules, as a core does. None where a core itself lies.
        entries: what a core that takes it writes next in its ledger; the last is the lie, those before hold.
        tip: where in the history this is.
        asked: for what is put to a core over HTTP: sends it, and raises what is answered.
    """

    act: Callable[[], Step | None] | None = None
    entries: tuple[Entry, ...] = ()
    tip: Tip | None = None
    asked: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Class:
    """One class, one row of the table."""

    name: str
    who: str
    tries: str
    stopped_by: str
    make: Callable[[Any, Random], Forged]
    off: tuple[Off, ...]
    first_only: bool
    """The second verifier does not look at this (docs/formats/votes.md says what it leaves out)."""
    http: bool


TABLE: dict[str, Class] = {}


def forged(
    name: str, tries: str, stopped_by: str, *off: Off, first_only: bool = False, http: bool = False
) -> Callable[[Callable[[Any, Random], Forged]], Callable[[Any, Random], Forged]]:
    """Decorator of a function that makes one message of a class: from a world and a source of chance.

    Args:
        off: what is switched off for the control, in which the message must pass.
    """

    who = str(sys._getframe(1).f_globals["WHO"])  # of the file that has the class, whoever makes its messages

    def register(make: Callable[[Any, Random], Forged]) -> Callable[[Any, Random], Forged]:
        if NAME.fullmatch(name) is None or name in TABLE or not off:
            raise ValueError(f"{name!r} is no name for a class, is taken, or has no control")
        known = {"name": name, "tries": tries, "stopped_by": stopped_by, "make": make}
        TABLE[name] = Class(**known, who=who, off=off, first_only=first_only, http=http)
        return make

    return register


def load() -> dict[str, Class]:
    for name in MODULES:
        importlib.import_module(f"tests.governance.forged.{name}")
    where = {f"tests.governance.forged.{name}": place for place, name in enumerate(MODULES)}
    return dict(sorted(TABLE.items(), key=lambda each: where[each[1].make.__module__]))


# -- judges ---------------------------------------------------------------------------------------


def judged(given: Class, message: Forged) -> list[str]:
    """Who accepted it; nobody, if all is well. Whatever is raised that is no refusal, is raised here."""
    accepted = []
    if message.act is not None and _acted(message.act):
        accepted.append("the rules")
    if message.asked is not None and _asked(message.asked):
        accepted.append("the core's API")
    if message.entries and message.tip is not None:
        if _first(message.tip, message.entries):
            accepted.append("the verifier")
        if not given.first_only and _second(message.tip, message.entries):
            accepted.append("the second verifier")
    return accepted


def let_through(given: Class, message: Forged) -> bool:
    """The control: whether it passes where its check is off."""
    try:
        with warnings.catch_warnings(), Switches().all_off(*given.off):
            warnings.simplefilter("ignore")  # values that no message may have are written all the same
            if message.act is not None:
                return _acted(message.act)
            if message.asked is not None:
                return _asked(message.asked)
            assert message.tip is not None
            return _first(message.tip.copied(), message.entries)
    except AssertionError as e:
        if "was never asked" in str(e):
            return False
        raise


def _acted(act: Callable[[], Step | None]) -> bool:
    try:
        step = act()
    except TapestryError:
        return False
    return step is not None and step.event is not None


def _asked(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except TapestryError:
        return False
    return True


def _first(tip: Tip, entries: Sequence[Entry]) -> bool:
    """A refused entry changes nothing, so only what comes before a lie needs a verifier of its own."""
    first = tip.copied().first if len(entries) > 1 else tip.first
    for entry in entries[:-1]:
        first.line(("entry", entry))
    try:
        first.line(("entry", entries[-1]))
    except TapestryError:
        return False
    return True


def _second(tip: Tip, entries: Sequence[Entry]) -> bool:
    alone = len(entries) == 1 and entries[0].type in VOTED  # which leaves nothing behind where it is refused
    second = tip.second if alone else copied(tip.second)
    for entry in entries[:-1]:
        second.entry(entry.model_dump(mode="json"))
    try:
        second.entry(json.loads(entries[-1].to_bytes()))
    except (ValueError, InvalidSignature):
        return False
    return True


# -- in print -------------------------------------------------------------------------------------

COLUMNS: Final = "| class | what is tried | what stops it |\n|---|---|---|\n"


def listed() -> str:
    """The table, for docs/security/governance.md."""
    text, who = "", ""
    for each in load().values():
        if each.who != who:
            who = each.who
            text += f"\n### {who}\n\n{COLUMNS}"
        text += f"| {each.name} | {each.tries} | {each.stopped_by} |\n"
    return text.strip() + "\n"


def a_world(number: int) -> World:
    return World(number)
