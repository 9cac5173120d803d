"""Runs a scheduler's commands. What they say is read, never run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from typing import Final

from tapestry.errors import SettingsError, Unreachable

COMMAND_S: Final = 45.0
MAX_SAID: Final = 300


class Failed(Exception):
    """A command ended with a code other than 0. Never leaves this package, so it is not in the error tree."""

    def __init__(self, program: str, code: int, said: str) -> None:
        self.message = f"{program} ended with exit code {code}: {said or 'it said nothing'}"
        super().__init__(self.message)
        self.said = said


def run(argv: Sequence[str], *, given: str | None = None, timeout_s: float = COMMAND_S) -> str:
    """Standard output of a command.

    Args:
        argv: program and arguments; no shell is in between.
        given: its standard input; empty if None.
        timeout_s: it is killed after so long.

    Raises:
        Failed: it ended with another code than 0.
        Unreachable: it gave no answer in time.
        SettingsError: there is no such program.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=(given or "").encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (FileNotFoundError, PermissionError) as e:
        raise SettingsError(
            f"{argv[0]} cannot be run: {e.strerror}",
            hint=f"run the node where {argv[0]} is on the PATH, or choose another launcher in node.toml",
        ) from e
    except subprocess.TimeoutExpired as e:
        raise Unreachable(f"{argv[0]} gave no answer within {timeout_s:g} s") from e
    if done.returncode != 0:
        raise Failed(argv[0], done.returncode, brief(done.stderr) or brief(done.stdout))
    return done.stdout.decode("utf-8", "replace")


def ask(argv: Sequence[str], *, given: str | None = None) -> str:
    """As `run`, for a question that is asked again: any failure is `Unreachable`."""
    try:
        return run(argv, given=given)
    except Failed as e:
        raise Unreachable(e.message) from e


def brief(output: bytes | str) -> str:
    """What a command said, in one line without control characters."""
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()[:MAX_SAID]
