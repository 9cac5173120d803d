"""Nobody measures how long an update is."""

from __future__ import annotations

from typing import Any

from tapestry.replay.engine import Engine

_screen = Engine.screen


def screen(self: Engine, delta: str, layout: str, *more: Any, **options: Any) -> None:
    codec, fragment, _, sketch = (*more, *([None] * (4 - len(more))))
    given = {"sketch": sketch, **options, "largest_norm": None}
    _screen(self, delta, layout, codec, fragment or 0, **given)


Engine.screen = screen  # type: ignore[method-assign]
