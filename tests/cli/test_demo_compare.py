"""The comparison of a demo on a model of a few kilobytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tapestry.cli.demo import compare
from tapestry.errors import CorpusError
from tapestry.host import processes
from tapestry.training import baselines
from tests.training.support import Node, write_corpus


@pytest.fixture
def request_of_two(tmp_path: Path) -> baselines.Request:
    node = Node.make(tmp_path / "home", steps=4)
    other = write_corpus(tmp_path / "other", documents=20)
    return baselines.Request(
        plan=node.store.put(node.plan.to_bytes()),
        blobs=str(node.root / "blobs"),
        # Names of baselines are good names of members too.
        members={"alone": str(node.root / "corpus"), "pooled": str(other)},
        cache=str(tmp_path / "cache"),
    )


def test_the_figures_are_those_of_one_process(
    request_of_two: baselines.Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, pooled = compare.measure(request_of_two, tmp_path / "comparison")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = baselines.measure(request_of_two)
    torch.set_num_threads(threads)
    assert pooled == pytest.approx(wanted["pooled"]["bits_per_byte"], abs=1e-3)
    for name in request_of_two.members:
        assert alone[name] == pytest.approx(wanted["alone"][name]["bits_per_byte"][name], abs=1e-3)
    assert alone != pytest.approx(pooled, abs=1e-3)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"alone: pooled {alone['pooled']:.3f} bits per byte" in err
    assert err.count("  pooled: ") == 1


def test_a_training_that_fails_stops_the_others(
    request_of_two: baselines.Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "train.jsonl").write_text('{"text": 7}\n')
    started: list[processes.Child] = []

    def spawn(*arguments: object, **options: object) -> processes.Child:
        started.append(real(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    real = processes.spawn
    monkeypatch.setattr(processes, "spawn", spawn)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    with pytest.raises(CorpusError, match=r"train\.jsonl"):
        compare.measure(request_of_two, tmp_path / "comparison")
    assert len(started) == 3
    assert all(child.returncode is not None for child in started)
