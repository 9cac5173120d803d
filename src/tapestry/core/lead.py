"""Of several processes that serve one consortium, one coordinates; the others notice and answer.

Two that both think they lead for a moment do no harm: what the coordinator does is derived from the
state inside a transaction, and doing it twice has no other effect than once.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from tapestry.core.coordinator import Coordinator, Tell
from tapestry.errors import ResourceError
from tapestry.storage.backend import Leadership

ASK_S: Final = 1.0
"""How often a leader makes sure of it, and the others ask whether they may."""


async def lead(leadership: Leadership, coordinator: Coordinator, tell: Tell) -> None:
    """Until cancelled: coordinate whenever this process leads. A fault of the coordinator is raised."""
    work: asyncio.Task[None] | None = None
    try:
        while True:
            leads = await _leads(leadership, tell)
            if leads and work is None:
                tell("leads", {})
                work = asyncio.create_task(coordinator.run(), name="coordinator")
            elif not leads and work is not None:
                tell("leads-no-more", {})
                await _end(work)
                work = None
            if work is None:
                await asyncio.sleep(ASK_S)
                continue
            await asyncio.wait({work}, timeout=ASK_S)
            if work.done():
                work.result()
    finally:
        if work is not None:
            await _end(work)


async def _leads(leadership: Leadership, tell: Tell) -> bool:
    try:
        return await asyncio.to_thread(leadership.acquire)
    except ResourceError as error:  # cannot be reached, busy, full: ask again
        tell("leadership-unknown", {"code": error.code, "error": error.message})
        return False


async def _end(work: asyncio.Task[None]) -> None:
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
