"""Processes that do what they are told: one line of JSON in, one out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tapestry.host import processes

Reply = dict[str, Any]


class Puppet:
    """A module of this package as a process; its `main` calls `obey`.

    Args:
        role: what it is, for messages.
        module: e.g. `benchmarks.plain_http`.
        request: what `obey` gives to its maker.
        log: where its standard error goes.
    """

    def __init__(self, role: str, module: str, request: Mapping[str, Any], log: Path) -> None:
        self._log = log
        self._child = processes.spawn(
            role,
            [sys.executable, "-P", "-m", module],
            log_path=log,
            env={"PYTHONPATH": str(Path(__file__).parents[1])},
            pipes=True,
        )
        self.pid = self._child.pid
        self._say(request)

    def tell(self, word: str) -> None:
        self._say(word)

    def reply(self) -> Reply:
        """What came of the oldest word that was not answered yet."""
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._child.role} ended: {self._log.read_text()[-2000:]}")
        value: Reply = json.loads(line)
        return value

    def ask(self, word: str) -> Reply:
        self.tell(word)
        return self.reply()

    def _say(self, value: Any) -> None:
        assert self._child.stdin
        self._child.stdin.write(json.dumps(value).encode() + b"\n")
        self._child.stdin.flush()

    def close(self) -> None:
        processes.kill_tree(self._child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def together(puppets: Sequence[Puppet], word: str) -> tuple[float, list[Reply]]:
    """The same word to all at once: seconds until the last has answered, and the answers."""
    start = time.perf_counter()
    for puppet in puppets:
        puppet.tell(word)
    replies = [puppet.reply() for puppet in puppets]
    return time.perf_counter() - start, replies


def obey(make: Callable[[Reply], Mapping[str, Callable[[], Reply | None]]]) -> None:
    """Be a puppet: `make` gets the request and gives what to do at each word."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    words = make(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        answers.write(json.dumps(words[json.loads(line)]() or {}) + "\n")
        answers.flush()
