"""Every relative link of a page leads somewhere, and every page of docs/ can be reached from its index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"^[a-z]+:")


def links(page: Path) -> list[tuple[Path, str]]:
    """Path and anchor of each relative link."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = [target for target in LINK.findall(text) if not OUTSIDE.match(target)]
    split = [target.partition("#") for target in found]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in split]


def anchors(page: Path) -> set[str]:
    """As code hosts make them of headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.is_relative_to(ROOT), f"{target} is outside the repository"
        assert target.exists(), f"{page.name} links to {target.relative_to(ROOT)}, which is not there"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to #{anchor} of {target.name}"


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    reached, new = {index}, [index]
    while new:
        for target, _ in links(new.pop()):
            if target.suffix == ".md" and target not in reached:
                reached.add(target)
                new.append(target)
    assert set((ROOT / "docs").rglob("*.md")) <= reached


def test_every_image_is_shown() -> None:
    shown = {target for page in PAGES for target, _ in links(page)}
    images = {path for path in (ROOT / "docs" / "images").rglob("*") if path.is_file()}
    assert images <= shown


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120
