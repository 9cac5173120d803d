"""The pages as a site: all of them in its navigation, all links hold, nothing is fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def listed(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    values = nav if isinstance(nav, list) else nav.values()
    return [path for each in values for path in listed(each)]


def test_the_navigation_has_every_page_once() -> None:
    nav = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert sorted(nav) == pages


class Resources(HTMLParser):
    """What a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("script", "img", "iframe"):
            self.found.append(given.get("src", ""))
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_nothing_of_it_is_fetched_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        reader = Resources()
        reader.feed(page.read_text(encoding="utf-8"))
        assert reader.found
        assert not [each for each in reader.found if re.match(r"(?:[a-z]+:)?//", each)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), (
            sheet
        )


def test_what_is_in_the_repository_alone_is_named_and_not_linked(site: Path) -> None:
    page = (site / "guides" / "plan-file.html").read_text(encoding="utf-8")
    assert "<code>examples/plan.toml</code> in the repository" in page
    assert "_outside" not in "".join(path.name for path in site.rglob("*"))


def test_tables_of_sentences_wrap(site: Path) -> None:
    assert "white-space: normal" in (site / "site.css").read_text(encoding="utf-8")
    page = (site / "security" / "threat-model.html").read_text(encoding="utf-8")
    assert page.index("css/theme.css") < page.index("../site.css"), "ours comes after the theme's"
