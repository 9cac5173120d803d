"""The glossary has words that are in use, in order, each with another page that uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "glossary.md"
ROW = re.compile(r"^\| \*\*([^*]+)\*\* \| (.+) \| \[[^\]]+\]\(([^)#]+)[^)]*\) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text(encoding="utf-8"))


def uses(word: str, text: str) -> bool:
    """Whether a text has the word, in singular or plural, over line breaks too."""
    stem = re.escape(word.removesuffix("y")) if word.endswith("y") else re.escape(word)
    plural = "(?:y|ies)" if word.endswith("y") else "s?"
    return re.search(rf"\b{stem}{plural}\b", re.sub(r"\s+", " ", text), re.IGNORECASE) is not None


def test_it_has_every_row_in_order() -> None:
    words = [word for word, _, _ in ROWS]
    assert len(words) == PAGE.read_text(encoding="utf-8").count("\n| **") > 50
    assert words == sorted(set(words))


@pytest.mark.parametrize(("word", "page"), [(word, page) for word, _, page in ROWS])
def test_every_word_is_used_where_it_leads(word: str, page: str) -> None:
    target = PAGE.parent / page
    assert uses(word, target.read_text(encoding="utf-8")), f"{page} does not speak of {word!r}"


def test_a_word_that_nobody_uses_is_found() -> None:
    assert not uses("quorum", "a quorate meeting")
    assert uses("bundle", "two\nbundles") and uses("registry", "both registries")
    assert uses("root key", "the root\nkey")
