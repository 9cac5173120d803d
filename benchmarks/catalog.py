"""Cards: hashing and counting text, and decisions of the policy.

Goals: 50 MB/s of text hashed and counted on two cores, in memory that does not grow with the dataset; a
decision in less than 1 ms.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from tests.catalog.made import card

from benchmarks.machine import scratch
from benchmarks.report import Report, Settings, rates, spread
from tapestry.catalog.policy import Policy
from tapestry.training.holding import hold

NOT_SHOWN = (
    "The files lie in the page cache; from a slow disk the disk decides.",
    "Text is drawn from a few thousand words of a Latin script; other scripts decode at other speeds.",
    "What curation takes (languages, near-duplicates, personal data) comes on top, once a dataset.",
)
WORDS = 5000
Kind = tuple[str, str, int]
"""What it is called, how its files end, bytes of a document."""
KINDS: tuple[Kind, ...] = (
    (".jsonl, documents of 2 kB", ".jsonl", 2000),
    (".jsonl, documents of 200 bytes", ".jsonl", 200),
    (".txt, files of 16 MB", ".txt", 16_000_000),
    (".txt, files of 20 kB", ".txt", 20_000),
    (".jsonl.gz, documents of 2 kB", ".jsonl.gz", 2000),
)


def measure(settings: Settings) -> Report:
    report = Report(what="catalog", title="Dataset cards", not_shown=NOT_SHOWN)
    size = (8 if settings.quick else 64) * 1_000_000
    repeat = 2 if settings.quick else 5
    with scratch(needs_bytes=4 * size) as root:
        _speed(report, root, size, repeat)
        _memory(report, root, size)
    _decisions(report, 200 if settings.quick else 5000)
    return report


def _speed(report: Report, root: Path, size: int, repeat: int) -> None:
    report.section(
        "Hashing and counting",
        f"{size / 1e6:.0f} MB of text each: read twice at the same time, as files (SHA-256) and as documents "
        "(decoded, SHA-256 of each, Merkle tree). MB/s of UTF-8 text. "
        "Goal: 50. What a second of processor time does (of both threads) hardly depends on other work.",
    )
    rows = []
    for name, ending, document in KINDS:
        folder = _write(
            root / "text", ending, document, size if ending != ".txt" or document > 1e6 else size // 8
        )
        holding = hold(folder)
        walls, processors = [], []
        for _ in range(repeat):
            wall, processor = time.perf_counter(), time.process_time()
            hold(folder)
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
        content = holding.content
        speeds = [spread(rates(content.bytes / 1e6, times), 0) for times in (walls, processors)]
        rows.append((name, f"{content.documents:,}", len(holding.files), *speeds))
        _remove(folder)
    report.table(("text", "documents", "files", "MB/s", "MB a second of processor time"), rows)


def _memory(report: Report, root: Path, size: int) -> None:
    report.section(
        "Memory", "Largest resident memory of a process that does nothing else, `.jsonl`, 2 kB each."
    )
    rows = []
    for part in (16, 1):
        folder = _write(root / "text", ".jsonl", 2000, size // part)
        with get_context("spawn").Pool(1) as pool:
            before, after = pool.apply(_peak, (folder,))
        rows.append((f"{size / part / 1e6:.0f} MB", f"{before / 1e3:.0f} MB", f"{after / 1e3:.0f} MB"))
        _remove(folder)
    report.table(("text", "before", "largest"), rows)


def _peak(folder: Path) -> tuple[int, int]:
    """Largest resident kilobytes so far: before and after."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hold(folder)
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _decisions(report: Report, count: int) -> None:
    own = "".join(
        f'@id("own-{n}") forbid (principal, action, resource) when {{ resource.domain == "topic-{n}" }};\n'
        for n in range(20)
    )
    report.section(
        "Decisions",
        f"{count} decisions each, one after the other, rules parsed before. Milliseconds. Goal: 1.",
    )
    rows = []
    for name, policy, made in (
        ("permitted", Policy(), card()),
        (
            "refused by three rules",
            Policy(),
            card(licence="CC-BY-NC-4.0", category="private", stages=["sft"]),
        ),
        ("permitted, with 20 rules of the owner's own", Policy(own), card()),
    ):
        times = []
        for _ in range(count):
            started = time.perf_counter()
            policy.decide(made, "base", node="acme-1", member="acme", residency="CH", today="2026-11-22")
            times.append((time.perf_counter() - started) * 1e3)
        times.sort()
        rows.append((name, f"{median(times):.2f}", f"{times[int(count * 0.99)]:.2f}", f"{times[-1]:.2f}"))
    report.table(("", "median", "99 %", "largest"), rows)


def _write(folder: Path, ending: str, document: int, size: int) -> Path:
    """A corpus of about `size` bytes of text; a hundredth of it is valid."""
    folder.mkdir()
    draw = random.Random(7)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyzäöéñ", k=draw.randint(2, 11))) for _ in range(WORDS)
    ]
    some = [" ".join(draw.choices(words, k=document // 7)) for _ in range(64 if document < 1e6 else 2)]
    for split, part in (("train", size), ("valid", max(size // 100, 1))):
        if ending == ".txt":
            (folder / split).mkdir()
            for number in range(max(1, part // document)):
                (folder / split / f"{number}.txt").write_text(some[number % len(some)])
            continue
        lines = _lines(some, part)
        with (
            gzip.open(folder / f"{split}{ending}", "wb", 1)
            if ending.endswith(".gz")
            else (folder / f"{split}{ending}").open("wb") as file
        ):
            for line in lines:
                file.write(line)
    return folder


def _lines(some: list[str], size: int) -> Iterator[bytes]:
    written = number = 0
    while written < size:
        text = some[number % len(some)]
        written += len(text.encode())
        number += 1
        yield json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
