"""A really full disk: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

FILL = """
import contextlib, sys
from pathlib import Path
disk = Path(sys.argv[1])
def fill():
    with contextlib.suppress(OSError), (disk / 'filler').open('wb', buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)): pass
def free(): (disk / 'filler').unlink()
"""
"""At the beginning of the code to be run: `disk`, and how to fill and to free it."""


def run_on_small_disk(tmp_path: Path, code: str, *, kib: int) -> str:
    """What this code prints; its first argument is the folder where the disk is mounted."""
    unshare = shutil.which("unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={kib}k none {disk}"
    prefix = [unshare or "unshare", "--mount", *(["--map-root-user"] if os.getuid() else []), "sh", "-c"]
    if unshare is None or subprocess.run([*prefix, mount], capture_output=True, check=False).returncode:
        pytest.skip("this kernel or container does not let the test mount a small tmpfs")
    done = subprocess.run(
        [*prefix, f'{mount} && exec "$@"', "sh", sys.executable, "-c", code, str(disk)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={k: v for k, v in os.environ.items() if k != warm.ADDRESS},  # that server does not see the disk
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
