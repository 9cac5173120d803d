"""`[torchrun …] -m tapestry.sovereign.work --home DIR`: a build, in a process without a network."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tapestry.errors import RankLost, TapestryError
from tapestry.host import processes
from tapestry.host.isolation import measure
from tapestry.sovereign import recipe as recipes
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.status import Teller

LOCK_S = 10.0
"""A predecessor that was killed may take a moment to go."""


def main(argv: list[str] | None = None) -> int:
    """Run a build; the exit code is that of the error tree."""
    parser = argparse.ArgumentParser(prog="tapestry.sovereign.work", description="Runs a build.")
    parser.add_argument("--home", type=Path, required=True, help="the build's folder")
    home = BuildHome(parser.parse_args(argv).home.absolute())
    processes.die_with_parent()
    lead = os.environ.get("RANK", "0") == "0"
    lock = home.lock if lead else None
    teller = None
    try:
        if lock is not None:
            lock.wait(LOCK_S)
        teller = Teller(home.status, lead=lead, isolation=measure())
        serve(home, teller)
    except RankLost as e:
        sys.stderr.write(f"{e.message}\n")
        return 1
    except TapestryError as e:
        if teller is not None:
            teller.fail(e)
        said = {"code": e.code, "message": e.message, "hint": e.hint}
        sys.stderr.write(json.dumps({"error": said}) + "\n")
        return e.exit_code
    finally:
        if lock is not None:
            lock.release()
    return 0


def serve(home: BuildHome, teller: Teller) -> None:
    """Everything from the import of torch on."""
    recipe, data = recipes.read(home.recipe)
    teller.update(stages=len(recipe.stage), durable=True)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda given, frame: asked.append(given))
    from tapestry.sovereign.stages import Build, Stopped
    from tapestry.training.island import Island
    from tapestry.training.machine import configure
    from tapestry.training.settings import Training

    machine: Any = recipe.machine
    configure(machine.threads)
    island = Island.join(Training(corpus=".", device=machine.device, processes=machine.processes))
    build = Build(home, (recipe, data), island, teller, lambda: bool(asked))
    try:
        with island.translated():
            build.run()
    except Stopped:
        teller.update(phase="stopped", seconds_left=None, durable=True)


if __name__ == "__main__":
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stderr.flush()
        os._exit(code)  # gloo's threads may abort a process that ends the usual way
    sys.exit(code)
