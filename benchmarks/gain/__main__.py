"""`python -m benchmarks.gain`: what a member gains by the shared base, against training alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

from benchmarks.gain.sizes import CUT, SIZES
from benchmarks.gain.study import MIXES, Study
from benchmarks.parity import text
from benchmarks.parity.trials import Record
from benchmarks.report import RESULTS, Report
from tapestry.errors import TapestryError
from tapestry.host import files

TEXT: Final = {
    "sovereign": "Private training on text that never went to the run",
    "whole": "Private training on all of the member's text, that which it contributed again",
}
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
    made.add_argument("--sharing", type=int, default=1, help="members of each language: fr-1, fr-2, …")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--minutes", type=float, help="begin no trial after so long")
    made.add_argument("--write", action="store_true", help="write the report to benchmarks/results")
    return made


def conduct(study: Study, seeds: int) -> bool:
    """All trials that are not done; False where the time did not suffice. Everything is tuned on seed 0."""
    for seed in range(seeds):
        if study.base(seed) is None:
            return False
        for member in sorted(study.corpora):
            for method in study.size.axes:
                knobs = study.tuned(method, member)
                if knobs is None or study.trial(method, member, seed, knobs) is None:
                    return False
    return True


def _chosen(study: Study, method: str, member: str, seeds: int) -> list[Record]:
    """With the tuned knobs, a seed each. All of it is done: this only reads the book."""
    knobs = study.tuned(method, member) or {}
    found = [study.trial(method, member, seed, knobs) for seed in range(seeds)]
    return [each for each in found if each is not None]


def interval(values: Sequence[float], digits: int = 3, times: float = 1.0) -> str:
    """Mean and, of several, the interval of 95 % over seeds (Student's t)."""
    mean = fmean(values) * times
    if len(values) < 2 or len(values) not in T_95:
        return f"{mean:.{digits}f}"
    half = T_95[len(values)] * stdev(values) / len(values) ** 0.5 * times
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def _told(record: Record) -> str:
    """What was chosen for a training."""
    knobs = record["knobs"]
    said = [f"rate {knobs['rate']:g}"]
    if "shape" in knobs:
        said.append(f"width {knobs['shape']}")
    if record["mix"] < 1:
        said.append(f"{record['mix']:g} of the way")
    return ", ".join([*said, f"step {record['stopped']}"])


def _setting(study: Study, bases: Sequence[Record]) -> str:
    size = study.size
    axes = {method: {name: list(each) for name, each in axes.items()} for method, axes in size.axes.items()}
    shared = "one language each" if study.sharing == 1 else f"{study.sharing} of each language"
    few = f"; {', '.join(study.poor)} have at most {size.text_bytes / CUT / 1000:g} kB" if study.poor else ""
    return (
        f"Setting {study.name}. {len(study.corpora)} members, {shared}, with {size.text_bytes / 1000:g} kB "
        f"of text{few}. "
        f"{bases[0]['parameters']:,} parameters. Everybody takes {size.steps} steps of {size.sequences} × "
        f"{size.sequence_length} bytes: in the federation {size.shared_steps} in rounds of "
        f"{size.round_steps} on one document of {size.every}, members with a tenth of the text "
        f"{size.poor_pace:g} of them, then {size.private_steps} private ones on the other documents; alone "
        f"all of them on all text. Merge: {size.merge}, all deltas of the same weight, inner optimizer Muon "
        f"at {size.base_rate:g}. Tuned on seed 0, one after the other, for each member: of the sovereign "
        f"model {axes['sovereign']}, and how much of the way from the base is kept, among {(1.0, *MIXES)}; "
        f"of training alone {axes['alone']}; length is that of the schedule, as a part of the steps. All "
        "stop where one half of the held-out text is best, the shared base where the members' mean is; the "
        f"table is of the other half. Mean and interval of 95 % over seeds ({len(bases)}), gains in per "
        "cent of training alone."
    )


def _table(study: Study, made: Report, method: str, bases: Sequence[Record]) -> None:
    rows, gains, poor = [], [], []
    for member in sorted(study.corpora):
        own, alone = (_chosen(study, each, member, len(bases)) for each in (method, "alone"))
        bits = [[each["bits_per_byte"][member] for each in side] for side in (own, alone)]
        gain = [1 - a / b for a, b in zip(*bits, strict=True)]
        gains.append(gain)
        if member in study.poor:
            poor.append(gain)
        rows.append(
            (
                member + (" (a tenth)" if member in study.poor else ""),
                interval([each["bits_per_byte"][member] for each in bases]),
                *map(interval, bits),
                interval(gain, 1, 100) + " %",
                ", ".join(f"{each * 100:.1f}" for each in gain),
                *map(_told, (own[0], alone[0])),
            )
        )
    columns = (
        "member",
        "shared base",
        "sovereign",
        "alone",
        "gain",
        "by seed",
        "sovereign chose",
        "alone chose",
    )
    made.table(columns, rows)
    of_seed = [fmean(each) for each in zip(*gains, strict=True)]
    told = [f"Mean gain of all members: {interval(of_seed, 1, 100)} %."]
    if poor:
        of_poor = [fmean(each) for each in zip(*poor, strict=True)]
        told.append(f"Of those with a tenth of the text: {interval(of_poor, 1, 100)} %.")
    better = sum(fmean(gain) > 0 for gain in gains)
    told.append(f"Better than alone: {better} of {len(gains)}.")
    made.paragraph(" ".join(told))


def report(study: Study, seeds: int) -> Report:
    made = Report(
        what="gain" if study.sharing == 1 else "gain-sharing",
        title="What a member gains by the shared base, against training alone",
        not_shown=(
            "Larger models, more text or more steps: what is measured is small and short.",
            "Members who share a language, unless the text says so."
            if study.sharing == 1
            else "One language each: here members share one.",
            "How the shared base was trained was chosen by a few short trials of seed 0 (lab log); the "
            "rates, schedules and widths of what it is compared with were tuned for each member.",
        ),
    )
    bases = [each for seed in range(seeds) if (each := study.base(seed)) is not None]
    made.section("Bits per byte on each member's own held-out text", _setting(study, bases))
    for method, text_of in TEXT.items():
        made.section(text_of)
        _table(study, made, method, bases)
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
                sharing=given.sharing,
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
