"""What a dashboard knows of a consortium at one moment. Pages read nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tapestry.governance.charter import Charter
from tapestry.governance.state import Assembly
from tapestry.protocol.derivative import DerivativeRecord
from tapestry.protocol.views import Hello, RunView
from tapestry.rounds.state import RunState
from tapestry.web.source import Listing
from tapestry.web.story import Story


@dataclass(frozen=True, kw_only=True)
class Known:
    """Never changed: the follower puts another in its place.

    Args:
        hello: who the core is; None until it has answered once.
        size: entries of the ledger that were verified here.
        head: entries the core had when it was asked last.
        checkpoint: the core's signed note over `size` entries, verified; "" while there is none.
        assembly: members, keys and what they have decided, as the ledger gives it.
        shown_charter, shown_members: the charter and who is a member, where the ledger may not be read.
        states: each run as the ledger gives it.
        views: what the core says of runs, with the progress of nodes.
        stories: what each run's ledger tells.
        listings: what members publish of their datasets; None where that is not shown.
        derivatives: what owners show of theirs.
        closed: the core does not show its ledger to this dashboard.
        heard_at: the core's time in its last answer.
        heard_s: when that was, by a clock that only counts on (`time.monotonic`).
        trouble: why the last question was not answered; None where it was.
        broken: what does not hold in the core's ledger; nothing is taken from it any more.
    """

    hello: Hello | None = None
    size: int = 0
    head: int = 0
    checkpoint: str = ""
    assembly: Assembly = field(default_factory=Assembly)
    shown_charter: Charter | None = None
    shown_members: tuple[str, ...] = ()
    states: Mapping[str, RunState] = field(default_factory=dict)
    views: Mapping[str, RunView] = field(default_factory=dict)
    stories: Mapping[str, Story] = field(default_factory=dict)
    listings: tuple[Listing, ...] | None = ()
    derivatives: tuple[DerivativeRecord, ...] = ()
    closed: bool = False
    heard_at: str = ""
    heard_s: float = 0.0
    trouble: str | None = None
    broken: str | None = None

    @property
    def charter(self) -> Charter | None:
        """In force, as far as it is known."""
        return self.assembly.governance.charter or self.shown_charter

    @property
    def members(self) -> tuple[str, ...]:
        """Who is a member, as far as it is known."""
        return self.assembly.members() or self.shown_members

    @property
    def catching_up(self) -> bool:
        """Whether the ledger is still being read for the first time."""
        return self.size + 1000 < self.head
