"""All classes, so many times each; and each with its check off."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.web.hostile.classes import CLASSES, Class
from tests.web.hostile.scene import Scene
from tests.web.hostile.switches import CHECKS


@dataclass
class Outcome:
    """
    Args:
        tries: with everything on.
        did: what those did, each with its class.
        idle: classes that did nothing with their check off.
    """

    tries: int = 0
    did: list[tuple[str, str]] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)


def run(
    scene: Scene,
    tries: int,
    seed: int,
    *,
    classes: Iterable[Class] = tuple(CLASSES),
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """At least so many tries, each class as often as any other."""
    found, classes = Outcome(), tuple(classes)
    rng = random.Random(seed)
    for _ in range(-(-tries // len(classes))):
        for each in classes:
            scene.fresh()
            found.tries += 1
            if (did := each.attempt(scene, rng)) is not None:
                found.did.append((each.name, did))
                told(f"{each.name}: {did}")
    for each in classes:
        off, _ = CHECKS[each.check]
        scene.fresh()
        with off(scene):
            did = next((done for _ in range(3) if (done := each.attempt(scene, rng)) is not None), None)
        if did is None:
            found.idle.append(each.name)
            told(f"{each.name}: with its check off it did nothing")
    return found
