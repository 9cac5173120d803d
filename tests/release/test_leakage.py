"""Leakage reports in a release: whose they are, what they are of, and that a release says them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli import main
from tapestry.errors import ReleaseError
from tapestry.identity.envelope import sign
from tapestry.identity.keys import KeyPair
from tapestry.protocol.clock import time_text
from tapestry.protocol.leakage import Exposure, Inference, Interval, LeakageReport, Rate
from tapestry.release import checking, contents
from tapestry.release.derived import LEAKAGE
from tests.release.support import OPEN, World, now

SHA = "ab" * 32


def rate(value: float) -> Rate:
    return Rate(value=value, low=0.0, high=1.0)


def report(world: World, node: str = "acme", *, key: KeyPair | None = None, **changed: Any) -> bytes:
    """As a node would have measured the newest base of the world."""
    state = world.state().head
    row = Inference(
        subject="base", round=1, node=None, target=changed.pop("target", state), by="state", reference=SHA,
        steps=0, others="valid", members=800, non_members=800, true_positives=rate(0.0173), area=rate(0.512),
        blind=rate(0.5), gain_members=0.1, gain_non_members=0.1,
    )  # fmt: skip
    exposure = Exposure(
        subject="base", round=1, target=row.target, canaries=8, candidates=255,
        bits=Interval(value=1.37, low=0.9, high=1.9), highest=4.0, by_chance=1.42,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "run": "run", "plan": world.state().plan.digest, "member": node, "node": f"{node}-1",
        "at": time_text(world.now), "release": "0", "data_manifest": None, "window_bytes": 512.0,
        "window_tokens": 512, "sequence_length": 128, "false_positives": 0.01, "confidence": 0.95, "seed": 0,
        "inference": (row,), "exposure": (exposure,),
    }  # fmt: skip
    return sign(LeakageReport(**(fields | changed)), key or world.nodes[node].key).to_bytes()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("leakage") / "core", **OPEN)
    with made.core:
        made.trained()
        yield made


def named(world: World) -> str:
    name = f"base-{len(world.view().releases) + 1}"
    world.accepted(name)
    return name


def test_reports_are_in_the_release_and_in_its_card(world: World) -> None:
    checked = world.draft(named(world), leakage=[report(world), report(world, "birch")])
    model = checked.folder / "model"
    held = json.loads((model / contents.LEAKAGE).read_text())
    assert [each["node"] for each in held["reports"]] == ["acme-1", "birch-1"]
    assert contents.LEAKAGE in checked.digests
    card = (model / contents.CARD).read_text()
    assert "1.73 % (0.00–100.00) at 1.0% false alarms" in card and "1.37 (0.90–1.90) (1.42)" in card


def test_a_release_without_reports_says_so(world: World) -> None:
    checked = world.draft(named(world))
    assert json.loads((checked.folder / "model" / contents.LEAKAGE).read_text())["reports"] == []
    assert "No node has published a leakage report" in (checked.folder / "model" / contents.CARD).read_text()


def test_a_charter_that_keeps_scores_keeps_these_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    closed = World(tmp_path_factory.mktemp("closed") / "core", public={"scores": "consortium"})
    with closed.core:
        closed.trained()
        closed.accepted()
        checked = closed.draft(leakage=[report(closed)])
        card = (checked.folder / "model" / contents.CARD).read_text()
        assert "1.73" not in card and "charter keeps to the members what nodes measured" in card
        assert b"acme" not in (checked.folder / "model" / contents.LEAKAGE).read_bytes()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"key": KeyPair.generate()}, "not signed by that node"),
        ({"node": "birch", "key": "acme"}, "not signed by that node"),
        ({"run": "other"}, "is of run other"),
        ({"node": "dara"}, "contributed nothing"),
        ({"target": SHA}, "says nothing of the base"),
    ],
)
def test_a_report_that_is_not_of_this_release_is_refused(
    world: World, how: dict[str, Any], says: str
) -> None:
    if how.get("key") == "acme":
        how = {**how, "key": world.nodes["acme"].key}
    name = named(world)
    with pytest.raises(ReleaseError, match=says):
        world.draft(name, leakage=[report(world, **how)])
    world.draft(name, leakage=[report(world)])


def test_two_reports_of_one_node_are_refused(world: World) -> None:
    with pytest.raises(ReleaseError, match="two leakage reports of node acme-1"):
        world.draft(named(world), leakage=[report(world), report(world, seed=1)])


def test_what_is_no_report_is_refused(world: World) -> None:
    name = named(world)
    for line in (b"{}", b"nonsense", sign(world.view().listed(), world.nodes["acme"].key).to_bytes()):
        with pytest.raises(ReleaseError, match="none that a node has signed"):
            world.draft(name, leakage=[line])


def test_a_holder_finds_out_a_report_that_was_left_out_or_changed(world: World) -> None:
    """The draft's lines lead to the file and the card, so neither can be changed alone."""
    checked = world.draft(named(world), leakage=[report(world)])
    lines = checked.folder / LEAKAGE
    kept = lines.read_bytes()
    lines.write_bytes(b"")
    with pytest.raises(ReleaseError, match="not what follows from the ledger"):
        checking.check(checked.folder, world.view(), now())
    lines.write_bytes(kept)
    checking.check(checked.folder, world.view(), now())


def test_the_command_takes_signed_reports_and_nothing_else(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, given = named(world), tmp_path / "signed.json"
    given.write_bytes(report(world))

    def propose(*words: object) -> tuple[int, str]:
        where = ("--core", world.core.home.root, "--repository", tmp_path / "repository")
        code = main.call([str(word) for word in ("release", "propose", *words, *where)])
        return code, capsys.readouterr().err

    draft = tmp_path / "draft"
    code, told = propose(name, "--leakage", given, "--out", draft)
    assert code == 0, told
    (held,) = json.loads((draft / "model" / contents.LEAKAGE).read_bytes())["reports"]
    assert held["node"] == "acme-1"
    bare, other = tmp_path / "bare.json", tmp_path / "other"
    bare.write_text(json.dumps(held))  # as `node leakage --out` writes it: nobody has signed it
    for words, said in (
        ((name, "--leakage", bare), "is no signed leakage report"),
        ((name, "--leakage", tmp_path / "none.json"), "cannot read"),
        ((name, "--leakage", given, "--leakage", given), "two leakage reports of node acme-1"),
        (("--leakage", given), "belongs to a release"),
    ):
        code, told = propose(*words, "--out", other)
        assert code != 0 and said in told and "Traceback" not in told, told
        assert not other.exists()
