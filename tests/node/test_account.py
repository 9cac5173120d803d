from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestry.node import account, lines
from tapestry.node.account import Account, Meter
from tapestry.node.home import Home
from tapestry.training.spool import TrainResult


def result(round: int, **changed: Any) -> TrainResult:
    sha = "0" * 64
    fields: dict[str, Any] = {
        **dict.fromkeys(("plan", "state", "delta", "data_manifest"), sha),
        "run": "r",
        "round": round,
        "merges": round - 1,
        "tokens": 100,
        "steps": 5,
        "loss": 1.0,
        "score": None,
        "environment": {},
        "train_s": 0.5,
        "evaluate_s": 0.25,
        "encode_s": 0.125,
    }
    return TrainResult(**{**fields, **changed})


def test_a_line_for_each_round_that_was_trained(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make_folders()
    meter = Meter()
    traffic = {"requests": 5, "sent_bytes": 100, "received_bytes": 200, "proof_bytes": 50}
    of_run = Account(home, "r", meter, lambda: dict(traffic))
    for number in (1, 2, 3):
        of_run.given(number)
        of_run.given(number)  # the same job again
        with meter.span("uploaded"):
            meter.add("uploaded_bytes", 1000 * number)
        traffic["sent_bytes"] += 1100 * number
        traffic["requests"] += 2
        if number != 2:
            of_run.trained(result(7))  # of another round
            of_run.trained(result(number))
        with meter.span("replayed"):
            pass
    of_run.close()
    of_run.close()
    found = list(lines.read(home.times))
    assert [line["round"] for line in found] == [1, 3], "round 2 was not trained"
    assert [line["uploaded_bytes"] for line in found] == [1000, 5000], "of a round not trained too"
    assert [line["sent_bytes"] for line in found] == [1100, 3300], "all that was sent while the round lasted"
    for line in found:
        assert (line["requests"], line["received_bytes"]) == (2, 0)
        assert (line["trained_s"], line["evaluated_s"], line["encoded_s"]) == (0.5, 0.25, 0.125)
        assert 0 <= line["waited_s"] <= line["whole_s"] and line["replayed_s"] >= 0
        assert (line["tokens"], line["steps"]) == (100, 5)
    means = account.summary(home)["r"]
    assert means["rounds"] == 2 and means["uploaded_bytes"] == 3000 and means["trained_s"] == 0.5


def test_damage_and_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    home.make_folders()
    monkeypatch.setattr(account, "MAX_BYTES", 2000)
    of_run = Account(home, "r", Meter())
    for number in range(1, 30):
        of_run.given(number)
        of_run.trained(result(number))
    of_run.close()
    found = [line["round"] for line in lines.read(home.times)]
    assert found[-1] == 29 and found == list(range(found[0], 30)) and found[0] > 15
    with home.times.open("ab") as file:
        file.write(b"\0\0\0\n")
    assert account.summary(home)["r"]["rounds"] == len(found)


def test_nothing_timed_yet(tmp_path: Path) -> None:
    assert account.summary(Home(tmp_path)) == {}
