"""A real Chromium for tests: found, or installed where that may be done, or said plainly why there is none.

`python -m tests.web.browser` does that alone, as `make test` does at first; a test asks for the fixture
`chromium` of `tests.web.conftest`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
INSTALL_S: Final = 200.0
"""For all of it."""
APT: Final = ("apt-get", "--quiet", "--yes", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1")
INSTALL: Final = (*APT, "install", "--no-install-recommends", "chromium")
UPDATE: Final = (*APT, "update")


class NoBrowserError(Exception):
    """Says why."""


def find() -> Path | None:
    """TAPESTRY_CHROMIUM, or the first of the usual names on the path."""
    named = os.environ.get("TAPESTRY_CHROMIUM")
    found = (shutil.which(name) for name in ([named] if named else NAMES))
    return next((Path(each) for each in found if each), None)


def find_or_install() -> Path:
    """Raises `NoBrowserError`; at once where TAPESTRY_NO_CHROMIUM says that it was tried already, and why."""
    if why := os.environ.get("TAPESTRY_NO_CHROMIUM"):
        raise NoBrowserError(why)
    found = find()
    if found is not None:
        return found
    if os.environ.get("TAPESTRY_CHROMIUM"):
        raise NoBrowserError("TAPESTRY_CHROMIUM names no program")
    if shutil.which("apt-get") is None:
        raise NoBrowserError("no Chromium on the path, and no apt-get to install it with")
    if os.geteuid() != 0:
        raise NoBrowserError("no Chromium on the path; as root: apt-get install chromium")
    until = time.monotonic() + INSTALL_S
    said = _done(INSTALL, until) and (_done(UPDATE, until) or _done(INSTALL, until))
    found = find()
    if found is None:
        raise NoBrowserError(f"apt-get install chromium failed: {said or 'it put none on the path'}")
    return found


def _done(command: Sequence[str], until: float) -> str:
    """The last that it says where it fails."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    left = max(1.0, until - time.monotonic())
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return f"it takes more than {INSTALL_S:.0f} s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


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
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
