"""The demo as a person runs it: killed, interrupted, called again. Minutes, so `make test-long` runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli.main import INTERRUPTED

ROUNDS, STEPS = 2, 2
WAIT_S = 200.0

pytestmark = pytest.mark.long


class Demo:
    """`tapestry demo` with one `--out`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "a-demo-of-a-test"
        self.began = 0.0
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *more: object) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-P", "-m", "tapestry.cli.main", "demo", "--json", "--out", self.out),
            *("--nodes", 2, "--rounds", ROUNDS, "--steps", STEPS, *more),
        ]
        self.began = time.time()
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.processes.append(process)
        return process

    def run(self, *more: object) -> tuple[int, str, str]:
        code = self.start(*more).wait(WAIT_S)
        return code, (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def until_trainers_run(self, process: subprocess.Popen[bytes]) -> None:
        """Not those of an earlier call, whose status may still lie there."""
        deadline = time.monotonic() + WAIT_S
        while sum(p.stat().st_mtime > self.began for p in self.out.glob("nodes/*/status/trainer.json")) < 2:
            assert process.poll() is None, (self.folder / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def alive(self) -> list[str]:
        """Command lines of processes that have to do with this demo, itself left out."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and int(entry.name) not in [
                    os.getpid(),
                    *(p.pid for p in self.processes),
                ]:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if str(self.out) in line:
                        found.append(line)
        return found

    def until_nothing_is_left(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    one = Demo(tmp_path)
    yield one
    for process in one.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def only_object(text: str) -> dict[str, Any]:
    value, end = json.JSONDecoder().raw_decode(text)
    assert not text[end:].strip(), "more than one object on stdout"
    assert isinstance(value, dict)
    return value


def check_result(demo: Demo, value: dict[str, Any]) -> None:
    assert (value["run"], value["rounds"]) == ("demo", ROUNDS)
    assert Path(value["export"], "model.safetensors").is_file()
    assert Path(value["plot"]).read_bytes().startswith(b"\x89PNG")
    assert len(value["members"]) == 2
    assert (value["ledger"]["merges"], value["ledger"]["contributions"]) == (ROUNDS, 2 * ROUNDS)
    assert value["ledger"]["merges_repeated"] == ROUNDS
    for member in value["members"]:
        assert member["bits_per_byte_base"] < member["bits_per_byte_start"]
        assert member["bits_per_byte_bigram"] > 0
        assert member["tokens"] > 0
        delta_bytes = 4 * value["parameters"]
        assert member["bytes_sent"] > ROUNDS * delta_bytes, "what an earlier call sent is not counted"
        assert member["bytes_received"] > ROUNDS * delta_bytes


def test_killed_and_interrupted_it_goes_on(demo: Demo) -> None:
    killed = demo.start()
    demo.until_trainers_run(killed)
    assert len(demo.alive()) > 4
    killed.kill()
    killed.wait()
    demo.until_nothing_is_left(within_s=10)

    interrupted = demo.start()
    demo.until_trainers_run(interrupted)
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(40) == INTERRUPTED
    demo.until_nothing_is_left(within_s=0)
    assert (demo.folder / "stdout").read_text() == ""
    said = (demo.folder / "stderr").read_text()
    assert f"the same command goes on from here: --out {demo.out}" in said
    assert "Traceback" not in said

    code, out, err = demo.run()
    assert code == 0, err
    demo.until_nothing_is_left(within_s=0)
    value = only_object(out)
    check_result(demo, value)

    began = time.monotonic()
    code, again, err = demo.run()
    assert code == 0, err
    assert only_object(again) == value
    assert time.monotonic() - began < 5

    code, out, err = demo.run("--seed", 1)
    assert (code, out) == (2, "")
    assert "holds a demo with --seed 0, not 1" in err

    code, out, err = demo.run("--compare")
    assert code == 0, err
    compared = only_object(out)
    assert compared["base"] == value["base"]
    for member in compared["members"]:
        assert member["bits_per_byte_alone"] > 0
        assert member["bits_per_byte_pooled"] > 0


def test_a_child_that_fails_shows_its_error(demo: Demo) -> None:
    """Text that is not UTF-8 is found by a trainer, behind supervisor, node and core."""
    corpora = demo.folder / "corpora"
    for name in ("a", "b"):
        (corpora / name).mkdir(parents=True)
        (corpora / name / "train.txt").write_text("some text that is good enough\n" * 2000)
        (corpora / name / "valid.txt").write_text("other text that is good enough\n" * 200)
    (corpora / "b" / "train.txt").write_bytes(b"\xff\xfe\xfa" * 20000)
    code, out, err = demo.run("--corpora", corpora)
    assert (code, out) == (2, ""), err
    *_, error, hint = err.splitlines()
    assert error.startswith("error: b: ")
    assert "train.txt" in error
    assert hint.startswith("hint: ")
    demo.until_nothing_is_left(within_s=0)


def test_a_model_of_its_own_from_text_that_never_went_to_the_run(demo: Demo) -> None:
    """Killed in the middle of its build, the demo goes on there."""
    process = demo.start("--build")
    deadline = time.monotonic() + WAIT_S
    while not (demo.out / "sovereign" / "status.json").is_file():
        assert process.poll() is None, (demo.folder / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    demo.until_nothing_is_left(within_s=10)

    code, out, err = demo.run()
    assert code == 0, err
    value = only_object(out)
    check_result(demo, value)
    own = value["sovereign"]
    assert own["member"] == value["members"][0]["name"]
    assert Path(own["export"], "model.safetensors").is_file()
    assert own["bits_per_byte_sovereign"] < own["bits_per_byte_base"]
    assert own["gain_over_base"] == pytest.approx(
        1 - own["bits_per_byte_sovereign"] / own["bits_per_byte_base"]
    )
    assert own["bits_per_byte_alone"] > 0
    assert own["bits_per_byte_base"] == pytest.approx(value["members"][0]["bits_per_byte_base"], rel=1e-5)
    assert not list((demo.out / "nodes").glob("*/egress.jsonl*")) or own["dataset"] not in "".join(
        path.read_text() for path in (demo.out / "nodes").glob("*/egress.jsonl")
    )
