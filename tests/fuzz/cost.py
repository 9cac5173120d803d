"""What crafted artifacts cost: `python -m tests.fuzz.cost` prints the worst of them."""

from __future__ import annotations

import resource
import sys
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass

from tapestry.errors import TapestryError
from tests.fuzz.crafted import Crafted, everything


@dataclass(frozen=True, slots=True)
class Measured:
    """What one cost."""

    name: str
    error: str
    """Class of the refusal, or what happened instead."""
    typed: bool
    seconds: float
    peak_bytes: int
    """Allocated by Python above what was there; not by libraries beneath it."""
    input_bytes: int


def measure(every: Iterable[Crafted], *, memory: bool) -> list[Measured]:
    """Each one once; time and memory are measured apart, since watching takes time. None is kept."""
    found = []
    if memory:
        tracemalloc.start()
    try:
        for one in every:
            if memory:
                tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0] if memory else 0
            started = time.process_time()
            typed, error = False, "accepted"
            try:
                one.parse(one.data)
            except TapestryError as e:
                typed, error = True, type(e).__name__
            except Exception as e:
                error = type(e).__name__
            took = time.process_time() - started
            peak = tracemalloc.get_traced_memory()[1] - before if memory else 0
            found.append(Measured(one.name, error, typed, took, peak, len(one.data)))
    finally:
        if memory:
            tracemalloc.stop()
    return found


def main() -> int:
    measure(
        (one for one in everything() if len(one.data) < 1 << 12), memory=False
    )  # loads what is loaded late
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = measure(everything(), memory=False)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sizes = measure(everything(), memory=True)
    sys.stdout.write(
        f"{len(times)} crafted artifacts, {sum(each.typed for each in times)} refused by a typed error\n"
    )
    sys.stdout.write(f"the process grew by {grown / 1024:.1f} MiB over all of them, libraries included\n")
    for each in times:
        if not each.typed:
            sys.stdout.write(f"  {each.name}: {each.error}\n")
    for each in sorted(times, key=lambda each: -each.seconds)[:8]:
        sys.stdout.write(
            f"  {each.seconds * 1000:7.1f} ms  {each.error}: {each.name} ({each.input_bytes} bytes)\n"
        )
    for each in sorted(sizes, key=lambda each: -each.peak_bytes)[:8]:
        sys.stdout.write(
            f"  {each.peak_bytes / 2**20:7.2f} MiB  {each.error}: {each.name} ({each.input_bytes} bytes)\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
