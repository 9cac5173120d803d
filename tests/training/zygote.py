"""Starts trainers fast: imports torch once and forks. Run as a process of its own by `support.Zygote`.

Reads a line of JSON `{"home": ..., "env": {...}}`, forks a trainer, prints its process id, waits for it,
prints its exit status, and reads the next line.
"""

from __future__ import annotations

import json
import os
import sys

import tapestry.training.trainer  # noqa: F401 - so that children need not
from tapestry.training.__main__ import main


def child(request: dict[str, object]) -> None:
    env = request["env"]
    assert isinstance(env, dict)
    os.environ.update(env)
    log = os.open(f"{request['home']}/trainer.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os._exit(main(["--home", str(request["home"])]))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
