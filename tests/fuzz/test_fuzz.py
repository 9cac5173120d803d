"""Each target for a moment, every case found before, and the runner on parsers with planted faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import runner
from tests.fuzz.planted import FAULTS
from tests.fuzz.target import Parser, Target
from tests.fuzz.targets import ALL

ROOT = Path(__file__).parents[2]
INPUTS = 40
"""Of each target; `make fuzz` runs for as long as one likes."""


def fuzz(out: Path, *arguments: str) -> tuple[int, dict[str, dict[str, object]], str]:
    """Exit code, totals and output of a run in a process of its own, since it forks."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--out",
        str(out),
        "--corpus",
        str(out / "corpus"),
        *arguments,
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "RUST_BACKTRACE": "0"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    totals = out / runner.TOTALS
    return (
        done.returncode,
        json.loads(totals.read_text()) if totals.exists() else {},
        done.stdout + done.stderr,
    )


def test_no_target_finds_anything(tmp_path: Path) -> None:
    code, totals, said = fuzz(tmp_path, "--count", str(INPUTS), "--seed", "2")
    assert code == 0, said
    assert set(totals) == set(ALL)
    for name, each in totals.items():
        assert each["inputs"] == INPUTS
        assert each["refused"], f"{name} refuses nothing"


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    first = fuzz(tmp_path, "--planted", "--count", "30", "--target", "none", "--target", "calm")
    again = fuzz(tmp_path, "--planted", "--count", "20", "--target", "none")
    assert (first[0], again[0]) == (0, 0), first[2] + again[2]
    assert {name: each["next"] for name, each in again[1].items()} == {"none": {"1": 50}, "calm": {"1": 30}}


@pytest.mark.parametrize("name", sorted(name for name in ALL if runner.kept(ALL[name])))
def test_what_was_found_before_is_refused_now(name: str) -> None:
    target = ALL[name]
    for path in runner.kept(target):
        outcome, detail = runner.judge(target, path.read_bytes())
        assert not outcome.startswith("found:"), f"{path.name}: {detail}"


def test_kept_cases_belong_to_targets() -> None:
    assert {each.name for each in runner.CORPUS.iterdir()} <= set(ALL)
    assert sum(len(runner.kept(target)) for target in ALL.values()) >= 20


def test_each_planted_fault_is_found_and_kept(tmp_path: Path) -> None:
    code, totals, said = fuzz(tmp_path, "--planted", "--count", "150")
    assert code == 1, said
    for fault, kind in FAULTS.items():
        found = totals[fault]["found"]
        assert isinstance(found, dict)
        kept = list((tmp_path / "corpus" / fault).glob(f"{kind}-*"))
        if kind is None:
            assert not found, said
        else:
            assert kind in found, f"{fault}: {said}"
            assert kept


def spins(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("most", "takes", "found"), [("HANG_S", spins, 1), ("ASLEEP_S", time.sleep, 1), ("HANG_S", time.sleep, 0)]
)
def test_an_input_that_never_ends_is_found(
    monkeypatch: pytest.MonkeyPatch, most: str, takes: Callable[[float], None], found: int
) -> None:
    """And one that is only kept waiting is not, as where others have the processor."""

    def call(data: bytes) -> bytes:
        if data != b"seed":
            takes(1.0)
        return data

    monkeypatch.setattr(runner, most, 0.3)
    opened = lambda: Parser(seeds=[b"seed"], call=call)  # noqa: E731
    target = Target(name="endless", open=opened, mutate=lambda *_: b"other", memory_bytes=16 << 20)
    count, _, after = runner.Batch(target, 1, 0, 1, seconds=60).run()
    assert (count.inputs, count.found["hang"], after) == (1, found, 1)


def test_an_input_depends_on_its_number_alone() -> None:
    for name in ("plan", "note", "delta-topk", "ledger-file"):
        target = ALL[name]
        first = [target.input(1, number) for number in (5, 6, 7)]
        assert first == [target.input(1, number) for number in (5, 6, 7)]
        assert len({*first, target.input(2, 5)}) > 1
