"""The list of attacks is that of the tests, in print too."""

from __future__ import annotations

import importlib
import inspect

from tests.attacks import catalog


def test_every_test_of_an_attack_is_listed_and_every_attack_has_its_test() -> None:
    listed = {each.test for each in catalog.load().values()}
    tests = set()
    for path in catalog.HERE.glob("test_*.py"):
        if path.stem == "test_catalog":
            continue
        module = importlib.import_module(f"tests.attacks.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and function.__module__ == module.__name__:
                tests.add(f"{path.name}::{name}")
    assert listed == tests


def test_there_are_at_least_fifty_classes() -> None:
    found = catalog.load().values()
    assert len(found) >= 50
    assert len({each.who for each in found}) >= 7
    assert len({each.tries for each in found}) == len(found), "two rows try the same"


def test_the_page_is_the_catalogue() -> None:
    """Written by: python -m tests.attacks.catalog > docs/security/attacks.md"""
    assert catalog.PAGE.read_text(encoding="utf-8") == catalog.page()
