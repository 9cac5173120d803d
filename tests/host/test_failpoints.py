"""Failpoints: every name is real, every call is named, and an armed one kills."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tapestry
from tapestry.errors import SettingsError
from tapestry.host import failpoints

SOURCE = Path(tapestry.__file__).parent


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from tapestry.host import failpoints\n{code}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def reached_in_source() -> dict[str, list[str]]:
    """Literal names given to `reach`, with the files that do."""
    found: dict[str, list[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
            if name == "reach":
                assert len(call.args) == 1 and isinstance(call.args[0], ast.Constant), (
                    f"{path}:{call.lineno}: reach() takes one literal name"
                )
                found.setdefault(call.args[0].value, []).append(str(path))
    return found


def test_source_reaches_exactly_the_names_there_are() -> None:
    reached = reached_in_source()
    assert set(reached) - set(failpoints.NAMES) == set(), "reached, but not in NAMES"
    assert set(failpoints.NAMES) - set(reached) == set(), "in NAMES, but nothing reaches them"


def test_every_name_says_what_is_true_there() -> None:
    for name, meaning in failpoints.NAMES.items():
        assert name.islower() and " " not in name and ":" not in name
        assert len(meaning) > 20


def test_an_unknown_name_is_an_error_when_reached() -> None:
    failpoints.reach("trainer.step")
    with pytest.raises(ValueError, match=r"trainer\.stop"):
        failpoints.reach("trainer.stop")


def test_nothing_armed_goes_on() -> None:
    assert run("failpoints.reach('trainer.step'); print(failpoints.armed())").stdout == "()\n"


def test_an_armed_point_kills_at_its_first_reach_and_no_other_does() -> None:
    done = run(
        "failpoints.reach('trainer.delta.written'); print('before', flush=True)\n"
        "failpoints.reach('trainer.step'); print('after', flush=True)",
        TAPESTRY_FAILPOINT="trainer.step",
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "before\n"


def test_the_nth_reach_kills() -> None:
    code = "for i in range(5):\n  failpoints.reach('trainer.step'); print(i, flush=True)"
    done = run(code, TAPESTRY_FAILPOINT="trainer.step:3")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "0\n1\n")
    assert run(code, TAPESTRY_FAILPOINT="trainer.step:6").returncode == 0


def test_only_one_process_dies_where_once_is_set(tmp_path: Path) -> None:
    once = tmp_path / "died"
    variables = {"TAPESTRY_FAILPOINT": "trainer.step:2", "TAPESTRY_FAILPOINT_ONCE": str(once)}
    code = "for i in range(4):\n  failpoints.reach('trainer.step')"
    assert run(code, **variables).returncode == -signal.SIGKILL
    assert once.exists()
    assert run(code, **variables).returncode == 0


def test_a_point_reached_from_many_threads_counts_each_reach() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "  list(pool.map(lambda _: failpoints.reach('trainer.step'), range(400)))\n"
        "print(failpoints._armed['trainer.step'].remaining)"
    )
    assert run(code, TAPESTRY_FAILPOINT="trainer.step:401").stdout == "1\n"


@pytest.mark.parametrize("value", ["no.such", "trainer.step:0", "trainer.step:x", "trainer.step:", ":3"])
def test_a_wrong_setting_is_a_typed_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", None)
    monkeypatch.setenv(failpoints.VARIABLE, value)
    with pytest.raises(SettingsError):
        failpoints.reach("trainer.step")


def test_several_points_each_kill_once(tmp_path: Path) -> None:
    code = "failpoints.reach('trainer.inner.saved'); failpoints.reach('trainer.step'); print('through')"
    armed = {
        "TAPESTRY_FAILPOINT": "trainer.step,trainer.inner.saved",
        "TAPESTRY_FAILPOINT_ONCE": str(tmp_path / "once"),
    }
    codes = [run(code, **armed).returncode for _ in range(3)]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert {p.name for p in tmp_path.iterdir()} == {"once.trainer.step", "once.trainer.inner.saved"}
