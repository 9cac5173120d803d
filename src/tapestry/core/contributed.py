"""What members have contributed by the newest merges, as the event log has it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sqlalchemy.engine import Connection

from tapestry.governance.contributions import amounts
from tapestry.storage import events as log


def contributed(connection: Connection, measure: str, window: int, since: int) -> Counter[str]:
    """By member: in the last `window` merges of all runs that were committed behind entry `since`."""
    waiting: set[tuple[str, int, int]] = set()
    merges: list[Counter[str]] = []
    committed = 0
    for record in log.newest(connection, "round-closed", "round-committed"):
        if (record.sequence <= since or committed == window) and not waiting:
            break
        # The core's own log, whose entries may be long: a validated event takes ten times as long to read.
        body: dict[str, Any] = json.loads(record.entry)["body"]
        at = (record.scope, body["round"], body["fragment"])
        if record.type == "round-committed":
            if record.sequence > since and committed < window:
                committed += 1
                waiting.add(at)
        elif at in waiting:
            waiting.remove(at)
            weights: Counter[str] = Counter()
            for each in body["merged"]:
                weights[each["member"]] += each["weight"]
            merges.append(weights)
    return amounts(measure, merges)
