"""A run as it stands now, read where it can be: in a core's own folder, or in a node's copy of the ledger."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from tapestry.audit import file
from tapestry.audit.course import Course
from tapestry.cli.asking import Asking
from tapestry.cli.display import MemberView, Snapshot
from tapestry.errors import HashMismatch, InputError, NotFound
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import Entry
from tapestry.protocol.clock import time_text
from tapestry.rounds.waiting import waiting_for

if TYPE_CHECKING:
    from tapestry.audit.file import Line
    from tapestry.core.service import Core
    from tapestry.protocol.messages import Progress
    from tapestry.protocol.views import RunView
    from tapestry.rounds.state import Round, RunState
    from tapestry.transport.client import CoreClient

BATCH_BYTES: Final = 8 << 20
BATCH: Final = 5000
CONNECT_S: Final = 3.0
READ_S: Final = 10.0
"""For the next piece of an answer, when a node asks the core for the others' progress."""


class Source(Protocol):
    """Where a run is read."""

    def runs(self) -> list[str]: ...
    def lines(self, run: str) -> Iterator[Line]:
        """Lines of the ledger that were not given before."""

    def progress(self, run: str) -> Mapping[str, Progress]: ...
    def own(self) -> MemberView | None:
        """What only this machine's own node knows of itself."""

    def notes(self, run: str, course: Course) -> tuple[str, ...]:
        """What a person should know of the source itself."""


class OfCore:
    """A core's own folder, whether it serves or not."""

    def __init__(self, opened: Core) -> None:
        self._core = opened
        self._after = 0

    def runs(self) -> list[str]:
        return self._core.runs.names()

    def lines(self, run: str) -> Iterator[Line]:
        journal = self._core.journal
        while True:
            batch, head = journal.entries(self._after, limit=BATCH, max_bytes=BATCH_BYTES)
            for data in batch:
                entry = Entry.from_bytes(data)
                named = entry.body.get(file.NAMED.get(entry.type, "")) if entry.scope == run else None
                if named is not None:
                    with suppress(NotFound, HashMismatch):
                        yield "blob", self._core.store.read(str(named), Envelope.MAX_BYTES)
                yield "entry", entry
                self._after = entry.sequence
            if self._after >= head or not batch:
                return

    def progress(self, run: str) -> Mapping[str, Progress]:
        from tapestry.core.telling import told

        return told(self._core.home.progress, run)

    def own(self) -> MemberView | None:
        return None

    def notes(self, run: str, course: Course) -> tuple[str, ...]:
        from tapestry.core import operator
        from tapestry.core.views import trouble_of

        serving = operator.serving(self._core.home.root)
        if serving is None:
            root = self._core.home.root
            return (f"the core does not serve; start it with: tapestry core serve {root}",)
        trouble = serving.get("trouble")
        words = trouble_of(run, trouble) if isinstance(trouble, dict) else None
        return (words,) if words else ()


class OfNode:
    """A node's own copy of the ledger, which it has verified; others' progress is asked of the core."""

    def __init__(self, root: Path) -> None:
        from tapestry.node import settings
        from tapestry.node.home import Home

        self._home = Home(root)
        self._name = settings.load(self._home).node.name
        self._offset = 0
        self._client: CoreClient | None = None
        self._asking: dict[str, Asking[RunView]] = {}
        self._away: str | None = None

    def runs(self) -> list[str]:
        from tapestry.cli import nodehome

        return sorted(nodehome.memory(self._home.root).runs)

    def lines(self, run: str) -> Iterator[Line]:
        from tapestry.node.kept import Kept

        with suppress(InputError):  # it holds no ledger yet
            kept = Kept.of(self._home)
            if kept.size < self._offset:
                raise NotFound(
                    "this node's copy of the ledger was begun anew", hint="watch again, from its beginning"
                )
            with kept.path.open("rb") as handle:
                handle.seek(self._offset)
                data = handle.read(kept.size - self._offset)
            if not self._offset:
                data = data.removeprefix(file.FIRST)
            self._offset = kept.size
            yield from file.parse(data)

    def progress(self, run: str) -> Mapping[str, Progress]:
        asking = self._asking.setdefault(run, Asking(lambda: self._ask(run), self._where))
        view, self._away = asking.look()
        at = view.current if view is not None and self._away is None else None
        return {n.node: n.progress for n in at.nodes if n.progress is not None} if at is not None else {}

    def own(self) -> MemberView | None:
        from tapestry.node.home import read_json
        from tapestry.node.status import node_status

        status = node_status(self._home.root)
        own = MemberView(name=self._name, phase="does not run", trouble=not status["running"])
        if status["running"]:
            own.phase = str(status["processes"]["trainer"]["phase"] or "starting")
            step = read_json(self._home.trainer_progress) or {}
            own.step, own.steps = int(step.get("step") or 0), int(step.get("steps") or 0)
            own.loss, own.tokens_per_s = step.get("loss"), step.get("tokens_per_s")
        traffic = status["traffic"] or {}
        own.bytes_sent = int(traffic.get("sent_bytes", 0))
        own.bytes_received = int(traffic.get("received_bytes", 0))
        return own

    def notes(self, run: str, course: Course) -> tuple[str, ...]:
        from tapestry.node.status import node_status

        status, found = node_status(self._home.root), []
        if not status["running"]:
            found.append(
                "this node does not run, so its copy of the ledger stands still; start it with: "
                f"tapestry node run {self._home.root}"
            )
        if self._away is not None:
            found.append(f"{self._away}; shown is what this node has known since {course.at}")
        elif status["trouble"]:
            found.append(str(status["trouble"]))
        return tuple(found)

    def _ask(self, run: str) -> RunView:
        from tapestry.node import setup

        if self._client is None:
            client = setup.connect(self._home)
            client.connection.connect_s, client.connection.read_s = CONNECT_S, READ_S
            self._client = client
        return self._client.run(run)

    def _where(self) -> str:
        from tapestry.node.setup import load_consortium

        return load_consortium(self._home).core_url

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class Watcher:
    """A run, followed in its source; `look` gives it as it stands now."""

    def __init__(self, source: Source, run: str) -> None:
        self._source = source
        self.course = Course(run)

    @classmethod
    def of(cls, source: Source, run: str | None, where: Path) -> Self:
        """Raises `NotFound` for no such run, `InputError` where several could be meant."""
        from tapestry.cli.corehome import PLAN_HINT, choose_run
        from tapestry.cli.nodehome import RUN_HINT

        none_yet = RUN_HINT if isinstance(source, OfNode) else PLAN_HINT
        return cls(source, choose_run(source.runs(), run, where=where, none_yet=none_yet))

    def look(self) -> Snapshot:
        course, run = self.course, self.course.run
        for line in self._source.lines(run):
            course.take(line)
        progress = self._source.progress(run)
        notes = self._source.notes(run, course)
        if (state := course.state) is None:
            return Snapshot(phase="nothing is known yet", merges=0, rounds=0, parameters=0, members=[],
                            notes=notes)  # fmt: skip
        now_ms = int(time.time() * 1000)
        at = state.current
        members = [_member(course, state, at, node, progress, now_ms) for node in sorted(state.enrolled)]
        own = self._source.own()
        return Snapshot(
            phase=state.status if at is None else at.phase,
            merges=state.merges,
            rounds=state.plan.rounds.total,
            parameters=state.plan.parameters,
            members=[_with_own(each, own) if own and own.name == each.name else each for each in members],
            waiting_for=waiting_for(state, now_ms),
            finished=state.status == "finished",
            sent_bytes=course.sent_bytes,
            synchronous_bytes=course.synchronous_bytes(),
            left_s=course.left_s(),
            notes=notes,
        )


