"""The list of attacks: each test names its own here, and docs/security/attacks.md is the list in print.

python -m tests.attacks.catalog > docs/security/attacks.md
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

F = TypeVar("F", bound=Callable[..., Any])
HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "security" / "attacks.md"
NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
HEAD = """\
# Attacks that are tried

Every row is a working exploit in `tests/attacks`. Its test shows three things: with all defences on the
attack is refused and disturbs nothing else; with the defence switched off, and nothing else changed, the
same attack succeeds; and that defence was really asked. Where two defences stand behind each other, both
are switched off. This page is written by `python -m tests.attacks.catalog`; a test holds it against the
tests. Attacks on who fetches a release are [with its format](../formats/releases.md#fetching).

"""
COLUMNS = "| attack | what is tried | what stops it | test |\n|---|---|---|---|\n"
OPEN = """
## What is not stopped

- **A head far ahead.** A node that is more than a few merges behind fetches the head and repeats nothing.
  Its own ledger shows every contribution and weight that led there, not that the merges give that base. With
  a quorum of witnesses that many members say so; without one it is the core's word.
- **A base in a run without witnesses.** Nodes that repeat each merge (`sync = "replay"`) find a wrong one.
  Nodes that fetch (`sync = "fetch"`) find it only with `witness.quorum`.
- **A quorum of liars.** `witness.quorum` members who attest what they have not computed are believed by all
  who repeat nothing.
- **Two histories, until somebody compares.** A core can show two members two ledgers for as long as no
  contribution, attestation or checkpoint passes from one to the other. With `witness.quorum` above half of
  all members, and none of them lying, only one of two histories goes on.
- **A score that is not recorded.** Nothing follows from a score, so a core can leave one out, or record it
  twice. What it records is as the node signed it.
- **A contribution that is never answered.** A core can refuse to talk to a node, or give a receipt and then
  record nothing. A receipt is signed, and says by when the ledger must hold a decision; so its owner can
  show that a decision is missing. No node looks for that by itself.
- **A ballot that is never taken.** A core can refuse a ballot and say that it came late, by its own clock.
  What stands in its ledger it cannot take back, and it must count that.
- **A pledge that is not kept.** A phase opens on what is pledged and confirmed under signatures. Two members
  who confirm each other's word can make it open on nothing, and a core can refuse to take a pledge, as it can
  a ballot.
- **A contribution refused for a made-up reason.** The ledger says that a contribution was refused, and why.
  Whoever has its bytes can look for himself; from the ledger alone nobody can.
- **A certificate, without the ledger.** What a member gave is the word of the holders who signed, and which
  ledger it is that of whoever gave the core's key. As many holders as must sign, or a core that makes a
  ledger up, can deceive who has nothing else. `tapestry entitlement verify --ledger` takes neither's word.
- **A stated training time.** Whoever overstates every round by the same factor is plausible to itself. No
  weight and no right depends on it.
- **A copy under much noise.** With `merge.largest_overlap` copies of older updates are refused. Whoever adds
  noise as long as the update, or mixes updates of several rounds, passes; so does a node's own update of an
  earlier round with a little noise. Without it, and for a plan that compares nothing, every copy passes.
- **Poisoned but well-formed updates.** Finite values of the right form are merged. What limits them is
  `merge.influence_cap`.
- **One huge value.** A contribution of values near the largest float ends its round without a merge, each
  time, until the operator withdraws the node. With `merge.clip = "median"` it is shortened instead.
- **Weights that hide text.** The gate sees form, and canaries in the usual encodings
  ([airlock](../concepts/airlock.md)). Text that is encrypted, spread over values, or memorized it does not
  see. What passes is a hard link, so a trainer that keeps the file open can change it afterwards: the core
  refuses the bytes by their hash, but has seen them.
- **A curious member.** Whoever takes part sees each update, and can ask whether a text was in what it was
  trained on. How well that goes is [measured](../concepts/leakage.md), not prevented.
- **Connections without end.** Idle ones are closed after a while; whoever opens new ones faster than that
  keeps others out. That is for what stands before the core.
"""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One class of attack, one row."""

    name: str
    who: str
    tries: str
    stopped_by: str
    test: str
    """Module and function."""


CATALOG: dict[str, Attack] = {}


def _add(module: str, function: str, name: str, tries: str, stopped_by: str) -> None:
    if NAME.fullmatch(name) is None or name in CATALOG:
        raise ValueError(f"{name!r} is no name for an attack, or is taken")
    who = str(sys.modules[module].__dict__["WHO"])
    where = f"{module.rpartition('.')[2]}.py::{function}"
    CATALOG[name] = Attack(name=name, who=who, tries=tries, stopped_by=stopped_by, test=where)


def attack(name: str, *, tries: str, stopped_by: str) -> Callable[[F], F]:
    """Decorator of a test that is one attack. Its module says who attacks in `WHO`."""

    def register(function: F) -> F:
        _add(function.__module__, function.__name__, name, tries, stopped_by)
        return function

    return register


@dataclass(frozen=True)
class Case:
    """One attack of several that share a test."""

    name: str
    tries: str
    stopped_by: str
    values: tuple[Any, ...]


def attacks(*cases: Case) -> Callable[[F], F]:
    """Decorator of a test that is several attacks; it takes the values of each as `given`."""

    def register(function: F) -> F:
        for case in cases:
            _add(function.__module__, function.__name__, case.name, case.tries, case.stopped_by)
        params = [pytest.param(case.values, id=case.name) for case in cases]
        marked: F = pytest.mark.parametrize("given", params)(function)
        return marked

    return register


def case(name: str, tries: str, stopped_by: str, *values: Any) -> Case:
    return Case(name, tries, stopped_by, values)


def load() -> dict[str, Attack]:
    """The whole catalogue: every test module of this folder is imported."""
    for path in sorted(HERE.glob("test_*.py")):
        if path.stem != "test_catalog":
            importlib.import_module(f"tests.attacks.{path.stem}")
    return CATALOG


def page() -> str:
    """The catalogue in print."""
    found = sorted(load().values(), key=lambda each: each.test)  # stable: in the order of each file
    text, test = HEAD + f"{len(found)} classes.\n", ""
    for each in found:
        file = each.test.partition("::")[0]
        if file != test:
            test = file
            text += f"\n## `{file}`: {each.who}\n\n{COLUMNS}"
        function = each.test.partition("::")[2]
        text += f"| {each.name} | {each.tries} | {each.stopped_by} | `{function}` |\n"
    return text + OPEN


if __name__ == "__main__":
    from tests.attacks import catalog  # the one that the tests register with

    sys.stdout.write(catalog.page())
