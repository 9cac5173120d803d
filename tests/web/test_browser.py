"""A browser for tests is found, or installed where that may be done, or it is said why there is none."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.web import browser

NO_PACKAGES = "E: Unable to locate package chromium"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that is on the path, for root."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TAPESTRY_CHROMIUM", raising=False)
    monkeypatch.delenv("TAPESTRY_NO_CHROMIUM", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def apt(path: Path, *, reaches: bool) -> None:
    """One that knows no packages before `update`; which fails where it reaches no archive."""
    update = f': > "{path}/lists"' if reaches else "echo 'E: Could not connect' >&2; exit 100"
    lines = [
        "#!/bin/sh",
        f'echo "$*" >> "{path}/asked"',
        f'case "$*" in *update*) {update}; exit 0;; esac',
        f'test -e "{path}/lists" || {{ echo "{NO_PACKAGES}" >&2; exit 100; }}',
        f'printf "#!/bin/sh\\n" > "{path}/chromium"; /bin/chmod 755 "{path}/chromium"',
    ]
    (path / "apt-get").write_text("\n".join(lines) + "\n")
    (path / "apt-get").chmod(0o755)


def test_it_is_installed_where_no_packages_were_known(path: Path) -> None:
    apt(path, reaches=True)
    assert browser.find_or_install() == path / "chromium"
    asked = [
        re.sub(r"^.* (update|install)\b.*$", r"\1", each) for each in (path / "asked").read_text().split("\n")
    ]
    assert asked == ["install", "update", "install", ""]
    assert browser.find_or_install() == path / "chromium"
    assert len((path / "asked").read_text().splitlines()) == 3, "it is there now"


def test_why_there_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def why() -> str:
        with pytest.raises(browser.NoBrowserError) as raised:
            browser.find_or_install()
        return str(raised.value)

    assert "no apt-get" in why()
    apt(path, reaches=False)
    assert why() == "apt-get install chromium failed: E: Could not connect"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "as root: apt-get install chromium" in why()
    monkeypatch.setenv("TAPESTRY_CHROMIUM", "nowhere")
    assert "names no program" in why()
    monkeypatch.setenv("TAPESTRY_NO_CHROMIUM", "it was looked for before")
    assert why() == "it was looked for before"
