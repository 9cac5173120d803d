"""Whether a contribution is a copy of an update accepted before; see "Copies" in docs/formats/rounds.md.

Every member can see the deltas of rounds that are over, and may hand one in again as its own work. Deltas are
compared by sketches, a few kilobytes each, that the replay worker draws while it screens and keeps in the
core's home. They are drawn with a secret of this core's home. One that is lost, or was drawn by another
process for the same consortium, is drawn again as long as the delta's blobs are there.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tapestry.core.deltas import read_message
from tapestry.core.runs import Runs
from tapestry.errors import Copied, IntegrityError, NotFound
from tapestry.protocol.encoding import Codec
from tapestry.protocol.plan import Plan
from tapestry.replay.job import MAX_OTHERS, OverlapJob, Overlapped, SketchAt, Sketched
from tapestry.rounds import events as ev
from tapestry.rounds.state import Round, RunState, Submission

ROUNDS: Final = 64
"""Of its fragment that a contribution is compared with, beside its own."""
MOST_ROUNDS: Final = 1024
"""Of the run that they are looked for in."""
TYPES: Final = ("round-opened", *ev.ARRIVED, "contribution-accepted", "round-abandoned")


class Screen(Protocol):
    """What is needed of `replay.client.Replayer`."""

    def screen(
        self,
        delta: str,
        layout: str,
        codec: Codec,
        fragment: int,
        largest_norm: float | None,
        sketch: SketchAt | None = None,
        /,
    ) -> None: ...
    def overlap(self, job: OverlapJob, /) -> Overlapped: ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """An update that was accepted."""

    round: int
    node: str
    delta: str
    plan: str
    """Digest of the plan under which it was written."""


@dataclass(frozen=True, slots=True)
class _Past:
    """What was accepted in a round that is over."""

    fragment: int
    abandoned: bool
    accepted: tuple[Accepted, ...]


class Copies:
    """Of one core.

    Args:
        runs: the core's runs.
        replay: does the arithmetic, elsewhere.
        seed: gives the secret that sketches are drawn with, 64 hexadecimal digits; asked once it is needed.
        folder: where the replay worker keeps sketches.
    """

    def __init__(self, runs: Runs, replay: Screen, *, seed: Callable[[], str], folder: Path) -> None:
        self._runs = runs
        self._replay = replay
        self._seed = seed
        self._folder = folder
        self._past: defaultdict[str, dict[int, _Past]] = defaultdict(dict)
        self._codecs: dict[str, Codec] = {}
        self._gone: set[str] = set()
        """Deltas that can be drawn no more."""

    def screen(self, state: RunState, at: Round, given: Submission, largest_norm: float | None) -> None:
        """Screen a contribution, under a plan that limits overlaps.

        Raises:
            Copied: it overlaps more than the plan allows with an update accepted before.
            IntegrityError, NotFound: as of `Replayer.screen`.
            ResourceError, ProcessDied: the core cannot do it now.
        """
        plan, largest = state.plan, state.plan.merge.largest_overlap
        assert largest is not None  # noqa: S101 - only then is it asked
        state = self._runs.standing(state.run).state  # another may have been accepted since
        at = state.find(at.round, at.fragment) or at
        others = list(self._others(state, at, given.node))
        for other in others:
            if other.delta == given.delta:
                raise _copied(given, other, 1.0, largest)
        place = SketchAt(seed=self._seed(), run=state.run, round=at.round)
        self._replay.screen(given.delta, plan.layout, plan.codec, at.fragment, largest_norm, place)
        found, nearest = self._compare(state, at, given, place, others)
        if found.copied and nearest is not None:
            self._path(place, given.delta).unlink(missing_ok=True)
            raise _copied(given, nearest, found.overlap, found.allowed)

    def forget(self, state: RunState) -> None:
        """Remove sketches that nothing will be compared with any more."""
        folder = self._folder / state.run
        finished = state.status == "finished"
        oldest = state.last_round + 1 if finished else state.last_round - _reach(state.plan)
        past = self._past[state.run]
        for number in [each for each in past if each < oldest]:
            del past[number]
        for each in folder.iterdir() if folder.is_dir() else ():
            if each.name.isdecimal() and int(each.name) < oldest:
                shutil.rmtree(each, ignore_errors=True)
        if finished:
            with suppress(OSError):
                folder.rmdir()

    def _others(self, state: RunState, at: Round, node: str) -> Iterator[Accepted]:
        """What a node's contribution to a round is compared with, newest first."""
        for each in at.with_status("accepted"):
            if each.node != node:
                yield Accepted(at.round, each.node, each.delta, state.plan.digest)
        rounds, left = 0, MAX_OTHERS - len(at.submissions)
        for number in range(at.round - 1, max(0, at.round - 1 - _reach(state.plan)), -1):
            past = self._of(state, number)
            if past.fragment != at.fragment:
                continue
            # What a node gave to a round that came to nothing it may give again.
            chosen = [one for one in past.accepted if not (past.abandoned and one.node == node)]
            rounds, left = rounds + 1, left - len(chosen)
            if rounds > ROUNDS or left < 0:
                return
            yield from chosen

    def _of(self, state: RunState, number: int) -> _Past:
        past = self._past[state.run]
        found = past.get(number)
        if found is None:
            found = self._read(state.run, number)
            if not any(each.round == number and each.open for each in state.rounds):
                past[number] = found
        return found

    def _read(self, run: str, number: int) -> _Past:
        fragment, plan, abandoned = 0, "", False
        deltas: dict[str, str] = {}
        accepted = []
        for entry in self._runs.journal.of_round(run, number, *TYPES):
            match ev.parse_event(entry.type, entry.body):
                case ev.RoundOpened() as event:
                    fragment, plan = event.fragment, event.plan
                case ev.ContributionReceived() | ev.ContributionRevealed() as event:
                    deltas[event.contribution] = event.delta
                case ev.ContributionAccepted() as event:
                    accepted.append(Accepted(number, event.node, deltas[event.contribution], plan))
                case ev.RoundAbandoned():
                    abandoned = True
        return _Past(fragment, abandoned, tuple(accepted))

    def _compare(
        self, state: RunState, at: Round, given: Submission, place: SketchAt, others: Sequence[Accepted]
    ) -> tuple[Overlapped, Accepted | None]:
        """With others that were accepted; sketches that lack are drawn again."""
        largest, mixing = state.plan.merge.largest_overlap, state.plan.streaming.mixing
        drawn: set[str] = set()
        while True:
            there = [each for each in others if each.delta not in self._gone]
            found = self._replay.overlap(
                OverlapJob(
                    seed=place.seed,
                    run=place.run,
                    round=place.round,
                    delta=given.delta,
                    largest=1.0 if largest is None else largest,
                    # With mixing a node's delta holds a part of all that was merged before.
                    others=tuple(
                        Sketched(
                            round=each.round, delta=each.delta, own=each.node == given.node and not mixing
                        )
                        for each in there
                    ),
                )
            )
            if not found.lacking:
                return found, None if found.nearest is None else there[found.nearest]
            for each in (there[number] for number in found.lacking):
                if each.delta in drawn or not self._draw(place, each, state.plan.layout, at.fragment):
                    self._gone.add(each.delta)
                drawn.add(each.delta)

    def _draw(self, place: SketchAt, other: Accepted, layout: str, fragment: int) -> bool:
        """Draw the sketch of an earlier update again; False where its bytes are not here any more."""
        at = place.model_copy(update={"round": other.round})
        try:
            codec = self._codec(other.plan)
            self._replay.screen(other.delta, layout, codec, fragment, None, at)
        except (IntegrityError, NotFound):
            return False
        return True

    def _codec(self, plan: str) -> Codec:
        if plan not in self._codecs:
            self._codecs[plan] = read_message(self._runs.store, plan, Plan).codec
        return self._codecs[plan]

    def _path(self, place: SketchAt, delta: str) -> Path:
        return self._folder / place.run / str(place.round) / delta


def _reach(plan: Plan) -> int:
    """How many rounds back there may be one that counts."""
    return min(MOST_ROUNDS, ROUNDS * plan.streaming.fragments)


def _copied(given: Submission, other: Accepted, found: float, allowed: float) -> Copied:
    whose = "the same node" if other.node == given.node else f"node {other.node}"
    return Copied(
        f"the update of node {given.node} overlaps by {found:.4f} with what {whose} gave to round "
        f"{other.round}; {allowed:g} is allowed",
        hint="merge.largest_overlap is the plan's",
    )
