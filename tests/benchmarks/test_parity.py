from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.parity import __main__ as program
from benchmarks.parity import compare, simulate, text
from benchmarks.parity.compare import Interval
from benchmarks.parity.methods import ALONE, METHODS, SETTINGS, SYNCHRONOUS, Knobs, grid
from benchmarks.parity.trials import FILE, Bench, Book

from tapestry.errors import CorpusError, FormatError, SettingsError
from tapestry.protocol.artifact import Artifact

TINY = SETTINGS["tiny"]
SHORT = 0.1
"""Of the tokens, where only the course of things is looked at."""
FEW = Knobs(learning_rate=1e-2, sequences=8, steps=5, outer_rate=1.0)
GOLDEN = {
    SYNCHRONOUS: (Knobs(learning_rate=2e-2, sequences=8), 2.92, 0.3),
    "fedavg": (Knobs(learning_rate=2e-2, sequences=8, steps=4, outer_rate=1.0), 2.50, 0.15),
}
"""Bits per byte at the end of a whole tiny run, and how far another processor may be from it."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> simulate.World:
    folder = tmp_path_factory.mktemp("parity")
    corpora = text.read(text.make_up(folder / "text", None, TINY.languages), folder / "cache")
    return simulate.World(setting=TINY, corpora=corpora, scratch=folder)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_tiny_run_ends_where_it_did_before(world: simulate.World, name: str) -> None:
    knobs, expected, band = GOLDEN[name]
    found = simulate.run(world, METHODS[name], knobs, seed=0)
    losses = [loss for _, _, loss in found.curve]
    assert found.diverged is None
    assert losses[-1] < losses[0] - 0.5
    assert losses[-1] == pytest.approx(expected, abs=band)
    assert sum(found.scores.values()) / 2 == losses[-1]
    assert found.curve[-1][0] == TINY.tokens(found.parameters)


@pytest.mark.parametrize("name", ["sparseloco", SYNCHRONOUS])
def test_the_same_trial_twice_gives_the_same(world: simulate.World, name: str) -> None:
    knobs = FEW if METHODS[name].kind == "rounds" else Knobs(learning_rate=1e-2, sequences=8)
    first, again, other = (
        simulate.run(world, METHODS[name], knobs, seed=seed, share=SHORT) for seed in (3, 3, 4)
    )
    assert first == again
    assert first.initial != other.initial and first.scores != other.scores


@pytest.mark.parametrize("name", ["sparseloco", "diloco", "movers"])
def test_bytes_are_those_that_were_written(
    world: simulate.World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    send = simulate.Trial._send

    def counted(trial: simulate.Trial, member: str, base: Artifact) -> Artifact:
        delta = send(trial, member, base)
        sizes.append(sum(trial.store.size(sha) for sha in (delta.digest, *(b.sha256 for b in delta.shards))))
        if len(sizes) == 1:
            sizes.append(
                sum(trial.store.size(sha) for sha in (base.digest, *(b.sha256 for b in base.shards)))
            )
        return delta

    monkeypatch.setattr(simulate.Trial, "_send", counted)
    found = simulate.run(world, METHODS[name], FEW, seed=0, share=SHORT)
    base = sizes.pop(1)
    assert found.steps == 12 and found.rounds == 3, "two rounds of five steps, and two steps that are left"
    assert len(sizes) == 2 * found.rounds
    assert found.traffic.total == base + sum(sizes)
    assert found.traffic.sent == round(sum(sizes) / 2)
    assert found.traffic.fetched == base * (1 + found.rounds)
    plain = METHODS[name].tables["codec"] == {}
    assert (sum(sizes) > 3 * base) == plain
    assert not list(world.scratch.glob("trial-*")), "a trial clears what it wrote"


def test_data_parallel_costs_a_ring(world: simulate.World) -> None:
    knobs = Knobs(learning_rate=1e-2, sequences=16)
    found = simulate.run(world, METHODS[SYNCHRONOUS], knobs, seed=0, share=SHORT)
    gradient = 4 * found.parameters
    assert found.traffic.sent == gradient * found.steps, (
        "2 (n − 1) / n of the gradient is once for two members"
    )
    assert found.traffic.received - found.traffic.sent == pytest.approx(gradient, rel=0.1), "the initial base"


def test_members_alone_hear_of_nobody(world: simulate.World) -> None:
    found = simulate.run(world, METHODS[ALONE], Knobs(learning_rate=1e-2, sequences=4), seed=0, share=SHORT)
    assert found.traffic.sent == 0
    assert found.on_all is not None and found.on_all > sum(found.scores.values()) / 2


def test_each_method_has_as_many_trials() -> None:
    for setting in SETTINGS.values():
        assert len({len(grid(method, setting)) for method in METHODS.values()}) == 1
        assert (
            len({setting.tokens(10**6) % (each * setting.sequence_length) for each in setting.batches}) == 1
        )


def test_a_batch_that_cannot_be_shared_is_refused(world: simulate.World) -> None:
    with pytest.raises(SettingsError, match="evenly"):
        simulate.run(world, METHODS["fedavg"], Knobs(learning_rate=1e-2, sequences=7, steps=2), seed=0)


def test_a_second_call_runs_only_what_is_missing(
    world: simulate.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[Any, ...]] = []
    real = simulate.run

    def run(world: simulate.World, method: Any, knobs: Knobs, *, seed: int, share: float) -> Any:
        ran.append((knobs, seed))
        return real(world, method, knobs, seed=seed, share=SHORT)

    monkeypatch.setattr(simulate, "run", run)
    said: list[str] = []

    def bench(**changed: Any) -> Bench:
        return Bench(world=world, book=Book(tmp_path), rates=(1e-2,), say=said.append, **changed)

    assert not bench(until=0.0).conduct(["fedavg"]) and not ran, "the time was up"
    assert bench().conduct(["fedavg"])
    assert len(ran) == len(said) == 3
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    ran.clear()
    assert bench(seeds=2).conduct(["fedavg"])
    assert [seed for _, seed in ran] == [0, 1], (
        "the trial that was cut off, and the best one with another seed"
    )
    assert len(path.read_bytes().splitlines()) == 4
    ran.clear()
    assert bench(seeds=2).conduct(["fedavg"]) and not ran
    path.write_bytes(b"no json\n" + whole)
    with pytest.raises(FormatError, match="line 1"):
        Book(tmp_path)


def test_the_program_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--out", str(tmp_path), "--rates", "1e-2", "--tuning-share", "0.05", "--threads", "1"]
    assert program.main([*asked, "--only", SYNCHRONOUS, "sparseloco", "--minutes", "0"]) == 0
    assert "time is up" in capsys.readouterr().err
    records = _records()
    (tmp_path / FILE).write_text("".join(json.dumps(record) + "\n" for record in records))
    assert program.main([*asked, "--report"]) == 0
    written = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert written == capsys.readouterr().out
    assert "| diloco | 1 | rate 0.01, batch 8, H 4, outer 0.7 | 2 |" in written and "10.0×" in written
    assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.glob("*.svg"))) == 2
    assert program.main([*asked, "--report", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in one["methods"]] == [SYNCHRONOUS, "diloco"]
    assert one["methods"][1]["difference"]["mean"] == pytest.approx(0.15)
    assert program.main(["--out", str(tmp_path), "--setting", "small"]) == 2
    assert "hint: give --corpora" in capsys.readouterr().err


def _records() -> list[dict[str, Any]]:
    """Two methods with two seeds each, as trials leave them."""
    from benchmarks.parity.trials import rules

    found = []
    for name, knobs, factor in (
        (SYNCHRONOUS, {"learning_rate": 1e-2, "sequences": 8, "steps": None, "outer_rate": None}, 10),
        ("diloco", {"learning_rate": 1e-2, "sequences": 8, "steps": 4, "outer_rate": 0.7}, 1),
    ):
        for seed in (0, 1):
            score = 2.0 + 0.1 * seed + (0.1 + 0.1 * seed) * (factor == 1)
            found.append(
                {
                    "setting": "tiny",
                    "members": ["greek", "latin"],
                    "setup": "0" * 12,
                    "method": name,
                    "rules": rules(METHODS[name]),
                    "knobs": knobs,
                    "seed": seed,
                    "share": 1.0,
                    "parameters": 1000,
                    "tokens": 4096,
                    "steps": 16,
                    "rounds": 4,
                    "initial": f"{seed}" * 64,
                    "bits_per_byte": {"greek": score - 0.5, "latin": score + 0.5},
                    "on_all": None,
                    "curve": [[2048, 500_000 * factor, 3.0], [4096, 1_000_000 * factor, score]],
                    "sent": 400_000 * factor,
                    "received": 600_000 * factor,
                    "fetched": 600_000 * factor,
                    "diverged": None,
                    "seconds": 1.0,
                    "hardware": "none",
                    "device": "cpu",
                    "threads": 1,
                }
            )
    return found


def test_differences_are_taken_seed_by_seed() -> None:
    (one,) = compare.compare(_records())
    row = one.rows[1]
    assert row.difference is not None and row.difference.half is not None
    assert row.difference.mean == pytest.approx(0.15)
    assert row.difference.half == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert Interval.of([1.0]) == Interval(1.0, None)
    assert one.doubts() == []
    worse = _records()
    worse[2]["initial"] = "f" * 64
    assert any("different artifacts" in doubt for doubt in compare.compare(worse)[0].doubts())


def test_text_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    made = text.make_up(tmp_path, "4", 2)
    assert list(text.choose(tmp_path, None, 2)) == list(made)[:2]
    assert list(text.choose(tmp_path, "thai, greek", 2)) == ["greek", "thai"]
    with pytest.raises(CorpusError, match="no folder elvish"):
        text.choose(tmp_path, "elvish,greek", 2)
