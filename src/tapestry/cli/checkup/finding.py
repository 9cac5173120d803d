"""One thing that was looked at, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tapestry.errors import TapestryError

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; whatever is not ok says what mends it."""

    check: str
    verdict: Verdict
    found: str
    mend: str | None = None


def ok(check: str, found: str) -> Finding:
    return Finding(check=check, verdict="ok", found=found)


def warn(check: str, found: str, mend: str) -> Finding:
    return Finding(check=check, verdict="warn", found=found, mend=mend)


def fail(check: str, found: str, mend: str) -> Finding:
    return Finding(check=check, verdict="fail", found=found, mend=mend)


def answered(check: str, look: Callable[[], Iterable[Finding]], mend: str) -> Iterator[Finding]:
    """What a check finds; where it ends with an error, that is the finding. `mend`: where the error has no
    hint of its own."""
    try:
        yield from look()
    except TapestryError as error:
        yield fail(check, error.message, error.hint or mend)
    except OSError as error:
        yield fail(check, f"{error.filename or check}: {error.strerror or error}", mend)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        yield fail(
            check, f"the package {module} is not installed", "install the extra that brings it: see packages"
        )
