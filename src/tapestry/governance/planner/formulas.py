"""The formulas in words, with where each is from; docs/guides/planner.md tells the same at length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tapestry.governance.planner.members import ACCELERATORS, MembersFile
from tapestry.governance.planner.rates import NAMES, Rates
from tapestry.governance.planner.scaling import FITS
from tapestry.governance.planner.spread import Spread


@dataclass(frozen=True, slots=True)
class Formula:
    """One line of arithmetic."""

    what: str
    formula: str
    source: str


FORMULAS: Final = (
    Formula(
        "operations a token",
        "6 · (parameters − input embedding of its own) + 12 · layers · width · sequence",
        "arXiv 2001.08361 for 6 N; arXiv 2204.02311, appendix B, for attention",
    ),
    Formula(
        "tokens a second",
        "accelerators · peak · utilisation / operations a token, or as given or recorded",
        "utilisations of 0.38 to 0.46 are published: arXiv 2407.21783, arXiv 2204.02311",
    ),
    Formula(
        "a contribution",
        "bytes of the plan's codec on the plan's shards, to the byte, and their manifest",
        "docs/formats/delta.md, docs/formats/artifact.md",
    ),
    Formula(
        "sent a round",
        "contribution + requests · 1090 + seconds of training · 1170 + 4600",
        "docs/formats/http.md; heads and messages counted",
    ),
    Formula(
        "received a round",
        "(n − 1) · contribution, or base / fragments with fetch; + requests · 200 + 4700 + 8000 · n",
        "the same",
    ),
    Formula(
        "a transfer",
        "the longer of bytes / rate + round trip, and requests / 4 · (round trip + own time + bytes / rate)",
        "four requests under way at once: transfer.parallel of node.toml",
    ),
    Formula(
        "a merge",
        "(n · contribution + 2 · state) / merge rate + n · fp32 bytes / decode rate; at the core, then nodes",
        "docs/formats/merge.md; rates measured",
    ),
    Formula(
        "a round",
        "training + max(0, exchange − overlap steps) + inner state; the exchange is the slowest chain of "
        "upload, merge, download, merge, attestation",
        "docs/formats/http.md, docs/concepts/trust.md",
    ),
    Formula(
        "utilisation",
        "training / (round + chance that somebody does not deliver · wait for the deadline)",
        "members deliver independently of each other",
    ),
    Formula(
        "data parallel",
        "2 · (n − 1) / n · 4 · parameters each way a step",
        "ring all-reduce of fp32 gradients; Patarasuk and Yuan 2009",
    ),
    Formula(
        "accelerator memory",
        "parameters · (4 + 4 + moments) / accelerators + 2 blocks in bf16 "
        "+ sequence · width · (2 · layers + 34) + 8 · sequence · vocabulary",
        "FSDP2 with fp32 values and sums; activations computed again, arXiv 2205.05198",
    ),
    Formula(
        "disk of a node",
        "initial base + newest state + what of the last differs + kept contributions + kept inner states",
        "what nodes erase: docs/guides/plan-file.md, [retention]",
    ),
    Formula(
        "disk of the core",
        "initial base + a state of each merge + kept contributions",
        "the core erases contributions alone",
    ),
    Formula(
        "money",
        "accelerators · hours of the run · price + GB sent by nodes and core · price + GB kept · months",
        "prices of the members file",
    ),
    *(Formula(f"loss, {fit.name}", "E + A / N^α + B / D^β, nats a token", fit.source) for fit in FITS),
)
"""Those of figures; what is missing is need against what there is."""


def constants(rates: Rates) -> list[tuple[str, Spread, str]]:
    """Name, value and source of every constant of the formulas."""
    found = [(name, getattr(rates, name), rates.source(name)) for name in NAMES]
    return [*found, *((f"operations/s of {name}", pace, "recorded") for name, pace in rates.paces)]


def accelerators(members: MembersFile) -> list[tuple[str, float, str]]:
    """Of those that members name: peak operations a second, and who states it."""
    named = sorted({each.accelerator for each in members.members if each.accelerator is not None})
    return [(name, ACCELERATORS[name].peak_tflops * 1e12, ACCELERATORS[name].source) for name in named]
