"""Documents through all steps: looked at in worker processes, settled one after the other in their order.

The same documents and settings give the same result, whatever the number of processes. In memory are a few
batches, and for each document that stays some hundred bytes of the search for duplicates.
"""

from __future__ import annotations

import multiprocessing
import signal
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from tapestry.catalog.content import Tally
from tapestry.curation.stages import Request, Seen, Stage, look, stages
from tapestry.curation.step import Look
from tapestry.errors import ProcessDied

BATCH_CHARACTERS: Final = 1 << 18
BATCH_DOCUMENTS: Final = 256
EXAMPLES: Final = 5
"""Documents that a step's report names for each reason."""

Batch = list["Given"]


@dataclass(frozen=True, slots=True)
class Given:
    """A document and where it is from.

    Args:
        file: its path below the folder. Documents of one file follow one another.
        held: the holding that its file belongs to.
    """

    file: str
    text: str
    held: str | None = None


@dataclass(frozen=True)
class Example:
    """A document that a step found something in, by its place (`train.jsonl:17`, counted from 1); no text."""

    why: str
    place: str
    of: str | None = None
    """The place of the one it resembles."""


@dataclass
class Told:
    """What one step did."""

    stage: Stage
    after: Tally = field(default_factory=Tally)
    reasons: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    """Documents that it left out, or would, by language."""
    examples: list[Example] = field(default_factory=list)

    def tell(self, look: Look, language: str, place: str, of: str | None) -> None:
        """Count what was found in a document."""
        self.counts.update(look.counts)
        if look.why is None:
            return
        self.reasons[look.why] += 1
        self.languages[language] += 1
        if self.reasons[look.why] <= EXAMPLES:
            self.examples.append(Example(look.why, place, of))


class Pipeline:
    """One run.

    Args:
        request: what is asked for.
        processes: that look at documents; 1 for this one alone.
    """

    def __init__(self, request: Request, processes: int) -> None:
        self._request = request
        self._processes = processes
        self._stages = stages(request)
        self.before = Tally()
        self.told = [Told(stage) for stage in self._stages]
        self.languages: Counter[str] = Counter()
        """Documents by language, of those that were looked at for it."""
        self.kept: Counter[str] = Counter()
        self._number = 0
        self._files: list[tuple[int, str]] = []
        """Each with the number of its first document."""

    @property
    def after(self) -> Tally:
        return self.told[-1].after if self.told else self.before

    def run(self, documents: Iterable[Given]) -> Iterator[tuple[Given, str | None]]:
        """Each document with the text that stays of it, None for nothing.

        Raises:
            ProcessDied: a worker ended, most likely for want of memory.
        """
        for batch, seen in self._looked(documents):
            for given, each in zip(batch, seen, strict=True):
                yield given, self._settle(given, each)

    def _settle(self, given: Given, seen: Seen) -> str | None:
        self.before.add(seen.leaf[0], seen.size[0])
        self.languages[seen.language] += 1
        number, text, at = self._number, given.text, 0
        self._number += 1
        if not self._files or self._files[-1][1] != given.file:
            self._files.append((number, given.file))
        for told, found in zip(self.told, seen.looks, strict=False):
            if told.stage.step.name == "protected" and found.why is None and given.held is not None:
                found = Look(why=given.held)
            settled = told.stage.step.settle(number, found)
            like = self._place(settled.of) if settled.of is not None else None
            told.tell(settled, seen.language, self._place(number), like)
            if settled.why is not None and told.stage.action == "drop":
                return None
            if settled.text is not None:
                text, at = settled.text, 1
            told.after.add(seen.leaf[at], seen.size[at])
        self.kept[seen.language] += 1
        return text

    def _place(self, number: int) -> str:
        first, file = self._files[bisect_right(self._files, number, key=itemgetter(0)) - 1]
        return f"{file}:{number - first + 1}"

    def _looked(self, documents: Iterable[Given]) -> Iterator[tuple[Batch, list[Seen]]]:
        if self._processes == 1:
            for batch in batches(documents):
                yield batch, [look(given.text, self._stages) for given in batch]
            return
        with ProcessPoolExecutor(
            self._processes,
            multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(self._request,),
        ) as pool:
            try:
                yield from _in_order(documents, pool, 2 * self._processes + 1)
            except BrokenProcessPool as e:
                raise ProcessDied(
                    "a process that looks at documents ended", hint="is there enough memory for --processes?"
                ) from e


def _in_order(
    documents: Iterable[Given], pool: ProcessPoolExecutor, ahead: int
) -> Iterator[tuple[Batch, list[Seen]]]:
    waiting: deque[tuple[Batch, Future[list[Seen]]]] = deque()
    try:
        for batch in batches(documents):
            waiting.append((batch, pool.submit(_look_all, [given.text for given in batch])))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def batches(documents: Iterable[Given]) -> Iterator[Batch]:
    """Some documents at a time."""
    batch: Batch = []
    characters = 0
    for given in documents:
        batch.append(given)
        characters += len(given.text)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


_prepared: list[Stage] = []
"""Of a worker process, made once."""


def _prepare(request: Request) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    _prepared[:] = stages(request)


def _look_all(texts: list[str]) -> list[Seen]:
    return [look(text, _prepared) for text in texts]
