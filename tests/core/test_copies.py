"""A core holds contributions against those it accepted before: across restarts, as far as it still can."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.core.home import Home
from tapestry.core.service import Core, load_sketch_seed
from tapestry.errors import SettingsError
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.plan import Merge, Plan, Retention, Streaming
from tests.core.support import LAYOUT, CoreUnderTest, Member, artifact, make_plan
from tests.node.support import wait_until

MERGE = Merge(outer="fedavg", outer_rate=1.0, outer_momentum=0.0, largest_overlap=0.6)

TABLES = {"merge", "retention", "streaming"}


def drawn(seed: int, *, scale: float = 1.0, of: int | None = None, noise: float = 0.0) -> list[bytes]:
    """Shards of random values; or of those of another seed, scaled, and with noise."""
    found = []
    rng, own = np.random.default_rng(seed if of is None else of), np.random.default_rng(seed)
    for shard in LAYOUT.shards:
        values = rng.standard_normal(shard.elements) * scale
        values += noise * scale * own.standard_normal(shard.elements)
        found.append(shard.header + values.astype("<f4").tobytes())
    return found


class Rounds:
    """A run whose members hand in what the test says."""

    def __init__(self, core: CoreUnderTest, folder: Path, **rules: Any) -> None:
        self.core = core
        other = {"merge": MERGE} | {key: rules.pop(key) for key in TABLES & rules.keys()}
        plan = make_plan(folder, **{"total": 40, "min_nodes": 2, "quorum": 2} | rules)
        self.plan: Plan = plan.model_copy(update=other)
        self.ada, self.bob = core.running(self.plan, folder, "ada", "bob")
        self.round, self.state = 1, plan.initial_state

    def gives(self, member: Member, data: list[bytes], nonce: str = "0") -> tuple[str, str | None]:
        """Hand in, and what became of it."""
        delta = member.send_delta(0.0, data)
        given = {"round": self.round, "state": self.state, "nonce": nonce * 32}
        self.envelope = member.contribution(self.plan, delta, **given)
        answer = member.contribute(self.envelope)
        assert answer.status_code == 200, answer.text

        digest = canonical.sha256(self.envelope.to_bytes())
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with Core.open(self.core.root) as core:
                for at in core.runs.standing("run").state.rounds:
                    own = at.submissions.get(member.node)
                    if own is not None and own.contribution == digest and own.status != "received":
                        return own.status, own.reason
            time.sleep(0.02)
        raise AssertionError(f"nobody has looked at what {member.name} gave")

    def ends(self) -> None:
        view = self.ada.wait(lambda v: v.head.round >= self.round)
        self.round, self.state = view.head.round + 1, view.head.state

    def both(self, of_ada: list[bytes], of_bob: list[bytes]) -> None:
        assert self.gives(self.ada, of_ada) == ("accepted", None)
        assert self.gives(self.bob, of_bob) == ("accepted", None)
        self.ends()

    def delta(self, number: int, node: str) -> str:
        with Core.open(self.core.root) as core:
            for entry in core.journal.of_round("run", number, "contribution-received"):
                if entry.body["node"] == node:
                    return str(entry.body["delta"])
        raise AssertionError(node)

    def sketches(self) -> set[tuple[str, str]]:
        """Round and delta of those that lie in the core's home."""
        folder = Home(self.core.root).sketches / "run"
        return {(path.parent.name, path.name) for path in folder.glob("*/*")}


Play = Callable[..., Rounds]


@pytest.fixture
def play(serving: CoreUnderTest, tmp_path: Path) -> Play:
    return lambda **rules: Rounds(serving, tmp_path / "made", **rules)


COPIED = ("refused", "copied")


def test_a_copy_is_refused_and_an_honest_one_may_follow(play: Play) -> None:
    run = play()
    run.both(drawn(1), drawn(2))
    assert run.gives(run.bob, drawn(1)) == COPIED, "the very bytes"
    assert run.gives(run.bob, drawn(3, of=1, scale=-0.1, noise=0.5), "1") == COPIED
    assert run.gives(run.bob, drawn(4, of=2, scale=7.0), "2") == COPIED, "its own again"
    assert run.gives(run.bob, drawn(5), "3") == ("accepted", None)
    assert run.gives(run.ada, drawn(5)) == COPIED, "of this round"
    assert run.gives(run.ada, drawn(6), "1") == ("accepted", None)
    run.ends()
    assert run.gives(run.bob, drawn(7, of=1, noise=0.3)) == COPIED, "of two rounds ago"
    log = "\n".join(run.core.log_lines())
    assert "overlaps by" in log and "node ada-1 gave to round 1" in log
    ledger = [line for line in log.splitlines() if "contribution-refused" in line]
    assert len(ledger) == 5
    held = {delta for _, delta in run.sketches()}
    assert len(held) == 4, "what is refused leaves none"


@pytest.mark.parametrize("field", [None, 1.0])
def test_without_a_limit_copies_are_merged(play: Play, field: float | None) -> None:
    run = play(merge=MERGE.model_copy(update={"largest_overlap": field}))
    run.both(drawn(1), drawn(2))
    run.both(drawn(3), drawn(4, of=1, scale=2.0))
    wanted = ("accepted", None) if field is None else COPIED
    assert run.gives(run.bob, drawn(1)) == wanted, "identical bytes, with the weakest limit there is"
    assert bool(run.sketches()) == (field is not None)
    assert Home(run.core.root).sketch_seed.exists() == (field is not None)


def test_with_mixing_only_near_identity_counts(play: Play) -> None:
    """There an honest update holds a part of all that was merged before."""
    run = play(streaming=Streaming(overlap_steps=2, mixing=0.5))
    run.both(drawn(1), drawn(2))
    assert run.gives(run.bob, drawn(3, of=1, noise=0.02)) == COPIED
    assert run.gives(run.bob, drawn(3, of=1, noise=0.3), "1") == ("accepted", None)


