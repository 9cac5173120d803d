"""How commands end badly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapestry.cli import failures
from tapestry.errors import Diverged, PlanError, TapestryError, Unreachable


@pytest.fixture(autouse=True)
def _own_log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_typed_error_says_what_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report(PlanError("a.toml is empty [0]", hint="fill it")) == PlanError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: a.toml is empty [0]\nhint: fill it\n"


def test_an_unexpected_exception_is_one_line_and_a_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        raise ValueError("first line\nsecond line")
    except ValueError as error:
        assert failures.report(error) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected ValueError: first line\nhint: the traceback is in ")
    assert "Traceback" not in err
    (log,) = (tmp_path / "state" / "tapestry").iterdir()
    assert "second line" in log.read_text()
    assert str(log) in err


@pytest.mark.parametrize("given", [["--invitation", "f00d"], ["--invitation=f00d"]])
def test_no_secret_stands_in_a_log_that_others_are_sent(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tapestry", "node", "join", "./node", *given, "--core", "URL"])
    failures.report(ValueError("x"))
    (log,) = (tmp_path / "state" / "tapestry").iterdir()
    text = log.read_text()
    assert "f00d" not in text and "--invitation" in text and "URL" in text
    assert log.stat().st_mode & 0o777 == 0o600
    assert "f00d" not in capsys.readouterr().err


def test_another_users_folder_is_no_fault_of_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Homes are for their own user alone, and an operator who calls as somebody else is told so."""
    assert failures.report(PermissionError(13, "Permission denied", "/srv/home/core.toml")) == 6
    assert capsys.readouterr().err == (
        f"error: /srv/home/core.toml: permission denied\nhint: {failures.OWNER_HINT}\n"
    )
    assert not (tmp_path / "state").exists()
    assert failures.report(PermissionError("of no file")) == 1  # the control


@pytest.mark.parametrize(
    ("module", "extra"), [("torch", "arithmetic"), ("fastapi.routing", "core"), ("matplotlib", "demo")]
)
def test_a_missing_extra_is_named(module: str, extra: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report(ModuleNotFoundError(f"No module named '{module}'", name=module)) == 2
    err = capsys.readouterr().err
    assert f"needs the package {module.partition('.')[0]}" in err
    assert f"pip install 'tapestry[{extra}]'" in err


def test_every_package_that_is_not_always_there_is_known() -> None:
    """Whatever our modules import at all: of the project's own dependencies, or of an extra by name."""
    import re
    import sys
    import tomllib

    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    always = {re.split(r"[^a-z0-9-]", each)[0].replace("-", "_") for each in project["dependencies"]}
    brought = {"pydantic_core"}  # by one of them
    imported = re.compile(r"^ *(?:import|from) (\w+)(?:[\w.]*)(?: import .*| as \w+)?$", re.MULTILINE)
    found: set[str] = set()
    for path in (root / "src").rglob("*.py"):
        found.update(imported.findall(path.read_text(encoding="utf-8")))
    ours = set(sys.stdlib_module_names) | {"tapestry", *always, *brought}
    assert "jinja2" in found and found - ours <= failures.EXTRAS.keys()


def test_every_extra_that_is_named_exists() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extras in failures.EXTRAS.values():
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    "error", [Unreachable("no answer", hint="start it"), Diverged("loss is nan"), TapestryError("x")]
)
def test_a_childs_error_is_read_from_its_log(error: TapestryError, tmp_path: Path) -> None:
    log = tmp_path / "log"
    body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    log.write_text("noise\n" + json.dumps(body) + "\nmore noise\n")
    found = failures.from_stderr(log)
    assert type(found) is type(error)
    assert found is not None
    assert (found.message, found.hint) == (error.message, error.hint)


def test_a_command_lines_own_error_is_read_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("started\nerror: port 1 is taken\nhint: give another\n")
    found = failures.from_stderr(log)
    assert found is not None
    assert (found.message, found.hint) == ("port 1 is taken", "give another")


@pytest.mark.parametrize("text", ["", "noise\n", "{}\n", '{"error": 1}\n', "{not json\n"])
def test_a_log_without_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    assert failures.from_stderr(tmp_path / "log") is None
    assert failures.from_stderr(tmp_path / "none") is None


def test_a_process_that_is_watched_says_its_error_as_json_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its parent ends with the same class, message, hint and exit code."""
    monkeypatch.setenv(failures.JSON_VARIABLE, "1")
    error = Unreachable("no answer", hint="start it")
    assert failures.report(error) == Unreachable.exit_code
    (tmp_path / "log").write_text(capsys.readouterr().err)
    found = failures.from_stderr(tmp_path / "log")
    assert type(found) is Unreachable
    assert (found.message, found.hint) == (error.message, error.hint)
