"""What a charter's gates keep back, and from whom: whoever drafts, and each holder by its own ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import CharterError, GateNotMet
from tapestry.governance.charter import Gates
from tapestry.governance.prose import sections
from tapestry.release import checking, gates
from tests.release.support import HOLDERS, OPEN, World, now


def world(root: Path, **wanted: Any) -> World:
    return World(root / "core", **OPEN, release={"gates": wanted} if wanted else {})


def trained(made: World, *scores: float) -> None:
    """A run of two merges; its first base is released, then members publish scores of the second."""
    made.trained(rounds=2)
    made.accepted("first")
    nodes = [made.nodes[name] for name in HOLDERS[:2]]
    for node in nodes:
        made.send(node)
    made.merge()
    for node, score in zip(nodes, scores, strict=False):
        made.score(node, score)
    made.accepted("second")


def test_without_gates_any_base_is_drafted(tmp_path: Path) -> None:
    """The control of all others here."""
    made = world(tmp_path)
    with made.core:
        trained(made, 9.0)
        assert made.draft("second").facts is not None


def test_a_base_that_is_worse_for_somebody_is_kept_back(tmp_path: Path) -> None:
    made = world(tmp_path, worse_by_at_most="2 %")
    with made.core:
        trained(made, 1.25 * 1.03)
        with pytest.raises(GateNotMet, match=r"acme-1's text it takes 1\.288 .* with first 1\.25: .* 1/50"):
            made.draft("second")
        assert not (made.folder / "draft-1").exists()


def test_within_the_bound_it_is_drafted(tmp_path: Path) -> None:
    made = world(tmp_path, worse_by_at_most="2 %", scored_by=2)
    with made.core:
        trained(made, 1.25 * 1.019, 3.0)
        assert made.draft("second").facts is not None


def test_a_base_that_too_few_have_scored_is_kept_back(tmp_path: Path) -> None:
    made = world(tmp_path, scored_by=2)
    with made.core:
        trained(made, 1.0)
        with pytest.raises(GateNotMet, match=r"1 members have published a score of state .*, 2 must have"):
            made.draft("second")


def test_a_holder_refuses_a_draft_that_an_operator_made_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path, worse_by_at_most="2 %")
    with made.core:
        trained(made, 9.0)
        with monkeypatch.context() as off:
            off.setattr(gates, "require", lambda *_: None)
            checked = made.draft("second")
        with pytest.raises(GateNotMet, match="worse by more than"):
            checking.check(checked.folder, made.view(), now())


def test_the_charter_says_it_and_refuses_what_nobody_could_meet(tmp_path: Path) -> None:
    made = world(tmp_path, scored_by=2, worse_by_at_most="1/50")
    with made.core:
        charter = made.view().assembly.governance.charter
    assert charter is not None and charter.release.gates == Gates(scored_by=2, worse_by_at_most="1/50")
    said = next(line for part in sections(charter, ()) for line in part.lines if "must sign" in line)
    assert "2 members have published a score" in said and "by more than 1/50" in said
    with pytest.raises((CharterError, ValueError), match="must have published a score, and there are 4"):
        world(tmp_path / "other", scored_by=9)
