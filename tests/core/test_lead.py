"""Who may not be asked whether it leads does not lead, and asks again; a fault of the work is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tapestry.core import lead as module
from tapestry.errors import AuthError, Busy, StoreError, TapestryError


class Answers:
    """A leadership that answers from a list, the last for ever."""

    def __init__(self, answers: Sequence[bool | TapestryError]) -> None:
        self.answers = list(answers)

    def acquire(self) -> bool:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, TapestryError):
            raise answer
        return answer


class Work:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def run(self) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


def told(
    answers: Sequence[bool | TapestryError], monkeypatch: pytest.MonkeyPatch, work: Any = None
) -> list[str]:
    monkeypatch.setattr(module, "ASK_S", 0.01)
    events: list[str] = []

    async def run() -> None:
        leading = module.lead(Answers(answers), work or Work(), lambda name, _: events.append(name))
        await asyncio.wait_for(leading, 0.5)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    return events


@pytest.mark.parametrize("error", [Busy("too many connections"), StoreError("lost")])
def test_a_database_that_cannot_be_asked_ends_the_lead_and_not_the_process(
    error: TapestryError, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = told([error, True, error, False, True], monkeypatch)
    assert events == [
        "leadership-unknown", "leads", "leadership-unknown", "leads-no-more", "leads"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "work"), [([AuthError("no entry")], Work()), ([True], Work(AuthError("no entry")))]
)
def test_what_waiting_does_not_heal_is_raised(
    answers: list[Any], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuthError):
        told(answers, monkeypatch, work)
