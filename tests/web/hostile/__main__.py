from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.web.hostile.campaign import run
from tests.web.hostile.classes import CLASSES
from tests.web.hostile.scene import staged


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.web.hostile")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, staged(Path(folder)) as scene:
        found = run(scene, given.requests, given.seed, told=print)
    print(
        f"{found.tries} hostile requests of {len(CLASSES)} classes: {len(found.did)} did something; "
        f"{len(CLASSES) - len(found.idle)} of {len(CLASSES)} classes do something with their check off"
    )
    return 1 if found.did or found.idle else 0


if __name__ == "__main__":
    sys.exit(main())
