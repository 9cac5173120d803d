"""Releases of bases that descend from a dataset, from the ledger of a real core."""

from __future__ import annotations

from pathlib import Path

from tapestry.governance import proposal as subjects
from tapestry.host import files
from tapestry.node import settings
from tapestry.node.home import Home
from tapestry.node.kept import Verified
from tapestry.node.touched import Release, touched
from tests.audit.released import released


def test_releases_of_what_it_touched_are_listed(tmp_path: Path) -> None:
    scene = released(tmp_path / "core")
    home = Home(tmp_path / "node")
    home.make_folders()
    home.settings.write_text(settings.render(settings.make(member="ada", name="ada-1", corpus="text")))

    def found(*, used: bool) -> list[Release]:
        data = scene.ledger().to_bytes()
        end = data.rindex(b"\n", 0, -1) + 1  # the last line is the checkpoint
        files.write_atomic(home.ledger / "ledger.jsonl", data)
        verified = Verified(entries=0, bytes=end, checkpoint="", verifier={})
        files.write_atomic(home.ledger / "verified.json", verified.to_bytes())
        return touched(home, lambda _node, _manifest: used).releases

    with scene.core:
        (one,) = found(used=True)
        assert (one.release, one.state, one.revoked) == ("one", scene.state().head, False)
        assert found(used=False) == []
        scene.passed(subjects.RevokeRelease(release="one"))
        (one,) = found(used=True)
        assert one.revoked
