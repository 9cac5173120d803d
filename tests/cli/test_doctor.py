"""What the doctor finds, and that each finding that is not fine says what mends it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from tapestry.cli import doctor
from tapestry.cli.checkup import machine
from tapestry.cli.checkup.finding import Finding
from tests.cli.conftest import Call

Usage = namedtuple("Usage", "total used free")


def test_this_machine_can_run_the_tests(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("doctor", "--home", tmp_path, "--json")
    value = json.loads(out)
    checks = {finding["check"] for finding in value["findings"]}
    assert checks == {
        "python", "packages", "torch", "disk", "clock", "network namespace", "landlock",
        "port", "limits"
    }  # fmt: skip
    assert value["fit"] == all(f["verdict"] != "fail" for f in value["findings"])
    assert code == (0 if value["fit"] else doctor.EXIT_UNFIT)
    for finding in value["findings"]:
        assert finding["found"]
        assert (finding["mend"] is None) == (finding["verdict"] == "ok"), finding
    assert not list(tmp_path.iterdir()), "the doctor left something behind"


def test_the_table_has_each_check_and_the_mends_go_to_stderr(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Finding(check="disk", verdict="fail", found="1 B free", mend="buy a disk"),
        Finding(check="clock", verdict="ok", found="noon"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda *_: found)
    code, out, err = call("doctor")
    assert code == doctor.EXIT_UNFIT
    assert "1 B free" in out
    assert err == "fail: disk: buy a disk\n"


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = machine.check_port(taken.getsockname()[1])
    assert finding.verdict == "warn"
    assert finding.mend is not None
    assert "--port" in finding.mend


@pytest.mark.parametrize(("free", "verdict"), [(10**6, "fail"), (10**10, "warn"), (10**12, "ok")])
def test_free_space(free: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, free))
    monkeypatch.setattr(machine, "SLOW_SYNC_S", 60.0)
    assert machine.check_disk(tmp_path / "not" / "made" / "yet").verdict == verdict


def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, 10**12))
    monkeypatch.setattr(machine, "SLOW_SYNC_S", 0.0)
    assert machine.check_disk(tmp_path).verdict == "warn"


def test_a_folder_nobody_may_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    finding = machine.check_disk(tmp_path)
    assert (finding.verdict, "Permission denied" in finding.found) == ("fail", True)


def test_a_clock_in_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert machine.check_clock().verdict == "fail"


def test_a_machine_without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, stdout="process\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    finding = machine.check_isolation()
    assert finding.verdict == "warn"
    assert finding.mend is not None
    assert "namespace" in finding.mend


def test_a_light_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = machine.check_torch()
    assert (finding.verdict, finding.found) == ("fail", "not installed")


@pytest.mark.parametrize(("module", "extra"), [("jinja2", "web"), ("prometheus_client", "metrics")])
def test_an_extra_that_is_not_whole_is_named_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    """The control: with all there, nothing is said."""
    before = machine.check_packages()
    assert (before.verdict, before.mend) == ("ok", None) and extra in before.found
    monkeypatch.setitem(sys.modules, module, None)
    finding = machine.check_packages()
    assert finding.verdict == "warn" and f"{extra} lacks {module}" in finding.found
    assert finding.mend is not None and f"pip install 'tapestry[{extra}]'" in finding.mend


def test_every_extra_is_looked_for() -> None:
    """Each package an extra names is a module the doctor and the error of a missing extra know."""
    import re
    import tomllib

    from tapestry.cli.failures import EXTRAS

    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in machine.EXTRA_MODULES.items():
        named = {re.split(r"[^A-Za-z0-9_-]", package)[0] for package in extras[extra]} - {"tapestry"}
        named = {package.replace("-", "_") for package in named}
        assert named == set(modules), extra
        assert named <= EXTRAS.keys()