def test_a_core_that_was_started_again_still_knows(play: Play) -> None:
    run = play()
    run.both(drawn(1), drawn(2))
    assert run.core.stop() == 0
    run.core.start()
    assert run.gives(run.bob, drawn(3, of=1, noise=0.3)) == COPIED
    assert run.gives(run.bob, drawn(4), "1") == ("accepted", None)
    run.core.kill()
    run.core.start()
    assert run.gives(run.ada, drawn(5, of=2, noise=0.3)) == COPIED
    assert run.gives(run.ada, drawn(6), "1") == ("accepted", None)


@pytest.mark.parametrize("lost", ["sketches", "secret", "damaged"])
def test_sketches_that_are_lost_are_drawn_again_from_the_deltas(play: Play, lost: str) -> None:
    run = play()
    run.both(drawn(1), drawn(2))
    before = run.sketches()
    home = Home(run.core.root)
    assert stat.S_IMODE(home.sketch_seed.stat().st_mode) == 0o600
    if lost == "secret":
        run.core.stop()
        home.sketch_seed.unlink()
        run.core.start()
    for _, delta in before:
        path = home.sketches / "run" / "1" / delta
        if lost == "sketches":
            path.unlink()
        elif lost == "damaged":
            path.write_bytes(bytes(path.stat().st_size))
    assert run.gives(run.bob, drawn(3, of=1, noise=0.3)) == COPIED
    assert run.sketches() == before


def test_what_retention_has_erased_is_known_as_long_as_its_sketch_is(play: Play) -> None:
    run = play(retention=Retention(blob_rounds=1))
    run.both(drawn(1), drawn(2))
    run.both(drawn(3), drawn(4))
    old = run.delta(1, "ada-1")
    run.both(drawn(5), drawn(6))
    with Core.open(run.core.root) as core:
        gone = Artifact.from_bytes(core.store.read(old)).shards
        assert core.store.lacking(blob.sha256 for blob in gone), "erased"
    assert run.gives(run.bob, drawn(7, of=1, noise=0.3)) == COPIED
    for path in (Home(run.core.root).sketches / "run" / "1").iterdir():
        path.unlink()
    assert run.gives(run.bob, drawn(8, of=1, noise=0.3), "1") == ("accepted", None), "nobody can tell"


def test_sketches_go_with_their_rounds_and_with_the_run(
    serving: CoreUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.stop()
    serving.prepare = _two_rounds
    serving.start()
    run = Rounds(serving, tmp_path / "made", total=5)
    for number in range(4):
        run.both(drawn(2 * number), drawn(2 * number + 1))
    wait_until(lambda: {number for number, _ in run.sketches()} == {"3", "4"})
    # Ada's first is forgotten; her second, too, since round 5 reaches back to 3.
    assert run.gives(run.bob, drawn(50, of=0, noise=0.3)) == ("accepted", None)
    assert run.gives(run.ada, drawn(51, of=5, noise=0.3)) == COPIED
    assert run.gives(run.ada, drawn(52), "1") == ("accepted", None)
    run.ada.wait(lambda view: view.status == "finished")
    serving.stop()
    assert not (Home(serving.root).sketches / "run").exists()


def _two_rounds() -> None:
    from tapestry.core import copies

    copies.ROUNDS = 2  # type: ignore[misc]


def test_what_a_node_gave_to_a_round_that_came_to_nothing_it_may_give_again(play: Play) -> None:
    run = play(quorum=2, deadline_s=1.5, below_quorum="abandon")
    assert run.gives(run.ada, drawn(1)) == ("accepted", None)
    run.ada.wait(lambda view: view.current is not None and view.current.round == 2)
    run.round = 2
    assert run.gives(run.bob, drawn(1)) == COPIED, "another's is another's"
    assert run.gives(run.ada, drawn(1)) == ("accepted", None)


def test_a_secret_that_others_may_read_or_that_is_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.key.parent.mkdir()
    seed = load_sketch_seed(home)
    assert load_sketch_seed(home) == seed and len(bytes.fromhex(seed)) == 32
    home.sketch_seed.chmod(0o640)
    with pytest.raises(SettingsError, match="others may read"):
        load_sketch_seed(home)
    home.sketch_seed.chmod(0o600)
    home.sketch_seed.write_text("zz" * 32)
    with pytest.raises(SettingsError, match="64 hexadecimal"):
        load_sketch_seed(home)


def test_updates_that_were_committed_first_are_compared_too(play: Play) -> None:
    run = play(reveal_s=30.0, quorum=1)
    standing: dict[str, tuple[str, str | None]] = {}
    for of_ada, of_bob in ((drawn(1), drawn(2)), (drawn(3), drawn(4, of=1, noise=0.1))):
        given = []
        for member, data in ((run.ada, of_ada), (run.bob, of_bob)):
            delta = canonical.sha256(artifact("delta", data).to_bytes())
            fields = {"round": run.round, "state": run.state, "nonce": f"{run.round:032x}"}
            given.append((member, data, member.contribution(run.plan, delta, **fields)))
        for member, _, envelope in given:
            assert "committed" in member.contribute(envelope).json()
        for member, data, envelope in given:
            member.send_delta(0.0, data)
            assert member.contribute(envelope).is_success
        run.ends()
        with Core.open(run.core.root) as core:
            at = core.runs.standing("run").state.rounds[-2]
            standing = {node: (s.status, s.reason) for node, s in at.submissions.items()}
    assert standing == {"ada-1": ("accepted", None), "bob-1": COPIED}
