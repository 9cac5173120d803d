"""What a bug is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.sim.faults import Faults

if TYPE_CHECKING:
    from tests.sim.world import World

KILLS: Final = Faults(until_s=20.0, turns=0.1, crash=0.006, drop=0.03, lost_answer=0.03, delay_s=0.05)
POWER: Final = Faults(until_s=20.0, turns=0.1, crash=0.005, cuts_s=4.0, power=1.0, delay_s=0.05)
LOSSES: Final = Faults(until_s=30.0, turns=0.1, cuts_s=2.0, drop=0.2, lost_answer=0.1, delay_s=0.3)
LOST_ANSWERS: Final = Faults(
    until_s=30.0, turns=0.1, drop=0.1, lost_answer=0.25, delay_s=0.3, partition_s=3.0
)
ROT: Final = Faults(until_s=20.0, turns=0.1, rot_s=0.5, delay_s=0.05)

Places = dict[tuple[Any, str], Any]
"""Attributes that are replaced, by who has them and what they are called."""


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One defence less.

    Args:
        name: for the command line.
        breaks: what is not done any more, in words.
        places: gives what is replaced in a world.
        seed: one that finds it.
        faults: that it takes; drawn from the seed where None.
        hostile: needs a member that does not keep to the rules.
        lie: needs a core that lies so.
        loses: needs a core whose disk is lost.
        split: needs two histories.
        eight: told to eight members, not to five.
    """

    name: str
    breaks: str
    places: Callable[[World], Places]
    seed: int = 0
    faults: Faults | None = None
    hostile: bool | None = False
    lie: str = ""
    loses: bool = False
    split: bool = False
    eight: bool = False
