"""Forge governance messages by the thousand; put each to the rules, two verifiers, or a core's application.

Exit code 1 where one is accepted, or where a control is refused with its check off.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import say
from benchmarks.report import RESULTS, Report

from tests.governance.forged import campaign
from tests.governance.forged.campaign import Result
from tests.governance.forged.table import listed, load

HEAD = """\
# Governance messages that are forged

Proposals, ballots, adoptions of a charter, and the entries that record them: each row is a class of
messages that must not be accepted. `tests/governance/forged` makes random ones of each class, in consortia
whose members, keys, rules and history are drawn too: some are suspended, expelled, gone or new, a charter
was changed, a root key replaced, votes are open, lost and won. A message is put to the rules that the core
runs, to the verifier as the entry that a core would write which takes it, and to a second verifier that
shares no code with the first; requests go to a core's own application, without a socket.

For each class the checks that stop it are also switched off, and nothing else: then the same message must
pass. A class whose control is refused fails the test, since it would show nothing.

`make forged` tries 10,000 (`FORGED_ARGS="--messages 100000 --seed 2"`); `make test` two of each class. This
page is written by `python -m tests.governance.forged --page`; a test holds the tables against the classes.
More attacks, on rounds, nodes and data, are [listed here](attacks.md).

`make life` walks through decisions by chance: members join, leave, are admitted, suspended and expelled,
appeal, change their minds, keys, root keys and the charter, and deadlines pass. After each of 100,000
steps what is in force is held against a small model of the rules, which is written from [their
definition](../formats/votes.md) and counts votes in its own way; the second verifier takes every entry,
and would refuse whatever was refused. Then single rules are taken out of the program, and the walks must
notice each.
"""
TAIL = """
## What this does not show

- Messages of a class are drawn, so a class stands for what its author thought of. What nobody thought of is
  left to the [fuzz targets](../hostile-input.md) `charter` and `council`.
- The second verifier takes charters as they are: it repeats neither their form nor the search for
  contradictions and capture.
- Who holds a member's vote key is that member. A stolen key that is not revoked votes.
- A core can refuse a good message, and say that it came late. What it takes it must count, once.
- Members who agree can do what the charter lets so many do; `tapestry charter check` says what that is.
"""


def page() -> str:
    """docs/security/governance.md."""
    told = [text for text in (_told("forged", " accepted. "), _told("life", " steps, each followed")) if text]
    result = "\n## Last full runs\n\n" + "\n".join(told) + "\n" if told else ""
    return f"{HEAD}{result}\n## {len(load())} classes\n\n{listed()}{TAIL}"


def _told(what: str, words: str) -> str:
    """What the newest report says of itself, as an item of a list."""
    last = sorted(RESULTS.glob(f"{what}_*.md"))
    if not last:
        return ""
    told = next(line for line in last[-1].read_text(encoding="utf-8").splitlines() if words in line)
    day = last[-1].stem.rpartition("_")[2]
    return f"- [{day}](../../benchmarks/results/{last[-1].name}), `make {what}`: {told}"


def report(results: Sequence[Result], *, seed: int, seconds: float) -> Report:
    classes = load()
    made = Report(
        what="forged",
        title="Forged governance messages",
        not_shown=[
            "messages of classes that are not in the table",
            "a bound beyond chance: none of n messages leaves up to 3/n of such messages, at 95 %",
            "a core reached over a socket: its application is asked in this process",
        ],
    )
    made.section(
        "What was done", f"{campaign.totals(results)} Seed {seed}, {seconds:.0f} s of processor time."
    )
    by_who: dict[str, Counter[str]] = {}
    for each in results:
        counts = by_who.setdefault(classes[each.name].who, Counter())
        counts.update(
            {
                "classes": 1,
                "messages": each.messages,
                "accepted": len(each.accepted),
                "controls": each.controls,
                "held": len(each.held),
            }
        )
    made.table(
        ["kind", "classes", "messages", "accepted", "controls that passed", "controls that did not"],
        [
            [who, *(c[k] for k in ("classes", "messages", "accepted", "controls", "held"))]
            for who, c in by_who.items()
        ],
    )
    made.section("By class")
    made.table(
        ["class", "messages", "accepted", "controls that passed"],
        [[each.name, each.messages, len(each.accepted), each.controls] for each in results],
    )
    return made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.governance.forged", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000, help="in all (10,000)")
    parser.add_argument("--seed", type=int, default=1, help="other messages")
    parser.add_argument("--controls", type=int, default=3, help="of each class (3)")
    parser.add_argument("--name", action="append", default=[], help="only this class; several times: some")
    parser.add_argument("--page", action="store_true", help="print docs/security/governance.md, and end")
    parser.add_argument("--report", type=Path, help="folder to write the report into")
    given = parser.parse_args(argv)
    if given.page:
        sys.stdout.write(page())
        return 0
    start = time.process_time()
    results = campaign.run(
        given.messages, seed=given.seed, controls=given.controls, names=given.name, tell=say
    )
    made = report(results, seed=given.seed, seconds=time.process_time() - start)
    sys.stdout.write(made.text())
    if given.report is not None:
        say(f"written: {made.write(given.report)}")
    wrong = [text for each in results for text in (*each.accepted, *each.held)]
    for text in wrong:
        say(f"found: {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
