"""The report of `python -m benchmarks.portability`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.parity.trials import Record
from benchmarks.portability.derivatives import WAYS, left
from benchmarks.report import Report

GOALS: Final = {1: 0.95, 5: 0.80}
"""Part of the gain to be left after so many releases."""
METHODS: Final = ("full", "lora")
T_95: Final = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a two-sided interval of 95 %, by number of seeds."""
NOT_SHOWN: Final = (
    "Models of other sizes: these are small, and the same program runs larger ones.",
    "A hard case among languages never read: a base scores them above 8 bits a byte, worse than guessing.",
    "Bases that do not continue training from one another: all releases are of one run.",
    "Tasks other than bits per byte, and derivatives tuned by SFT or DPO.",
    "A base trained by rounds: here one machine trains it on all languages' shared text.",
)


def interval(values: Sequence[float]) -> str:
    """Mean with Student's 95 % interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.1%} (one seed)"
    half = T_95.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1%} ± {half:.1%}"


def report(
    name: str,
    bases: Sequence[Record],
    ports: Sequence[Record],
    *,
    apart: Sequence[str],
    traces: Sequence[str],
) -> Report:
    made = Report(
        what=f"portability-{name}",
        title="Portability: what is left of a derivative's gain on later bases",
        not_shown=NOT_SHOWN,
    )
    _releases(made, bases)
    made.section(
        "Gain recovered",
        "(new base − ported) / (new base − rebuilt), summed over languages, by seed; 95 % over seeds. "
        "*port* is what `tapestry build port` does; *with a factor* is new + f (derivative − old), f by a "
        "line search on private text not trained on; *healed* was trained a few steps, so is no port alone. "
        "Only languages that every seed has are in this table.",
    )
    made.table(
        ("the base reads of the member's language", "languages", "method", "releases on", "port", "goal",
         "with a factor", "healed", "seeds"),
        _summary(ports, apart, traces),
    )  # fmt: skip
    made.section(
        "By language",
        "*before* is the derivative on release 0: a port that is worse was for nothing. *The base's way*: "
        "what the base has gained on the member's text since release 0, of what the derivative gained.",
    )
    columns = (
        "seed, language, method, release, before, new base, rebuilt, denominator, ported, recovered, factor, "
        "with the factor, healed, the base's way"
    )
    rows = [_line(r, t, v) for r in ports for t, v in sorted(r["found"].items())]
    made.table(columns.split(", "), rows)
    return made


def _releases(made: Report, bases: Sequence[Record]) -> None:
    made.section(
        "Releases",
        "Bits per byte of held-out text, mean over the base's languages; each 2 % below the last at least.",
    )
    rows = []
    for r in sorted(bases, key=lambda r: int(r["seed"])):
        pairs = zip(r["told"]["bits_per_byte"], r["steps"], strict=True)
        rows.append((r["seed"], *(f"{score:.3f} ({steps} steps)" for score, steps in pairs)))
    widest = max((len(row) - 1 for row in rows), default=0)
    filled = [(*row, *[""] * (widest + 1 - len(row))) for row in rows]
    made.table(("seed", *(f"r{i}" for i in range(widest))), filled)


def _summary(
    ports: Sequence[Record], apart: Sequence[str], traces: Sequence[str]
) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    seeds = {r["seed"] for r in ports}
    done = Counter((r["members"][0], r["knobs"]["method"]) for r in ports)
    ports = [r for r in ports if done[r["members"][0], r["knobs"]["method"]] == len(seeds)]
    for kind in ("as much as of others", "traces", "nothing"):
        chosen = [r for r in ports if _reads(r["members"][0], apart, traces) == kind]
        names = ", ".join(sorted({r["members"][0] for r in chosen}))
        for method in METHODS if chosen else ():
            for target, goal in GOALS.items():
                ways = [_over_seeds(chosen, method, str(target), way) for way in WAYS]
                shown = [interval(each) if each else "-" for each in ways]
                found.append(
                    (kind, names, method, target, shown[0], f"{goal:.0%}", *shown[1:], len(ways[0]))
                )  # fmt: skip
    return found


def _reads(language: str, apart: Sequence[str], traces: Sequence[str]) -> str:
    """How much of a language the base reads."""
    return "nothing" if language in apart else "traces" if language in traces else "as much as of others"


def _over_seeds(ports: Sequence[Record], method: str, target: str, way: str) -> list[float]:
    seeds = sorted({r["seed"] for r in ports})
    found = [_mean(ports, seed, method, target, way) for seed in seeds]
    return [each for each in found if each is not None]


def _mean(ports: Sequence[Record], seed: int, method: str, target: str, way: str) -> float | None:
    """Over languages: the summed gains that are left by the summed gains of starting over."""
    chosen = [
        r["found"][target]
        for r in ports
        if r["seed"] == seed and r["knobs"]["method"] == method and target in r["found"]
    ]
    whole = sum(v["new_base"] - v["rebuilt"] for v in chosen)
    return sum(v["new_base"] - v[way] for v in chosen) / whole if chosen and whole > 0 else None


def _line(record: Record, target: str, values: Mapping[str, float]) -> tuple[object, ...]:
    name = record["members"][0]
    shares = [left(name, values, way) for way in WAYS]
    told = ["undefined" if each is None else f"{each:.1%}" for each in shares]
    base, rebuilt = values["new_base"], values["rebuilt"]
    own = (record["base"] - base) / (record["base"] - record["first"])
    return (
        record["seed"], name, record["knobs"]["method"], f"r{target}", f"{record['first']:.4f}",
        f"{base:.4f}", f"{rebuilt:.4f}", f"{(base - rebuilt) / base:.1%}", f"{values['ported']:.4f}", told[0],
        values["factor"], *told[1:], f"{own:.0%}",
    )  # fmt: skip
