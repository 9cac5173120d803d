"""A real Chromium for tests: found, or installed where that may be done, or said plainly why there is none.

`python -m tests.web.browser` does that alone; a test asks for the fixture `chromium` of `tests.web.conftest`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
INSTALL_S: Final = 200.0


class NoBrowserError(Exception):
    """Says why."""


def find() -> Path | None:
    """TAPESTRY_CHROMIUM, or the first of the usual names on the path."""
    named = os.environ.get("TAPESTRY_CHROMIUM")
    found = (shutil.which(name) for name in ([named] if named else NAMES))
    return next((Path(each) for each in found if each), None)


def find_or_install() -> Path:
    """Raises `NoBrowserError`."""
    found = find()
    if found is not None:
        return found
    if os.environ.get("TAPESTRY_CHROMIUM"):
        raise NoBrowserError("TAPESTRY_CHROMIUM names no program")
    if shutil.which("apt-get") is None:
        raise NoBrowserError("no Chromium on the path, and no apt-get to install it with")
    if os.geteuid() != 0:
        raise NoBrowserError("no Chromium on the path; as root: apt-get install chromium")
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "chromium"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise NoBrowserError(f"apt-get install chromium took more than {INSTALL_S:.0f} s") from None
    found = find()
    if found is None:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise NoBrowserError(f"apt-get install chromium failed: {last}")
    return found


@contextmanager
def started() -> Iterator[Browser]:
    """Raises `NoBrowserError`."""
    program = find_or_install()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as e:
        raise NoBrowserError(f"playwright is not installed: {e}") from e
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGS))
        try:
            yield browser
        finally:
            browser.close()


def main() -> int:
    try:
        print(find_or_install())
    except NoBrowserError as e:
        print(f"no browser: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
