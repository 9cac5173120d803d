"""Certificates of entitlement, as whoever is shown one checks it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tapestry.audit.papers import check
from tapestry.governance.entitlement import Paper
from tests.audit.released import grants, known, released, signed
from tests.fuzz.mutate import json_bytes
from tests.fuzz.target import Parser, Target


def _papers() -> Parser:
    with tempfile.TemporaryDirectory() as folder:
        scene = released(Path(folder) / "core")
        with scene.core:
            ledger = scene.ledger()
    seeds = [
        signed(grants(ledger).paper("one", name), scene, "ada", "cyd").to_bytes() for name in ("ada", "bob")
    ]

    def call(data: bytes) -> bytes:
        paper = Paper.from_bytes(data)
        check(paper, known(ledger))
        return paper.to_bytes()

    return Parser(seeds=seeds, call=call)


TARGETS: Sequence[Target] = (Target(name="entitlement", open=_papers, mutate=json_bytes),)
