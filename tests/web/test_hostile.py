"""Hostile requests: each class once, and once with its check off. `make hostile-web` sends a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.web.hostile.campaign import run
from tests.web.hostile.classes import CLASSES
from tests.web.hostile.page import PAGE, written
from tests.web.hostile.scene import staged
from tests.web.hostile.switches import CHECKS


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_class_does_anything_and_each_does_with_its_check_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("CRITICAL"), staged(tmp_path) as scene:
        found = run(scene, len(CLASSES), seed=1)
    assert found.did == []
    assert found.idle == []


def test_every_check_is_met_by_a_class_and_they_are_many() -> None:
    assert {each.check for each in CLASSES} == set(CHECKS)
    assert len(CLASSES) >= 50


def test_the_page_tells_of_all_of_them() -> None:
    assert PAGE.read_text("utf-8") == written()
