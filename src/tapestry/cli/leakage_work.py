"""What `tapestry node leakage` does: finds bases and updates in a node's home, and has them attacked.

`node.measured` knows what lies where and imports no torch; `training.leakage` measures; `replay` computes
bases again that were erased.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tapestry import __version__
from tapestry.cli import nodehome
from tapestry.errors import InputError, NotFound
from tapestry.node import canaries as planting
from tapestry.node import settings
from tapestry.node.canaries import WORD_ALPHABET
from tapestry.node.home import Home
from tapestry.node.measured import Measured, has_state, said_in
from tapestry.protocol.artifact import State
from tapestry.protocol.clock import format_time
from tapestry.protocol.leakage import Exposure, Inference, LeakageReport
from tapestry.protocol.messages import Contribution
from tapestry.protocol.plan import Plan
from tapestry.replay.repeat import Repeater
from tapestry.storage.blobs import BlobStore
from tapestry.training.blobs import BlobSource
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.leakage import figures
from tapestry.training.leakage.measure import Canary
from tapestry.training.leakage.reference import Reference
from tapestry.training.leakage.survey import Asked, Survey, Update
from tapestry.training.leakage.windows import Span
from tapestry.training.loaded import Loaded
from tapestry.training.machine import configure
from tapestry.training.rights import protected_of
from tapestry.training.settings import TrainerSettings

Tell = Callable[[int, int], None]


class Either:
    """Blobs of two folders."""

    def __init__(self, first: BlobStore, second: BlobStore) -> None:
        self._first, self._second = first, second

    def read(self, sha: str, max_bytes: int, /) -> bytes:
        store = self._first if self._first.has(sha) else self._second
        return store.read(sha, max_bytes)


def signed(root: Path, report: LeakageReport) -> bytes:
    """The report in an envelope of the node's key. It goes into the log of signed messages: it will leave."""
    from tapestry.identity.envelope import sign
    from tapestry.node import keys
    from tapestry.node.outbox import Outbox
    from tapestry.transport.connection import Traffic

    home = Home(root)
    envelope = sign(report, keys.load_pair(home)).to_bytes()
    Outbox(home, Traffic()).signed("leakage-report", report.run, envelope)
    return envelope


def measure(
    root: Path,
    run: str | None,
    rounds: Sequence[int] | None,
    asked: Asked,
    *,
    canaries: int,
    others: int,
    reference: Path | None,
    threads: int,
    tell: Tell,
) -> tuple[LeakageReport, list[str]]:
    """The report of a node, and what is not in it and why, in words.

    Args:
        root: the node's home.
        run: its name, where there are several.
        rounds: whose updates; those that need no merge repeated if None.
        asked: how much of each.
        canaries: how many, where any were planted.
        others: updates of other nodes in each round.
        reference: folder of a model to compare with, beside the states of the run.
        threads: of the processor.
        tell: hears how much is done.
    """
    home = Home(root)
    node = settings.load(home).node
    _, name, _ = nodehome.head(root, run)
    head = nodehome.memory(root).runs[name].head
    assert head is not None  # noqa: S101 - `nodehome.head` gave it
    measured = Measured.of(home, name, node.name, head)
    newest = list(measured.own.values())[-1]
    plan = measured.plan(newest.plan)
    configure(threads)
    loaded = Loaded.read(measured.store, plan.model)
    folder, protected = TrainerSettings.load(root).corpus_path(root), protected_of(root)
    corpus = open_corpus(folder, loaded.tokenizer, home.cache, protected=protected)
    measured.require_text(corpus.manifest, protected.digest if protected is not None else None)
    given = None if reference is None else Reference.read(reference, loaded.tokenizer)
    work = _Work(measured, plan, loaded, corpus, asked, given, canaries, others, tell)
    work.run(rounds, threads)
    form = work.survey.form
    report = LeakageReport(
        run=name,
        plan=plan.digest,
        member=node.member,
        node=node.name,
        at=format_time(datetime.datetime.now(datetime.UTC)),
        release=__version__,
        data_manifest=newest.data_manifest,
        window_bytes=float(f"{form.bytes:.6g}"),
        window_tokens=form.parts * form.predicted,
        sequence_length=form.sequence_length,
        false_positives=figures.FALSE_POSITIVES,
        confidence=figures.CONFIDENCE,
        seed=asked.seed,
        inference=tuple(work.inference),
        exposure=tuple(work.exposure),
    )
    return report, work.left_out


