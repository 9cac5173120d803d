"""`[torchrun --standalone --nproc-per-node RANKS] -m tapestry.training --home NODE_HOME`."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from pathlib import Path

from tapestry.errors import RankLost, TapestryError
from tapestry.host import processes
from tapestry.host.files import Lock
from tapestry.training import launcher
from tapestry.training.home import Status, TrainerHome, log
from tapestry.training.settings import TrainerSettings

LOCK_S = 10.0
ANOTHER_ENDED = 1
"""Exit code of a rank that lost another one: what to say is that one's, and all start again."""


def main(argv: list[str] | None = None) -> int:
    """Serve a node's home; the exit code is that of the error tree."""
    parser = argparse.ArgumentParser(prog="tapestry.training", description="The trainer of a node.")
    parser.add_argument("--home", type=Path, required=True, help="the node's home")
    root = parser.parse_args(argv).home.absolute()
    processes.die_with_parent()
    status = Status(TrainerHome(root), rank=int(os.environ.get("RANK", "0")))
    try:
        settings = TrainerSettings.load(root)
        for name, value in launcher.environment(settings.threads).items():
            if value is not None:
                os.environ[name] = value
        serve(root, settings, status)
    except RankLost as e:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if (told := status.told_by_another()) is None:
            log("rank lost", reason=e.message)
            return ANOTHER_ENDED
        status.fail(told)
        return told.exit_code
    except TapestryError as e:
        status.fail(e)
        return e.exit_code
    return 0


def serve(root: Path, settings: TrainerSettings, status: Status) -> None:
    """Everything from the import of torch on."""
    from tapestry.training.island import Island
    from tapestry.training.machine import configure
    from tapestry.training.trainer import Stopped, Trainer

    home = TrainerHome(root)
    configure(settings.threads)
    island = Island.join(settings)
    lock = None
    try:
        if island.lead:
            home.make_folders()
            lock = held(home)
            home.clean()
        with island.translated():
            status.begin(island.share(secrets.token_hex(8).encode()).decode())
            trainer = Trainer(home, settings, status, island)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, trainer.stop)
            trainer.serve()
    except Stopped:
        if told := status.told_by_another(patience_s=0):
            raise told from None
        status.update(phase="stopped")
    finally:
        if lock is not None:
            lock.release()


def held(home: TrainerHome) -> Lock:
    """The spool's lock; a predecessor that was killed may take a moment to go. Raises `Busy`."""
    lock = Lock(home.lock)
    lock.wait(LOCK_S)
    return lock


if __name__ == "__main__":
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stderr.flush()
        os._exit(code)  # gloo's threads may abort a process that ends the usual way
    sys.exit(code)
