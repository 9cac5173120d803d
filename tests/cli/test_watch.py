"""What a watch says of nodes that train, wait, are late or refused, at a real core; and how it is drawn."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tapestry.audit.course import Course
from tapestry.cli import asking, display, watching
from tapestry.cli.display import MemberView, Snapshot
from tapestry.cli.run_watch import opened
from tapestry.errors import Unreachable
from tapestry.protocol.messages import Progress
from tests.cards import HERE
from tests.core.support import CoreUnderTest, Member, make_plan, shards
from tests.node.support import NodeUnderTest


@pytest.fixture
def watched(core: CoreUnderTest, tmp_path: Path) -> Iterator[tuple[watching.Watcher, Member, Member]]:
    """A round of two members, both of which are needed, with a deadline that comes soon."""
    core.start()
    plan = make_plan(tmp_path / "seed", total=3, min_nodes=2, quorum=2, deadline_s=4.0)
    a, b = core.running(plan, tmp_path / "seed", "a", "b")
    a.wait(lambda view: view.current is not None)
    with opened(core.root, None, None) as watcher:
        yield watcher, a, b


def until(watcher: watching.Watcher, name: str, *phases: str, timeout_s: float = 30.0) -> MemberView:
    deadline = time.monotonic() + timeout_s
    while True:
        found = {member.name: member for member in watcher.look().members}[name]
        if found.phase in phases:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def tell(member: Member, step: int) -> None:
    said = Progress(round=1, step=step, steps=10, loss=2.5, tokens_per_s=100.0)
    assert member.ask("POST", "/v1/runs/run/progress", said.to_bytes()).status_code == 200


def test_nodes_as_they_stand(
    watched: tuple[watching.Watcher, Member, Member], core: CoreUnderTest, tmp_path: Path
) -> None:
    watcher, a, b = watched
    plan = make_plan(tmp_path / "seed", total=3, min_nodes=2, quorum=2, deadline_s=4.0)
    assert (until(watcher, "a-1", "trains").step, watcher.look().phase) == (0, "training")
    tell(b, 4)
    told = until(watcher, "b-1", "trains", "late")
    assert (told.step, told.steps, told.loss, told.tokens_per_s) == (4, 10, 2.5, 100.0)
    assert a.score(plan, 3.5).status_code == 200
    a.hand_in(plan, 1.0)
    waits = until(watcher, "a-1", "waits")
    assert (waits.step, waits.scores, waits.trouble) == (10, {0: 3.5}, False)
    late = until(watcher, "b-1", "late")
    assert late.trouble and "a quorum: 1 of 2" in str(watcher.look().waiting_for)
    sent = b.contribute(b.contribution(plan, b.send_delta(0.0, shards(float("nan")))))
    refused = until(watcher, "b-1", "refused: not-finite")
    assert refused.trouble and sent.status_code in (200, 409)
    # the core goes away, and comes back
    assert not watcher.look().notes
    core.stop()
    assert "core serve" in watcher.look().notes[0]
    assert until(watcher, "a-1", "waits").scores == {0: 3.5}
    core.start()
    assert not watcher.look().notes


@pytest.mark.parametrize("beside", [True, False])
def test_a_core_that_hangs_holds_up_no_watch_of_a_node(
    core: CoreUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """The control: asked in the way, it waits as long as it waits for an answer."""
    monkeypatch.setattr(asking, "FIRST_S", 0.2)
    monkeypatch.setattr(watching, "READ_S", 1.5)
    node = NodeUnderTest(tmp_path, core.start(), "fr", residency=HERE)
    source, course = watching.OfNode(node.home.root), Course("run")
    assert core.process is not None and core.process.pid is not None
    os.kill(core.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        if beside:
            assert source.progress("run") == {}
            assert any(f"{core.url} has not answered since" in each for each in source.notes("run", course))
        else:
            with pytest.raises(Unreachable):
                source._ask("run")
        assert (time.monotonic() - began < 1) == beside
    finally:
        os.kill(core.process.pid, signal.SIGCONT)
    deadline = time.monotonic() + 20
    while beside and any("not answered" in each for each in source.notes("run", course)):
        assert time.monotonic() < deadline
        source.progress("run")
        time.sleep(0.1)
    source.close()


def a_snapshot(**other: object) -> Snapshot:
    members = [
        MemberView(name="acme-1", phase="trains", step=3, steps=10, loss=2.5, scores={0: 4.0, 1: 3.0}),
        MemberView(name="birch-1", phase="late", trouble=True),
    ]
    fields = {
        "phase": "training", "merges": 1, "rounds": 3, "parameters": 800_000, "members": members,
        "sent_bytes": 1_000_000, "synchronous_bytes": 2.5e8, "left_s": 125.0,
    }  # fmt: skip
    return Snapshot(**(fields | other))  # type: ignore[arg-type]


def test_the_live_view_says_what_is_amiss() -> None:
    out = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False)
    out.print(display.render(a_snapshot(notes=("the core is gone",)), elapsed_s=1))
    assert isinstance(out.file, io.StringIO)
    shown = out.file.getvalue()
    for wanted in ("round 2/3", "2 min 05 s left", "late", "the core is gone", "3.000",
                   "updates sent: 1.0 MB; synchronous training: 250.0 MB, 250 times as much"):  # fmt: skip
        assert wanted in shown, wanted
    assert "received" not in shown  # which only the node itself knows


def test_plain_lines_say_a_change_once() -> None:
    said: list[str] = []
    plain = display.PlainDisplay(said.append)
    for _ in range(3):
        plain.update(a_snapshot(notes=("the core is gone",)))
    plain.update(a_snapshot())
    plain.update(a_snapshot(notes=("the core is gone",)))
    text = "\n".join(said)
    assert text.count("birch-1: late") == 1
    assert text.count("round 1 of 3 merged, 2 min 05 s left") == 1
    assert text.count("the core is gone") == 2
    assert "base after 0 merges" not in text  # birch-1 may still score it
    plain.update(a_snapshot(merges=3))
    assert "base after 1 merges: acme-1 3.000 bits per byte" in "\n".join(said)


def test_only_what_happens_is_a_change() -> None:
    assert watching.same(a_snapshot(), a_snapshot(left_s=1.0))
    assert not watching.same(a_snapshot(), a_snapshot(merges=2))
    assert not watching.same(None, a_snapshot())
