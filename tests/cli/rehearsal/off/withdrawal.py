"""Neither trainer nor gate nor agent looks whether a dataset was withdrawn."""

from __future__ import annotations

from tapestry.node.held import Held
from tapestry.training.withdrawals import Withdrawals

Withdrawals.marks = lambda self: ()  # type: ignore[method-assign]
Held.covers = lambda self, manifest, delta=None: False  # type: ignore[method-assign]
