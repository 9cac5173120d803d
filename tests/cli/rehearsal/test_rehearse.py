"""`tapestry rehearse` as a person runs it, and with defences switched off. Minutes: `make test-long`."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.rehearsal.support import Ended, left_running, rehearse, start

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
FAULTS = ("killed-core", "cut-link", "lying-core", "hostile-node", "revoked-dataset", "leaving")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """All of it, in its full form."""
    return rehearse(tmp_path_factory.mktemp("whole") / "rehearsal")


def test_every_fault_is_detected_and_nothing_is_lost(whole: Ended) -> None:
    assert whole.code == 0, whole.stderr[-6000:]
    report = whole.report
    assert report["passed"]
    assert [each["key"] for each in report["chapters"]] == [*FAULTS, "closing"]
    for chapter in report["chapters"]:
        assert chapter["failure"] is None
        assert all(check["held"] for check in chapter["checks"]), chapter
        assert chapter["records"]
        assert chapter["look"]
    for key in FAULTS:
        kinds = {check["kind"] for check in whole.chapter(key)["checks"]}
        assert kinds == {"detected", "recovered"}
    assert not left_running(whole.out)


def test_what_the_report_names_is_there(whole: Ended) -> None:
    for chapter in whole.report["chapters"]:
        for record in chapter["records"]:
            assert (whole.out / record["where"]).exists(), record
            if record["entry"] is not None:
                assert f'"sequence":{record["entry"]},"type"' in (whole.out / "ledger.jsonl").read_text()


def test_every_command_in_the_report_works_in_the_folder_that_is_kept(whole: Ended) -> None:
    looks = {look["command"] for chapter in whole.report["chapters"] for look in chapter["look"]}
    assert len(looks) >= 10
    for command in sorted(looks):
        words = shlex.split(command)
        if words[0] == "tapestry":
            words = [sys.executable, "-P", "-m", "tapestry.cli.main", *words[1:]]
        done = subprocess.run(words, cwd=whole.out, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout or done.stderr


def test_the_three_forms_say_the_same(whole: Ended) -> None:
    html, text = (whole.out / "report.html").read_text(), (whole.out / "report.md").read_text()
    for chapter in whole.report["chapters"]:
        assert chapter["title"] in text
        assert html.count(f'id="{chapter["key"]}"') == 1
    assert "NOT DETECTED" not in html + text
    assert not re.search(r"<script|src=|href=\"(?!#)|url\(", html)


@pytest.mark.parametrize(
    ("fault", "off"),
    [("hostile-node", "norm"), ("lying-core", "history"), ("revoked-dataset", "withdrawal")],
)
def test_a_defence_that_is_off_is_found_out(tmp_path: Path, fault: str, off: str) -> None:
    ended = rehearse(tmp_path / "rehearsal", "--quick", "--fault", fault, off=off)
    assert ended.code == 3, ended.stderr[-6000:]
    assert "NOT DETECTED" in ended.stderr
    assert not ended.report["passed"]
    failed = [check["what"] for check in ended.chapter(fault)["checks"] if not check["held"]]
    assert failed
    assert "Not every fault was detected" in (ended.out / "report.html").read_text()
    assert not left_running(ended.out)


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    out = tmp_path / "rehearsal"
    process = start(out, "--quick")
    deadline = time.monotonic() + 240
    while len(list(out.glob("nodes/*/status/agent.json"))) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert [line for line in left_running(out) if "tests.cli.rehearsal" not in line] == []
