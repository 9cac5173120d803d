"""Bugs on purpose: each takes one real defence out of the real code, and the simulator has to find it."""

from __future__ import annotations

from tests.sim.bugs.core import IN_CORE
from tests.sim.bugs.disk import ON_DISK
from tests.sim.bugs.kind import Bug
from tests.sim.bugs.ledger import IN_LEDGER
from tests.sim.bugs.node import AT_NODE

BUGS: dict[str, Bug] = {bug.name: bug for bug in (*IN_CORE, *AT_NODE, *IN_LEDGER, *ON_DISK)}

__all__ = ["BUGS", "Bug"]
