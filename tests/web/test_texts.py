"""Every language says everything, and nothing is said nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tapestry.web
from tapestry.errors import SettingsError
from tapestry.web import texts
from tapestry.web.texts import FIRST, Texts

HOME = Path(tapestry.web.__file__).parent
SOURCES = "\n".join(
    path.read_text()
    for pattern in ("templates/**/*.html", "**/*.py", "static/*.js")
    for path in sorted(HOME.glob(pattern))
)
QUOTED = re.compile(r"""["']([a-z][a-z0-9-]*(?:\.[a-z0-9-]+)*\.?)["'{]""")
BEGUN = re.compile(r"""["']([a-z][a-z0-9-]*\.(?:[a-z0-9-]+\.)*[a-z]?)(?:["']|\{)""")


def test_every_language_has_every_text_with_the_same_values() -> None:
    loaded = Texts.load()
    assert loaded.languages == ("en", "fr")
    for catalog in loaded.catalogs.values():
        assert set(catalog.texts) == set(loaded.catalogs[FIRST].texts)


def test_a_language_that_lacks_one_is_refused() -> None:
    whole = Texts.load().catalogs
    for changed in ({"run.lead": ""}, {"run.step": "{step}"}):
        lacking = {k: v for k, v in whole["fr"].texts.items() if k not in changed or changed[k]} | {
            k: v for k, v in changed.items() if v
        }
        with pytest.raises(SettingsError):
            texts._check({"en": whole["en"], "fr": texts.Catalog("fr", lacking)})
    texts._check(whole)


def test_no_text_is_unused() -> None:
    """A key is used where it stands in a template or module, whole or but for its last words, which come from
    a value there."""
    said = set(QUOTED.findall(SOURCES))
    begun = set(BEGUN.findall(SOURCES))
    unused = []
    for key in Texts.load().catalogs[FIRST].texts:
        plain = re.sub(r"\.(one|other)$", "", key)
        if plain not in said and not any(_is(plain, each) for each in begun):
            unused.append(key)
    assert not unused


def _is(key: str, begun: str) -> bool:
    """One word follows, no more."""
    return key.startswith(begun) and "." not in key[len(begun) :]


def test_french_is_french() -> None:
    """The same words in both are names, symbols, or words that are the same."""
    both = Texts.load().catalogs
    same = {k for k, v in both["fr"].texts.items() if v == both["en"].texts[k] and len(v) > 14}
    assert same <= SAME, same - SAME


SAME = {"home.founded"}


@pytest.mark.parametrize(
    ("header", "best"),
    [
        ("fr", "fr"),
        ("", "en"),
        ("de;q=1, fr;q=0.1", "fr"),
        ("fr;q=0", "en"),
        ("x" * 10_000, "en"),
        (";;,,=", "en"),
    ],
)
def test_the_language_that_is_asked_for(header: str, best: str) -> None:
    assert Texts.load().best(header) == best


def test_counts_are_said_as_each_language_counts() -> None:
    both = Texts.load().catalogs
    assert both["en"].counted("run.merges", 0) == "0 merges"
    assert both["fr"].counted("run.merges", 0) == "0 fusion"
    assert both["en"].counted("run.merges", 1) == "1 merge"
