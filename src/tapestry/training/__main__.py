"""`torchrun --standalone --nproc-per-node 1 -m tapestry.training --home NODE_HOME`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from tapestry.errors import Busy, SettingsError, TapestryError
from tapestry.host import processes
from tapestry.host.files import Lock
from tapestry.training import launcher
from tapestry.training.home import Status, TrainerHome
from tapestry.training.settings import TrainerSettings

LOCK_S = 10.0


def main(argv: list[str] | None = None) -> int:
    """Serve a node's home; the exit code is that of the error tree."""
    parser = argparse.ArgumentParser(prog="tapestry.training", description="The trainer of a node.")
    parser.add_argument("--home", type=Path, required=True, help="the node's home")
    root = parser.parse_args(argv).home.absolute()
    processes.die_with_parent()
    status = Status(TrainerHome(root))
    try:
        settings = TrainerSettings.load(root)
        if int(os.environ.get("WORLD_SIZE", "1")) != 1:
            raise SettingsError("this release trains with one process a node", hint="--nproc-per-node 1")
        for name, value in launcher.environment(settings.threads).items():
            if value is not None:
                os.environ[name] = value
        serve(root, settings, status)
    except TapestryError as e:
        status.fail(e)
        return e.exit_code
    return 0


def serve(root: Path, settings: TrainerSettings, status: Status) -> None:
    """Everything from the import of torch on."""
    from tapestry.training.machine import configure
    from tapestry.training.trainer import Stopped, Trainer

    home = TrainerHome(root)
    home.make_folders()
    configure(settings.threads)
    lock = held(home)
    try:
        home.clean()
        trainer = Trainer(home, settings, status)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, trainer.stop)
        trainer.serve()
    except Stopped:
        status.update(phase="stopped")
    finally:
        lock.release()


def held(home: TrainerHome) -> Lock:
    """The spool's lock; a predecessor that was killed may take a moment to go. Raises `Busy`."""
    lock, deadline = Lock(home.spool), time.monotonic() + LOCK_S
    while True:
        try:
            lock.acquire()
            return lock
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
