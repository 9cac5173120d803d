"""A consortium that has trained a base and released it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tapestry.audit.grants import Grants
from tapestry.audit.papers import Known, countersign, with_signature
from tapestry.governance import proposal as subjects
from tapestry.governance.entitlement import Paper
from tapestry.identity.keys import KeyPair
from tapestry.rounds import machine
from tests.audit.council import Council
from tests.audit.support import Ledger

NAMES = ("ada", "bob", "cyd", "dan")
HOURLY = {"train_ms": 3_600_000, "bytes": 1000}


def trained(root: Path, **tables: Any) -> Council:
    """Three merges: of ada, bob and cyd; then twice of ada and bob. Dan votes, and trains nothing. By the
    charter two rounds give a right, if no `tables` say otherwise."""
    scene = Council(root, *NAMES)
    scene.adopt(**({"entitlements": {"rounds": 2}} | tables))
    plan = scene.plan(rounds_total=3, rounds_min_nodes=3, rounds_quorum=2, rounds_deadline_s=10_000.0)
    scene.ratified(plan)
    scene.put(machine.Start())
    for name in NAMES[:3]:
        scene.enrol(scene.nodes[name])
    for number in range(3):
        scene.now += 4_000_000
        for name in NAMES[: 3 if number == 0 else 2]:
            scene.send(scene.nodes[name], tokens=(NAMES.index(name) + 1) * 500, **HOURLY)
        if number:
            scene.wait(10_001)
        scene.merge()
    return scene


def released(root: Path, **tables: Any) -> Council:
    """Its newest state is accepted as release `one`."""
    scene = trained(root, **tables)
    scene.passed(subjects.AcceptRelease(release="one", state=scene.state().head))
    return scene


def grants(given: Ledger) -> Grants:
    return Grants(given.lines)


def signed(paper: Paper, scene: Council, *names: str, keys: dict[str, KeyPair] | None = None) -> Paper:
    """Countersigned by the vote keys of these, whatever it says."""
    for name in names:
        key = (keys or {}).get(name, scene.nodes[name].vote)
        paper = with_signature(paper, countersign(paper.certificate, name, key))
    return paper


def known(given: Ledger) -> Known:
    return Known(core_key=given.key.public_key)
