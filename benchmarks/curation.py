"""Curation: how fast all steps together and each alone are, what they leave out of good text, what they find.

Goal: 3 MB/s of text through all steps on two cores. With `--corpora DIR` (a folder a language, each with
train.jsonl) of real text; without, of made-up words.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import scratch
from benchmarks.report import Report, Settings, rates, spread
from tapestry.catalog.protected import Protected
from tapestry.curation.contamination import Evaluation
from tapestry.curation.duplicates import Duplicates
from tapestry.curation.letters import Document
from tapestry.curation.pipeline import Given, Pipeline
from tapestry.curation.settings import CurationSettings
from tapestry.curation.settings import Duplicates as DuplicateSettings
from tapestry.curation.stages import Request, stages
from tapestry.host.processes import anonymous_bytes

NOT_SHOWN = (
    "Other work shared the processors; figures per second of processor time depend on it less than those per "
    "second.",
    "Documents of 0.5 to 3 KB. Shorter ones cost more a byte: some 0.2 ms are spent whatever the size.",
    "The corpora are novels, laws and encyclopedias: what is left out of them is mostly a mistake of ours, "
    "and nothing here says how much bad text passes.",
    "Near-duplicates are made by replacing words at random places; people edit otherwise.",
)
EDITS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)
"""Share of words that are replaced in a near-duplicate."""
TERMS = 1000
WARM = 600
Texts = dict[str, list[str]]


def measure(settings: Settings) -> Report:
    report = Report(what="curation", title="Curation", not_shown=NOT_SHOWN)
    texts = _texts(settings)
    repeat = settings.repeat or (1 if settings.quick else 3)
    with scratch(needs_bytes=1 << 30) as root:
        _whole(report, texts, root, repeat)
        _steps(report, texts, root, repeat)
        _left_out(report, texts, root)
        _near(report, texts, root)
        _memory(report, texts, root)
    return report


def _texts(settings: Settings) -> Texts:
    limit = 100 if settings.quick else 1000
    if settings.corpora is None:
        draw = random.Random(7)
        words = ["".join(draw.choices("abcdefghijklmnoprstuvwz", k=draw.randint(2, 10))) for _ in range(5000)]
        return {"la": [" ".join(draw.choices(words, k=250)) for _ in range(limit)]}
    found = {}
    for folder in sorted(path for path in settings.corpora.iterdir() if (path / "train.jsonl").is_file()):
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
        found[folder.name] = [json.loads(line)["text"] for line in lines]
    return found


def _request(language: str, texts: Sequence[str], root: Path) -> Request:
    """All steps, the last twenty documents as evaluation set, and protected terms that occur nowhere."""
    given = CurationSettings()
    terms = [f"xq{number}zz" for number in range(TERMS)]
    file = f'format = "tapestry.protected"\nversion = 1\n[[topics]]\nname = "t"\nterms = {{en = {terms}}}\n'
    Protected.parse(file.encode(), "protected.toml")
    return Request(
        settings=given,
        languages=(language,),
        protected=file.encode(),
        evaluation=Evaluation.of(texts[-20:], given.contamination, root),
        scratch=root,
    )


def _size(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def _run(language: str, texts: Sequence[str], root: Path, processes: int) -> tuple[float, float]:
    """Seconds from the first document looked at to the last, and of processor time of this process."""
    pipeline = Pipeline(_request(language, texts, root), processes)
    warm = min(WARM, len(texts)) if processes > 1 else 0
    run = pipeline.run(Given("train.jsonl", text) for text in [*texts[:warm], *texts])
    for _ in range(warm):  # until the workers have read the detector's model
        next(run)
    started, spent = time.perf_counter(), time.process_time()
    for _ in run:
        pass
    return time.perf_counter() - started, time.process_time() - spent


def _whole(report: Report, texts: Texts, root: Path, repeat: int) -> None:
    report.section(
        "All steps",
        f"Protected ({TERMS} terms), language, quality, contamination, duplicates, personal data. MB/s of "
        "UTF-8 text, without reading and writing files. Goal: 3 on two cores. What a second of processor "
        "time does hardly depends on other work.",
    )
    rows = []
    for language, each in texts.items():
        one = [_run(language, each, root, 1) for _ in range(repeat)]
        two = [_run(language, each, root, 2) for _ in range(repeat)]
        speeds = [
            spread(rates(_size(each), times), 1)
            for times in ([spent for _, spent in one], [wall for wall, _ in one], [wall for wall, _ in two])
        ]
        rows.append((language, f"{len(each):,}", f"{_size(each):.1f} MB", *speeds))
    columns = ("language", "documents", "text", "a second of processor time", "one process", "two")
    report.table(columns, rows)


def _steps(report: Report, texts: Texts, root: Path, repeat: int) -> None:
    report.section(
        "Each step",
        "MB of text a second of processor time, one process, each step alone (what several share, such as "
        "the letters, counted for each). Below them what a plain loop over the library takes: py3langid over "
        "whole documents, rensa over runs of five words.",
    )
    names: dict[str, list[str]] = {}
    for language, each in texts.items():
        some = each[:150]
        for stage in stages(_request(language, each, root)):
            names.setdefault(stage.step.name, []).append(_speed(stage.step.look, some, repeat))
        names.setdefault("py3langid, plain", []).append(_speed(_plain_language(), some, repeat))
        names.setdefault("rensa, plain", []).append(_speed(_plain_sketch, some, repeat))
    report.table(("step", *texts), [(name, *speeds) for name, speeds in names.items()])


def _speed(work: Callable[[Document], Any], texts: Sequence[str], repeat: int) -> str:
    times = []
    for _ in range(repeat):
        documents = [Document(text) for text in texts]
        started = time.process_time()
        for document in documents:
            work(document)
        times.append(time.process_time() - started)
    return f"{_size(texts) / median(times):.1f}"


def _plain_language() -> Callable[[Document], Any]:
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    return lambda document: identifier.classify(document.text)


def _plain_sketch(document: Document) -> None:
    from rensa import RMinHash

    words = document.text.lower().split()
    sketch = RMinHash(128, 7)
    sketch.update([" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))])
    sketch.digest()


def _left_out(report: Report, texts: Texts, root: Path) -> None:
    report.section("What is left out of good text", "Documents, by step and reason; none were planted.")
    rows = []
    for language, each in texts.items():
        given = CurationSettings()
        request = Request(settings=given, languages=(language,), scratch=root)
        pipeline = Pipeline(request, 1)
        for _ in pipeline.run(Given("train.jsonl", text) for text in each):
            pass
        found = [
            "; ".join(f"{why} {count}" for why, count in sorted(told.reasons.items())) or "0"
            for told in pipeline.told
        ]
        rows.append((language, len(each), pipeline.before.documents - pipeline.after.documents, *found))
    report.table(
        ("language", "documents", "left out", "language", "quality", "duplicates", "personal data, reported"),
        rows,
    )


def _near(report: Report, texts: Texts, root: Path) -> None:
    report.section(
        "Near-duplicates",
        "Of 100 documents a language, how many are found again when a share of their words (letters, where "
        "there are no blanks) is replaced. Documents are alike from 0.8 of common runs of 8 (4) letters on.",
    )
    rows = []
    for language, each in texts.items():
        row: list[Any] = [language]
        for share in EDITS:
            step, draw = Duplicates(DuplicateSettings(), root), random.Random(3)
            some = each[:100]
            for number, text in enumerate(some):
                step.settle(number, step.look(Document(text)))
            found = sum(
                step.settle(len(some) + number, step.look(Document(_edited(text, share, draw)))).of == number
                for number, text in enumerate(some)
            )
            row.append(f"{found / len(some):.0%}")
        rows.append(row)
    report.table(("language", *(f"{share:.0%} replaced" for share in EDITS)), rows)


def _edited(text: str, share: float, draw: random.Random) -> str:
    blank = " " if text.count(" ") > len(text) / 20 else ""
    parts = text.split(" ") if blank else list(text)
    for at in range(len(parts)):
        if draw.random() < share:
            parts[at] = parts[draw.randrange(len(parts))]
    return blank.join(parts)


def _memory(report: Report, texts: Texts, root: Path) -> None:
    report.section(
        "Memory", "Anonymous memory of a process that looks and settles, by distinct documents of 100 words."
    )
    rows = []
    words = [word for each in texts.values() for text in each[:50] for word in text.split()[:200]]
    for count in (1000, 10_000):
        with get_context("spawn").Pool(1) as pool:
            before, after = pool.apply(_grown, (words, count, root))
        each = (after - before) / count
        rows.append((f"{count:,}", f"{before / 1e6:.0f} MB", f"{after / 1e6:.0f} MB", f"{each:.0f} bytes"))
    report.table(("documents", "before", "after", "a document"), rows)


def _grown(words: list[str], count: int, root: Path) -> tuple[int, int]:
    """Bytes before the last `count` documents and after them; some hundred came before."""
    draw = random.Random(1)
    off = CurationSettings.parse(b'[quality]\naction = "off"\n', "")
    pipeline = Pipeline(Request(settings=off, languages=(), scratch=root), 1)
    run = pipeline.run(Given("t.jsonl", " ".join(draw.choices(words, k=100))) for _ in range(300 + count))
    for _ in range(300):
        next(run)
    before = anonymous_bytes(os.getpid())
    for _ in run:
        pass
    return before, anonymous_bytes(os.getpid())
