"""Tasks that take turns, a clock that only moves when all of them wait, and the one source of chance.

Each task has a stack of its own (a greenlet), since the code it runs is written for threads, but all share
one thread and a task hands over to the next one itself. So a run is a function of its seed, and a turn costs
far less than two threads that wake each other.
"""

from __future__ import annotations

import hashlib
import random
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final

from greenlet import getcurrent, greenlet

KEPT_LINES: Final = 400


class Crash(BaseException):
    """The process dies here. Not an `Exception`: nothing on the way may take it for a failure."""


class Violation(AssertionError):
    """Something did not hold that must."""


class Trace:
    """What happened, as a hash of all of it and its last lines."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._hash = hashlib.sha256()

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._hash.update(line.encode() + b"\n")

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class Process:
    """Tasks that die together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.version = 0
        """Grows whenever something happened that one of its tasks may wait for."""
        self.tasks: list[Task] = []


class Task:
    """One strand of a process."""

    def __init__(self, process: Process, name: str, body: Callable[[], object]) -> None:
        self.process = process
        self.name = name
        self.body = body
        self.doomed = False
        self.due: float | None = 0.0
        self.until: Callable[[], object] | None = None
        self.seen = -1
        self.stack: greenlet | None = None


class Scheduler:
    """Runs tasks until `stop` or a failure."""

    def __init__(self, seed: int, *, max_steps: int = 15_000) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.trace = Trace()
        self.folder = "/nowhere"
        """Left out of what is said: each run has another."""
        self.current: Task | None = None
        self.error: BaseException | None = None
        self.closing = False
        self._max_steps = max_steps
        self._tasks: list[Task] = []
        self._main = getcurrent()

    # -- from outside ---------------------------------------------------------------------------

    def run(self) -> None:
        """Until all tasks have ended. Raises what `fail` was told first."""
        self._main = getcurrent()
        try:
            self._turns()
        except BaseException:  # an interrupt: what still runs ends first
            self.stop()
            self._turns()
            raise
        self.current = None
        if self.error is not None:
            raise self.error

    # -- from tasks ------------------------------------------------------------------------------

    def spawn(self, process: Process, name: str, body: Callable[[], object], *, in_s: float = 0.0) -> Task:
        task = Task(process, name, body)
        task.due = self.now + in_s
        self._tasks.append(task)
        process.tasks.append(task)
        return task

    def wait(self, seconds: float | None = None, until: Callable[[], object] | None = None) -> None:
        """Let others go on; for so long, or until the condition holds, which is asked anew whenever something
        happened to the process."""
        me = self.current
        assert me is not None
        if me.doomed:
            raise Crash
        me.due = None if seconds is None else self.now + seconds
        me.until, me.seen = until, -1
        self._hand_over(me)
        me.due, me.until = None, None
        if me.doomed:
            raise Crash

    def kill(self, process: Process) -> None:
        """All its tasks end where they are, when their turn comes."""
        process.dead = True
        for task in process.tasks:
            task.doomed = True

    def say(self, what: str) -> None:
        name = self.current.process.name if self.current is not None else "-"
        self.trace.add(f"{self.now:10.4f} {name:<12} {what.replace(self.folder, '')}")

    def fail(self, error: BaseException) -> None:
        """The first error counts; everything ends."""
        if self.error is None:
            self.error = error
            where = "".join(traceback.format_exception(error)).strip().splitlines()
            self.trace.lines.extend(where[-12:])
        self.stop()

    def stop(self) -> None:
        self.closing = True
        for task in self._tasks:
            task.doomed = True
            task.process.dead = True

    # -- turns ------------------------------------------------------------------------------------

    def _turns(self) -> None:
        while (chosen := self._choose()) is not None:
            self._switch(chosen)

    def _hand_over(self, me: Task) -> None:
        chosen = self._choose()
        assert chosen is not None
        if chosen is not me:
            self._switch(chosen)

    def _switch(self, chosen: Task) -> None:
        """Comes back when it is the caller's turn again; to `run` whenever a task has ended."""
        if chosen.stack is None:
            chosen.stack = greenlet(lambda: self._work(chosen), self._main)
        self.current = chosen
        chosen.stack.switch()

    def _work(self, task: Task) -> None:
        try:
            if not task.doomed:
                task.body()
        except Crash:
            pass
        except Exception as error:  # an interrupt goes on to `run`
            self.fail(error)
        finally:
            task.stack = None
            self._tasks.remove(task)
            task.process.tasks.remove(task)
            task.process.version += 1

    def _choose(self) -> Task | None:
        try:
            return self._pick()
        except Exception as error:
            self.fail(error)
            return self._pick()

    def _pick(self) -> Task | None:
        self.steps += 1
        if self.steps > self._max_steps and not self.closing:
            raise Violation(f"nothing came to an end in {self.steps} steps")
        while self._tasks:
            ready = self._ready()
            if ready:
                task = ready[0] if len(ready) == 1 else ready[int(self.rng.random() * len(ready))]
                task.process.version += 1
                return task
            dues = [task.due for task in self._tasks if task.due is not None]
            if not dues:
                raise Violation("every task waits for another")
            self.now = max(self.now, min(dues))
        return None

    def _ready(self) -> list[Task]:
        """Whose turn it may be, in the order they began."""
        now, ready = self.now, []
        for task in self._tasks:
            if task.doomed or (task.due is not None and task.due <= now):
                ready.append(task)
            elif task.until is not None and task.seen != task.process.version:
                task.seen = task.process.version
                if task.until():
                    ready.append(task)
        return ready
