"""What a dashboard writes down: JSON lines on stderr, without anything about who looked."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def say(event: str, **fields: str | int | float) -> None:
    """One line."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    sys.stderr.write(json.dumps({"at": at, "event": event, **fields}, ensure_ascii=False) + "\n")
    sys.stderr.flush()
