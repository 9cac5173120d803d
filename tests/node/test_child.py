"""How a child of a node ends when it is told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import io, os, signal, sys, time
from pathlib import Path
from tapestry.node import child
from tapestry.node.home import Home

class Answer(io.BufferedIOBase):  # as an HTTP answer is: closed by its finalizer, in Python
    def close(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

def body(status):
    answer = Answer()
    del answer
    print("went on", flush=True)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        {check}
        time.sleep(0.01)
    os._exit(9)

home = Home(Path(sys.argv[1]))
home.make_folders()
child.run(home, "agent", body)
"""


@pytest.mark.parametrize(("check", "code"), [("child.go_on()", 0), ("pass", 9)])
def test_a_signal_that_meets_a_finalizer_is_not_lost(tmp_path: Path, check: str, code: int) -> None:
    """The second is the positive control: without the check in the loop nobody hears of it."""
    program = PROGRAM.replace("{check}", check)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "went on\n"), done.stderr
