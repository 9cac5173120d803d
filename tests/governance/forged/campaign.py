"""Forges so many messages of each class, puts each to all judges, and tells what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.governance.forged.requests import desk
from tests.governance.forged.table import Class, judged, let_through, load
from tests.governance.forged.world import World


@dataclass
class Result:
    """What came of one class."""

    name: str
    messages: int = 0
    accepted: list[str] = field(default_factory=list)
    """Which one, and by whom."""
    controls: int = 0
    """Messages that passed with the check off; each tried one must."""
    held: list[str] = field(default_factory=list)
    """Controls that were refused all the same."""
    seconds: float = 0.0


def run(
    messages: int,
    *,
    seed: int = 1,
    each_world: int = 400,
    controls: int = 3,
    names: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """In turn, class by class, in worlds of `each_world` messages.

    Args:
        messages: in all, at least; the same number of each class.
        controls: of each class, in the first worlds.
    """
    classes = [each for name, each in load().items() if not names or name in names]
    found = {each.name: Result(name=each.name) for each in classes}
    turns = -(-messages // len(classes))
    world: World | None = None
    used, number = each_world, 0
    for turn in range(turns):
        for given in classes:
            if used >= each_world and not given.http:
                world, used, number = World(seed * 1000 + number), 0, number + 1
                tell(f"consortium {number}, message {turn * len(classes)} of {turns * len(classes)}")
            assert world is not None or given.http
            used += 1
            one(given, world, found[given.name], seed=seed, turn=turn, control=turn < controls)
    return list(found.values())


def one(given: Class, world: World | None, result: Result, *, seed: int, turn: int, control: bool) -> None:
    draw = Random(f"{given.name}:{seed}:{turn}")
    start = time.process_time()
    place = desk() if given.http else world
    message = given.make(place, draw)
    by = judged(given, message)
    result.messages += 1
    if by:
        result.accepted.append(f"{given.name} {seed}/{turn}: {', '.join(by)}")
    if control:
        if let_through(given, message):
            result.controls += 1
        else:
            result.held.append(f"{given.name} {seed}/{turn}")
    result.seconds += time.process_time() - start


def totals(results: Iterable[Result]) -> str:
    every = list(results)
    messages, accepted = (sum(each.messages for each in every), sum(len(each.accepted) for each in every))
    passed, tried = sum(e.controls for e in every), sum(e.controls + len(e.held) for e in every)
    return (
        f"{messages:,} messages of {len(every)} classes: {accepted} accepted. "
        f"{passed:,} of {tried:,} controls passed with the check off."
    )
