from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapestry.cli import main
from tests.core.support import CoreUnderTest

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _plain_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No colour, lines that are not cut, and tracebacks in a folder of the test's own."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process: exit code, stdout, stderr."""

    def one(*arguments: object) -> tuple[int, str, str]:
        code = main.call([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return one


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreUnderTest]:
    """A core that is not started yet."""
    one = CoreUnderTest(tmp_path / "core")
    yield one
    one.close()
