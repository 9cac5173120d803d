"""The demo's children: started, watched, stopped; a failure keeps its type."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.cli.demo.children import Children
from tapestry.errors import ProcessDied, SettingsError
from tapestry.host.processes import pid_alive


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    one = Children(tmp_path / "logs")
    yield one
    one.stop()


def until_it_fails(children: Children) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children.check()
        time.sleep(0.02)


def test_a_typed_error_of_a_child_is_raised_as_what_it_is(children: Children, tmp_path: Path) -> None:
    children.start("core", "core", "serve", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"core: .*nowhere is not a core's home") as caught:
        until_it_fails(children)
    assert caught.value.hint == "make one with: tapestry core init"


def test_an_old_error_in_the_log_is_not_taken_for_a_new_one(children: Children, tmp_path: Path) -> None:
    log = children.log("core")
    log.parent.mkdir()
    log.write_text('{"error": {"code": "disk-full", "message": "of last week", "hint": null}}\n')
    children.start("core", "core", "serve", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="nowhere"):
        until_it_fails(children)


def test_a_killed_child_names_its_log(children: Children, tmp_path: Path) -> None:
    children.start("core", "core", "serve", str(tmp_path))
    (child, _) = children._children["core"]
    os.kill(child.pid, 9)
    with pytest.raises(ProcessDied, match="core ended with signal 9") as caught:
        until_it_fails(children)
    assert caught.value.hint is not None
    assert str(children.log("core")) in caught.value.hint


def test_a_child_may_end_well_only_where_it_was_told_to(children: Children) -> None:
    children.start("doctor", "--version")
    with pytest.raises(ProcessDied, match="exit code 0"):
        until_it_fails(children)


def test_stopping_leaves_nothing(children: Children, tmp_path: Path) -> None:
    from tapestry.core import operator, settings

    operator.init(tmp_path / "c", settings.make(port=0))
    children.start("core", "core", "serve", str(tmp_path / "c"))
    (child, _) = children._children["core"]
    deadline = time.monotonic() + 30
    while operator.serving_url(tmp_path / "c") is None:
        assert time.monotonic() < deadline
        children.check()
        time.sleep(0.05)
    children.stop()
    assert not pid_alive(child.pid)
    assert operator.serving_url(tmp_path / "c") is None
    children.stop()