def _member(
    course: Course,
    state: RunState,
    at: Round | None,
    node: str,
    progress: Mapping[str, Progress],
    now_ms: int,
) -> MemberView:
    phase, trouble = standing(state, at, node, now_ms)
    said = progress.get(node)
    current = said if said is not None and at is not None and said.round == at.round else None
    steps = state.plan.inner.steps_at(state.merges)
    sent = at is not None and node in at.submissions
    return MemberView(
        name=node,
        about=state.enrolled[node],
        phase=phase,
        step=current.step if current is not None else steps if sent else 0,
        steps=current.steps if current is not None else steps,
        loss=current.loss if current is not None else None,
        tokens_per_s=current.tokens_per_s if current is not None and not sent else None,
        bytes_sent=course.sent.get(node, 0),
        trouble=trouble,
        scores=course.scores.get(node, {}),
    )


def standing(state: RunState, at: Round | None, node: str, now_ms: int) -> tuple[str, bool]:
    """What a node does now, by the ledger, and whether that is amiss."""
    if state.status != "running":
        return state.status, False
    if at is None:
        if state.merged and not state.witnessed:
            return ("waits", False) if node in state.attested else ("repeats the merge", False)
        return "waits for a round", False
    sent = at.submissions.get(node)
    if sent is not None:
        words = {"committed": "submits", "received": "is checked", "accepted": "waits"}
        if sent.status == "refused":
            return f"refused: {sent.reason}", True
        return words[sent.status], False
    if node in at.late:
        return "late", True
    if node not in at.nodes:
        return "joins the next round", False
    if at.phase == "training" and now_ms > at.deadline_ms:
        return "late", True
    return ("trains", False) if at.phase == "training" else ("missed the round", True)


def _with_own(told: MemberView, own: MemberView) -> MemberView:
    """What the node's own machine knows is newer; where it submits or waits, the ledger says so."""
    told.bytes_sent = max(told.bytes_sent, own.bytes_sent)
    told.bytes_received = own.bytes_received
    if told.phase == "finished":
        return told
    if own.trouble:
        told.phase, told.trouble = own.phase, True
    elif told.phase == "trains":
        told.phase = own.phase
        told.step, told.steps = own.step, own.steps or told.steps
        told.loss = own.loss if own.loss is not None else told.loss
        told.tokens_per_s = own.tokens_per_s or told.tokens_per_s
    return told


def as_json(run: str, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for machines, and when it was taken, by this machine's clock."""
    return {"run": run, "time": time_text(int(time.time() * 1000)), **asdict(snapshot)}


def json_line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def same(one: Snapshot | None, other: Snapshot) -> bool:
    """Whether nothing happened between them but the passing of time."""
    return one is not None and _still(one) == _still(other)


def _still(snapshot: Snapshot) -> dict[str, Any]:
    value = asdict(snapshot)
    value.pop("left_s")
    for member in value["members"]:
        member.pop("tokens_per_s")
    return value


def poll_s() -> float:
    """Seconds between two looks; the variable is for tests."""
    return float(os.environ.get("TAPESTRY_WATCH_POLL_S", "0.5"))
