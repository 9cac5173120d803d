"""Some walks, and some rules taken out; `make life` walks a hundred thousand steps and takes out each."""

from __future__ import annotations

import pytest

from tests.governance.life import walk


def test_no_rule_of_the_charter_is_broken() -> None:
    walk.walk(examples=15)


@pytest.mark.parametrize("name", ["one yes is enough", "nobody has contributed", "late ballots count"])
def test_a_rule_that_is_taken_out_is_noticed(name: str) -> None:
    assert walk.found(name)
