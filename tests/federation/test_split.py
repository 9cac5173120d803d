"""Two views of one core: with the quorum that the number of traitors asks for, nobody trains on either."""

from __future__ import annotations

from pathlib import Path

from tests.federation.split import Split, trial
from tests.node.support import wait_until

HONEST, COLLUDERS = 4, 1
QUORUM = 4
"""The smallest that two views cannot both have: 2 · 4 > 5 + 1. Each has two honest nodes and the colluder."""
TOO_SMALL = 3


def test_nobody_trains_on_what_half_has_attested_and_one_word_convicts_the_core(tmp_path: Path) -> None:
    seen = trial(
        tmp_path,
        honest=HONEST,
        colluders=COLLUDERS,
        quorum=QUORUM,
        seed="0",
        lies=False,
        carried="checkpoint",
    )
    assert seen.bases == 2
    assert seen.attested == [3, 3]
    assert seen.jobs == 0
    assert all("3 of 4 members; missing: h" in text for text in seen.waiting)
    assert seen.proofs >= 1 and seen.proof_rounds is not None and seen.proof_rounds <= 1


def test_with_too_small_a_quorum_both_views_go_on(tmp_path: Path) -> None:
    """Positive control: the same, and nothing stops it."""
    split = Split(tmp_path, honest=HONEST, colluders=COLLUDERS, quorum=TOO_SMALL, seed="0")
    try:
        split.begin()
        split.split()
        for view in split.views:
            split.collude(view, of_round=2)
        split.merged(2)
        for view in split.views:
            wait_until(
                lambda nodes=view.nodes: any(job.merges >= 2 for node in nodes for job in node.jobs),
                30,
                "a view stands still",
            )
        assert split.jobs_after(2) >= 2
        assert not split.proofs()
    finally:
        split.close()
