"""`python -m tapestry.training.clusters --home HOME`: the watcher of a node's job."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Final

from tapestry.errors import TapestryError
from tapestry.host import files, processes
from tapestry.training.clusters import settings
from tapestry.training.clusters.opening import open_cluster
from tapestry.training.clusters.report import Report
from tapestry.training.clusters.watcher import Watcher

LOCK_S: Final = 10.0


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when told to stop, that of the error tree after a typed error, 1 when the job ended."""
    parser = argparse.ArgumentParser(
        prog="tapestry.training.clusters", description="Runs a node's ranks as a job of a cluster."
    )
    parser.add_argument("--home", type=Path, required=True, help="the node's home")
    home = parser.parse_args(argv).home.absolute()
    if not home.is_dir():
        parser.error(f"there is no folder {home}")
    processes.die_with_parent()
    report = Report(home)
    lock = files.Lock(home / "status" / ".launcher.lock")
    try:
        given = settings.load(home)
        lock.wait(LOCK_S)  # a predecessor that was killed may take a moment to go
        watcher = Watcher(open_cluster(home, given), home, report)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: watcher.stop())
        return watcher.run()
    except TapestryError as e:
        report.fail(e)
        return e.exit_code
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main())
