"""What a page's module gives to the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response


@dataclass(frozen=True)
class Route:
    """
    Args:
        path: below the language, as `/runs/{run}`.
        endpoint: what answers.
        method: GET, or POST.
    """

    path: str
    endpoint: Callable[[Request], Awaitable[Response]]
    method: str = "GET"
