"""Malformed requests of every class, and whether faults would be seen. More of them: `make malformed`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tapestry.sovereign.serve import app
from tests.sovereign import malformed
from tests.sovereign.served import TEMPLATE, Running, make, running


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    torch.set_num_threads(1)
    with running(make(tmp_path_factory.mktemp("models") / "small", template=TEMPLATE)) as one:
        yield one


def test_every_class_is_answered_as_it_should_be(up: Running) -> None:
    assert len(malformed.CLASSES) >= 30
    outcome = malformed.run(up.url, 2 * len(malformed.CLASSES), seed=1, told=up.told)
    assert outcome.wrong == []
    assert set(outcome.sent) == set(malformed.CLASSES)
    assert outcome.grown_bytes < 32 << 20


def test_faults_would_be_seen(up: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that fails on what it refuses, keeps all bodies, and takes what it should not."""
    parse, kept = app.parse, []

    def bad(data: bytes, kind: Any) -> Any:
        kept.append(bytearray(data[:1] * (4 << 20)))
        if b'"stop"' in data:
            good = malformed.GOOD if kind is app.CompletionRequest else malformed.CHAT
            return parse(json.dumps(good).encode(), kind)
        try:
            return parse(data, kind)
        except app.BadRequest as e:
            raise ZeroDivisionError from e

    monkeypatch.setattr(app, "parse", bad)
    up.told.clear()
    outcome = malformed.run(up.url, len(malformed.CLASSES), seed=2, told=up.told)
    assert any("seed out of range: answered 500" in wrong for wrong in outcome.wrong)
    assert any("stop that is none: answered 200" in wrong for wrong in outcome.wrong)
    assert any("ZeroDivisionError" in wrong for wrong in outcome.wrong)
    assert outcome.grown_bytes > 32 << 20
    up.told.clear()


def test_a_body_is_bounded_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapestry.sovereign.serve import requests

    parsed: list[str] = []
    monkeypatch.setattr(requests, "_DECODE", lambda text: parsed.append(text) or {})
    for data in (
        b"[" * 70_000,
        b'{"a":' * 9,
        b"[" + b"[]," * 70_000,
        b'["' + b"\\" * 99_999 + b'",' + b"[" * 20,
    ):
        with pytest.raises(requests.BadRequest):
            requests.read_json(data)
    assert parsed == []
    requests.read_json(b'{"prompt": "' + b"[{," * 300_000 + b'"}')  # in a string they cost nothing
    assert len(parsed) == 1
    monkeypatch.setattr(requests, "_check_shape", lambda _: None)
    requests.read_json(b"[" * 70_000)
    assert len(parsed) == 2
