"""`python -m benchmarks.gain`: what a member gains by the shared base, against training alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

from benchmarks.gain.study import EVERY, SHAPES, SIZES, Study
from benchmarks.parity import text
from benchmarks.parity.trials import Record
from benchmarks.report import RESULTS, Report
from tapestry.errors import TapestryError
from tapestry.host import files

RATES: Final = (2e-3, 4e-3)
"""Peaks that training alone chooses from, each member for itself."""
BASE_RATE: Final = 4e-3
PRIVATE_RATES: Final = (1e-3, 2e-3)
T_95: Final = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a two-sided interval of 95 %, by number of seeds."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.gain", description=__doc__)
    made.add_argument("--out", type=Path, required=True, help="folder of trials; a second call goes on there")
    made.add_argument("--corpora", type=Path, required=True, help="a folder a language")
    made.add_argument("--setting", choices=SIZES, default="small")
    made.add_argument("--languages", help="names with commas between them, or how many (all)")
    made.add_argument(
        "--poor", default="", help="members who have a tenth of their text, with commas between"
    )
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--minutes", type=float, help="begin no trial after so long")
    made.add_argument("--write", action="store_true", help="write the report to benchmarks/results")
    return made


def conduct(study: Study, seeds: int) -> bool:
    """All trials that are not done; False where the time did not suffice. Everything is tuned on seed 0."""
    members = sorted(study.corpora)
    for seed in range(seeds):
        if study.base(seed, BASE_RATE) is None:
            return False
        for member in members:
            rates = PRIVATE_RATES if seed == 0 else (_private(study, member),)
            if any(study.sovereign(member, seed, BASE_RATE, rate) is None for rate in rates):
                return False
            knobs = [(rate, "same") for rate in RATES] if seed == 0 else [_alone(study, member)]
            if any(study.alone(member, seed, *each) is None for each in knobs):
                return False
            if seed == 0:
                rate = _alone(study, member)[0]
                if any(study.alone(member, seed, rate, shape) is None for shape in SHAPES):
                    return False
    return True


def _found(study: Study, method: str, member: str, seed: int | None = None) -> list[Record]:
    return [
        each
        for each in study.book.records
        if each["setup"] == study.setup
        and each["method"] == method
        and each["members"] == [member]
        and (seed is None or each["seed"] == seed)
        and not each["diverged"]
    ]


def _best(study: Study, method: str, member: str) -> Record:
    """By the part of the held-out text that is for choosing, on seed 0."""
    return min(_found(study, method, member, 0), key=lambda each: each["selection"][member])


def _private(study: Study, member: str) -> float:
    return float(_best(study, "sovereign", member)["knobs"]["rate"])


def _alone(study: Study, member: str) -> tuple[float, str]:
    knobs = _best(study, "alone", member)["knobs"]
    return float(knobs["rate"]), str(knobs["shape"])


def _chosen(study: Study, method: str, member: str, seeds: int) -> list[float]:
    """Bits per byte of the chosen knobs, a seed each."""
    knobs = _best(study, method, member)["knobs"]
    found = {
        each["seed"]: each["bits_per_byte"][member]
        for each in _found(study, method, member)
        if each["knobs"] == knobs and each["seed"] < seeds
    }
    return [found[seed] for seed in sorted(found)]


def interval(values: Sequence[float], digits: int = 3, times: float = 1.0) -> str:
    """Mean and, of several, the interval of 95 % over seeds (Student's t)."""
    mean = fmean(values) * times
    if len(values) < 2 or len(values) not in T_95:
        return f"{mean:.{digits}f}"
    half = T_95[len(values)] * stdev(values) / len(values) ** 0.5 * times
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def report(study: Study, seeds: int) -> Report:
    size = study.size
    made = Report(
        what="gain",
        title="What a member gains by the shared base, against training alone",
        not_shown=(
            "Larger models or more steps: what is measured is small and short.",
            "Members who share a language.",
            "Rates of the shared base were not tuned; those of training alone and of private training were.",
        ),
    )
    bases = [
        each
        for each in study.book.records
        if each["setup"] == study.setup and each["method"] == "base" and each["seed"] < seeds
    ]
    rows, gains, poor = [], [], []
    for member in sorted(study.corpora):
        own, alone = (_chosen(study, method, member, seeds) for method in ("sovereign", "alone"))
        gain = [1 - a / b for a, b in zip(own, alone, strict=True)]
        gains.append(gain)
        if member in study.poor:
            poor.append(gain)
        knobs = _best(study, "alone", member)
        rows.append(
            (
                member + (" (a tenth)" if member in study.poor else ""),
                interval([each["bits_per_byte"][member] for each in bases]),
                interval(own),
                interval(alone),
                interval(gain, 1, 100) + " %",
                f"{knobs['knobs']['rate']:g}, {knobs['knobs']['shape']}, stopped at {knobs['stopped']}",
            )
        )
    of_seed = [fmean(each) for each in zip(*gains, strict=True)]
    made.section(
        "Bits per byte on each member's own held-out text",
        f"{len(study.corpora)} members, one language each, with {size.text_bytes // 1000} kB of text. "
        f"Everybody takes {size.steps} steps of {size.sequences} × {size.sequence_length} bytes: in the "
        f"federation {size.shared_steps} in rounds of {size.round_steps} (MuLoCo) on one document of "
        f"{EVERY}, then {size.private_steps} private ones on the others; alone all of them on all text. "
        f"{bases[0]['parameters']:,} parameters; training alone chooses its rate among {RATES} and its width "
        f"among {tuple(SHAPES)}. All stop where one half of the held-out text is best, the shared base where "
        f"the members' mean is; the table is of the other half. Mean and 95 % over seeds ({len(bases)}), "
        "gains in per cent of training alone.",
    )
    columns = ("member", "shared base", "sovereign", "alone", "gain", "alone chose")
    made.table(columns, rows)
    told = [f"Mean gain of all members: {interval(of_seed, 1, 100)} %."]
    if poor:
        of_poor = [fmean(each) for each in zip(*poor, strict=True)]
        told.append(f"Of those with a tenth of the text: {interval(of_poor, 1, 100)} %.")
    better = sum(fmean(gain) > 0 for gain in gains)
    told.append(f"Better than alone: {better} of {len(gains)}.")
    made.paragraph(" ".join(told))
    return made


def main(argv: list[str]) -> int:
    import torch

    given = parser().parse_args(argv)
    torch.set_num_threads(given.threads)
    until = time.monotonic() + 60 * given.minutes if given.minutes is not None else float("inf")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        with files.Lock(given.out):
            study = Study(
                size=SIZES[given.setting],
                name=given.setting,
                texts=text.choose(given.corpora, given.languages, 8),
                poor=tuple(filter(None, given.poor.split(","))),
                out=given.out,
                until=until,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
            whole = conduct(study, given.seeds)
            if not whole:
                print("time is up; call it again to go on", file=sys.stderr)
                return 0
            made = report(study, given.seeds)
    except TapestryError as e:
        print(f"error: {e.message}" + (f"\nhint: {e.hint}" if e.hint else ""), file=sys.stderr)
        return e.exit_code
    print(made.text())
    if given.write:
        print(made.write(RESULTS), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
