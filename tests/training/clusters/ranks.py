"""In the place of the Python that a job runs: one process that does to a home what ranks would.

What it does stands in the home's file `behave`:

    train     says that it trains, until SIGTERM (the default)
    crash     ends at once, without a word
    ill       says again and again, as torchrun starts it again, that the text is missing
    ended     says so once and ends
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

HOME = Path(sys.argv[sys.argv.index("--home") + 1])
STATUS = HOME / "status" / "trainer.json"


def say(phase: str, **more: object) -> None:
    value = {"role": "trainer", "pid": os.getppid(), "worker": os.getpid(), "phase": phase, **more}
    STATUS.with_suffix(".new").write_text(json.dumps({**value, "time": time.time()}))
    STATUS.with_suffix(".new").replace(STATUS)


def stop(*_: object) -> None:
    say("stopped")
    with (HOME / "stopped").open("a") as file:
        file.write(os.environ.get("SLURM_JOB_ID") or os.environ.get("JOB_UID", "?"))
        file.write("\n")
    sys.exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    behave = (HOME / "behave").read_text() if (HOME / "behave").exists() else "train"
    with (HOME / "ran").open("a") as file:
        file.write(json.dumps({"argv": sys.argv, "env": dict(os.environ)}) + "\n")
    if behave == "crash":
        sys.exit(1)
    error = {"code": "corpus", "message": "there is no text", "hint": "bring some"}
    say("starting")
    if behave == "ended":
        say("failed", error=error)
        sys.exit(1)
    say("training")
    while True:
        if behave == "ill":
            say("failed", error=error)
        time.sleep(0.3)


main()
