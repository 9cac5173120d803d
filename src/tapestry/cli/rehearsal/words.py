"""Sentences that stand in every report."""

from __future__ import annotations

from typing import Final

from tapestry.cli.rehearsal.telling import CLOSING
from tapestry.cli.rehearsal.told import Report

_COUNTS: Final = (
    "Nothing",
    "One thing",
    "Two things",
    "Three things",
    "Four things",
    "Five things",
    "Six things",
)


def lead(report: Report) -> str:
    """What it is about, in a few sentences."""
    faults = sum(each.key != CLOSING for each in report.chapters)
    return (
        "Five members trained one model together on this machine, each with a text, keys and a node of its "
        f"own. {_COUNTS[faults]} went wrong, on purpose and in earnest: what follows was "
        "really done, to real processes, connections and keys. This is what the consortium noticed, what "
        "was lost, and where it can be read."
    )


GOOD: Final = "Every fault was detected, and nothing was lost."
BAD: Final = "Not every fault was detected and recovered from."
CHECKED: Final = (
    "Every line below was compared by a program with what the core, the nodes and the ledger had really "
    "written. The rehearsal fails, with exit code 3, if one of them does not hold."
)
COMMANDS: Final = (
    "In the folder of the rehearsal, which is kept, with an installed tapestry. Most need no network, and "
    "none needs the word of whoever wrote this report."
)
LIMITS: Final = (
    "One machine, one tiny model, one run: it shows that the machinery notices and goes on, not how long a "
    "large model would take, and not that there is no other fault.",
    "A well-formed update from poisoned text cannot be told from an honest one. It is bounded: no member "
    "weighs more than the plan's influence cap, and no update is longer than the plan allows.",
    "The lying core was found because its node had seen more of the true history. A node that joins is "
    "shown a "
    "ledger for the first time: members compare heads by another way.",
    "What a model has learned from a revoked text is not unlearned. The list says which bases descend "
    "from it.",
    "A quorum counts members. If a majority of them lies together with the core, no program can say so.",
)