class _Work:
    """One report on its way."""

    def __init__(
        self,
        measured: Measured,
        plan: Plan,
        loaded: Loaded,
        corpus: Corpus,
        asked: Asked,
        reference: Reference | None,
        canaries: int,
        others: int,
        tell: Tell,
    ) -> None:
        self._measured, self._plan, self._others, self._tell = measured, plan, others, tell
        planted = planting.load(measured.home)
        marker = planted.marker if planted is not None else None
        self.survey = Survey(
            loaded, corpus, plan, measured.node, asked, marker=marker, reference=reference, told=self._told
        )
        self._canaries: list[Canary] = []
        if planted is not None and canaries:
            step = max(1, planted.planted // canaries)
            numbers = range(0, planted.planted, step)[:canaries]
            self._canaries = [Canary(*planted.parts(number)) for number in numbers]
        self._taken, self._certain = measured.consumed(plan)
        self._each = 2 * asked.windows
        self._done, self._total = 0, 1
        self._reference = reference is not None
        self.inference: list[Inference] = []
        self.exposure: list[Exposure] = []
        self.left_out: list[str] = []

    def run(self, rounds: Sequence[int] | None, threads: int) -> None:
        """Everything. Raises what kept the last target out of the report where none is in it."""
        wanted = self._choose(rounds)
        passes = 2 if self._reference else 1
        self._total = (1 + passes + (1 + passes + passes * self._others) * len(wanted)) * self._each
        failed: InputError | NotFound | None = None
        try:
            self._base()
        except (InputError, NotFound) as e:
            failed = self._without("the base", e)
        for number, source in self._bases(wanted, threads):
            try:
                self._round(number, source)
            except (InputError, NotFound) as e:
                if rounds is not None:
                    raise
                failed = self._without(f"round {number}", e)
        if failed is not None and not self.inference:
            raise failed

    def _without(self, what: str, error: InputError | NotFound) -> InputError | NotFound:
        self.left_out.append(f"{what} is left out: {error.message}")
        return error

    def _told(self, count: int) -> None:
        self._done = min(self._done + count, self._total)
        self._tell(self._done, self._total)

    def _choose(self, rounds: Sequence[int] | None) -> list[int]:
        own = self._measured.own
        if rounds is None:
            has, store = self._measured.has, self._measured.store
            return [n for n, said in own.items() if store.has(said.delta) and has(said.state)]
        if missing := [number for number in rounds if number not in own]:
            known = ", ".join(map(str, list(own)[-20:]))
            raise NotFound(
                f"node {self._measured.node} has no update of round {missing[0]} of run {self._measured.run}",
                hint=f"it has those of: {known}",
            )
        return list(rounds)

    def _spans(self, until: int | None = None) -> list[Span]:
        return [Span(each.start, each.stop) for each in self._taken if until is None or each.round < until]

    def _base(self) -> None:
        """The newest base against the initial one, with all text this node has trained on."""
        store, plan, head = self._measured.store, self._plan, self._measured.head
        if not self._measured.has(plan.initial_state):
            raise NotFound(
                "the initial state, which it would be compared with, is not here",
                hint="take part with another node from the beginning, or measure updates only",
            )
        first, target = (_state(store, digest) for digest in (plan.initial_state, head.state))
        # What was sent for a round after the base's is not in it.
        spans = self._spans(head.round + 1)
        windows = self.survey.windows(spans, self._spans(), unseen=self._certain)
        self.inference += self.survey.base(store, target, first, windows, round=head.round)
        self._expose("base", head.round, head.state)

    def _round(self, number: int, source: BlobSource) -> None:
        """This node's update of a round, and others'."""
        said = self._measured.own[number]
        taken = [Span(each.start, each.stop) for each in self._taken if each.round == number]
        windows = self.survey.windows(taken, self._spans(number), unseen=self._certain)
        plan = self._measured.plan(said.plan)
        before = _state(source, said.state)
        updates = [self._update(said), *map(self._update, self._beside(said))]
        for row in self.survey.updates(source, before, plan, updates, windows, round=number):
            self.inference.append(row)
            if row.subject == "own-update" and row.by == "state":
                self._expose("own-update", number, row.target)

    def _beside(self, said: Contribution) -> list[Contribution]:
        """Others' updates of the round that start from the same state."""
        record = self._measured.records.get(said.round)
        if record is None:
            return []
        same = [
            each
            for each in said_in(record)
            if (each.round, each.state) == (said.round, said.state) and each.node != said.node
        ]
        return [each for each in same if self._measured.store.has(each.delta)][: self._others]

    def _update(self, said: Contribution) -> Update:
        return Update(node=said.node, delta=said.delta, steps=said.steps, fragment=said.fragment)

    def _expose(self, subject: str, number: int, target: str) -> None:
        if self._canaries:
            self.exposure.append(
                self.survey.exposure(
                    self._canaries,
                    WORD_ALPHABET,
                    subject="base" if subject == "base" else "own-update",
                    round=number,
                    target=target,
                )
            )

    def _bases(self, wanted: Sequence[int], threads: int) -> Iterator[tuple[int, BlobSource]]:
        """Rounds, each with blobs among which is the base it starts from; those that are here first, and the
        others as their merges are repeated."""
        measured = self._measured
        gone = {number for number in wanted if not measured.has(measured.own[number].state)}
        for number in wanted:
            if number not in gone:
                yield number, measured.store
        if not gone:
            return
        with Repeater(measured.store, parent=measured.home.root, threads=threads) as repeater:
            source = Either(repeater.store, measured.store)
            for number in sorted(measured.records):
                if not gone:
                    return
                record = measured.records[number]
                if not (has_state(repeater.store, record.before) or measured.has(record.before)):
                    continue
                plan = measured.plan(record.plan)
                state = repeater.merge(plan, before=record.before, contributions=record.merged).state
                for each in sorted(gone):
                    if measured.own[each].state == state:
                        gone.discard(each)
                        yield each, source
        raise NotFound(
            f"the base that round {min(gone)} of run {measured.run} starts from is not here and cannot be "
            "computed again",
            hint="earlier contributions were erased, as the plan's retention says; take a later round",
        )


def _state(source: BlobSource, digest: str) -> State:
    return State.from_bytes(source.read(digest, State.MAX_BYTES))
