"""A rehearsal whose processes are forked from one that has its modules loaded, with defences switched off.

    python -m tests.cli.rehearsal.played OFF[,OFF...] OPTIONS OF tapestry rehearse...

`-` for none. Every process but this one, which only makes the faults and looks, has the switch.
"""

from __future__ import annotations

import os
import sys

from tests import warm

LOADED = (
    "tapestry.cli.main",
    "tapestry.cli.rehearsal.run",
    "tapestry.core.backup",
    "tapestry.core.serve",
    "tapestry.training.trainer",
    "transformers.models.llama.modeling_llama",
)


def main(off: str, *options: str) -> int:
    os.environ.pop(warm.ADDRESS, None)
    switches = [] if off == "-" else [f"tests.cli.rehearsal.off.{name}" for name in off.split(",")]
    warm.PRELOAD.extend([*LOADED, *switches])
    warm.address()
    warm.spawns()
    from tapestry.cli import main as commands

    return commands.call(["rehearse", *options])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
