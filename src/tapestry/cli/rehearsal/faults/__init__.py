"""The faults, one a module, in the order in which they are rehearsed."""

from __future__ import annotations

from typing import Final

from tapestry.cli.rehearsal.fault import Fault
from tapestry.cli.rehearsal.faults import (
    cut_link,
    hostile_node,
    killed_core,
    leaving,
    lying_core,
    revoked_dataset,
)

FAULTS: Final[tuple[Fault, ...]] = (
    killed_core.FAULT,
    cut_link.FAULT,
    lying_core.FAULT,
    hostile_node.FAULT,
    revoked_dataset.FAULT,
    leaving.FAULT,
)
