"""Every target of make that a page names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def named(text: str) -> set[str]:
    """Of a page: in backquotes, over a line break too, or at the beginning of a line of code."""
    inline = re.findall(r"`make\s+([a-z-]+)", text)
    code = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return {*inline, *re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)}


def test_every_target_on_a_page_is_there() -> None:
    for page in PAGES:
        missing = named(page.read_text(encoding="utf-8")) - TARGETS
        assert not missing, f"{page.relative_to(ROOT)} names make {sorted(missing)}"


def test_what_is_named_is_found() -> None:
    assert named("run `make\nsite`\n```\nmake demo\n```\nmake nothing") == {"site", "demo"}
