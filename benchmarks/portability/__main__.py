"""`python -m benchmarks.portability`: what is left of a derivative's gain when it is carried over.

One base is trained on a part of the languages' text, and released six times, each time at least 2 % better in
bits per byte. From release 0 a member makes a derivative by private continued pre-training on its own
language's other text, with full weights and with an adapter. It is then carried onto releases 1 and 5 by
`tapestry.sovereign.port`, without any training, and compared with the same recipe run on these releases.
How much the base itself learns of the member's kind of text meanwhile matters most: all it can, traces of it
(--traces), or nothing (--apart).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.parity.trials import Book, Record, digest
from benchmarks.portability.bases import EVERY, Texts, Trunk
from benchmarks.portability.derivatives import Derivatives
from benchmarks.portability.sizes import SIZES, Size
from benchmarks.portability.told import METHODS, report
from benchmarks.report import RESULTS, Hardware


@dataclass(kw_only=True)
class Bench:
    """Args:
    size: how large.
    name: of the size.
    corpora: folder with a folder a language.
    members: languages for which derivatives are made.
    apart: languages of which the base reads nothing.
    traces: languages of which it reads one window in a few steps.
    out: folder of the book and of bases.
    until: by the monotonic clock; no trial begins later.
    """

    size: Size
    name: str
    corpora: Path
    members: Sequence[str]
    apart: Sequence[str] = ()
    traces: Sequence[str] = ()
    out: Path
    until: float = float("inf")

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.book = Book(self.out)
        self.texts = Texts(self.corpora, self.out, self.size, apart=self.apart, traces=self.traces)
        what = {"size": asdict(self.size), "text": self.texts.digests(), "every": EVERY}
        self.setup = digest(what | {"apart": sorted(self.apart), "traces": sorted(self.traces)})

    def seed(self, seed: int) -> bool:
        """All trials of a seed that are not done yet. False where the time did not suffice."""
        trunk = Trunk(self.size, self.texts, seed, self.out / f"base-{self.setup}-{seed}")
        base = self.once("bases", seed, "", {}, trunk.train)
        if base is None:
            return False
        for member in self.members:
            for method in METHODS:
                derivatives = Derivatives(
                    size=self.size, texts=self.texts, seed=seed, member=member, method=method,
                    releases=[trunk.folder / f"r{n}" for n in range(len(base["scores"]))],
                    scores=[each[member] for each in base["scores"]], scratch=self.out,
                )  # fmt: skip
                if self.once("port", seed, member, {"method": method}, derivatives.carried) is None:
                    return False
        return True

    def once(
        self, method: str, seed: int, member: str, knobs: dict[str, Any], run: Callable[[], Record]
    ) -> Record | None:
        key = {
            "setting": self.name, "members": [member], "setup": self.setup, "method": method, "rules": "",
            "knobs": knobs, "seed": seed, "share": 1.0,
        }  # fmt: skip
        if (done := self.book.find(key)) is not None:
            return done
        if time.monotonic() >= self.until:
            return None
        began, cpu = time.monotonic(), time.process_time()
        record = key | run()
        record |= {
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "hardware": str(Hardware.here()),
            "threads": torch.get_num_threads(),
        }
        self.book.add(record)
        told = json.dumps({"knobs": knobs, "told": record["told"]})
        print(method, member, seed, told, record["cpu_seconds"], "s", flush=True)
        return record

    def records(self, method: str) -> list[Record]:
        return [r for r in self.book.records if r["setup"] == self.setup and r["method"] == method]


def _names(given: str) -> tuple[str, ...]:
    return tuple(given.split(",")) if given else ()


def main() -> None:
    made = argparse.ArgumentParser(prog="python -m benchmarks.portability", description=__doc__)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of trials and bases")
    made.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="a folder a language")
    made.add_argument("--members", default="de,hi,vi", help="languages with a derivative (de,hi,vi)")
    made.add_argument("--apart", default="", help="languages of which the base reads nothing (none)")
    made.add_argument("--traces", default="", help="languages of which it reads very little (none)")
    made.add_argument("--size", choices=SIZES, default="small")
    made.add_argument("--seeds", default="0", help="with commas between (0)")
    made.add_argument("--minutes", type=float, metavar="N", help="begin no trial after so long")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--note", default="", help="a remark for the report")
    made.add_argument("--write", action="store_true", help="write the report to benchmarks/results/")
    given = made.parse_args()
    torch.set_num_threads(given.threads)
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    until = time.monotonic() + given.minutes * 60 if given.minutes else float("inf")
    bench = Bench(
        size=SIZES[given.size], name=given.size, corpora=given.corpora, members=_names(given.members),
        apart=_names(given.apart), traces=_names(given.traces), out=given.out, until=until,
    )  # fmt: skip
    whole = [bench.seed(int(seed)) for seed in given.seeds.split(",")]
    result = report(
        given.size, bench.records("bases"), bench.records("port"), apart=bench.apart, traces=bench.traces
    )
    if given.note:
        result.note(given.note)
    print(result.write(RESULTS if given.write else given.out))
    if not all(whole):
        print("the time is up: call it again to go on")


if __name__ == "__main__":
    main()
