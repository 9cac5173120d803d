"""What canaries in members' text leave behind in a run's traffic and on the core's disk: nothing, unless the
gate's checks are off."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchmarks.federation import Case
from benchmarks.leaks import CANARIES, evidence
from benchmarks.recorder import Recorder

from tapestry.core import operator
from tapestry.errors import Leak, TapestryError
from tapestry.node import canaries, listing
from tapestry.node.gate import Gate
from tapestry.node.home import Home
from tapestry.node.leaks import Searcher, search
from tapestry.node.status import node_status
from tapestry.training.spool import TrainJob
from tests.cards import give_card
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.federation.support import write_text
from tests.node.support import NodeUnderTest, wait_until, write_output

MOST_BEYOND = 0.02
"""Of the declared bytes, that may leave and be none of them: start lines and headers of requests."""
WAYS = ("weights", "data set name", "log line", "exception", "file name")


def test_ten_thousand_canaries_leave_nothing_behind(tmp_path: Path) -> None:
    """Real core, nodes and trainers, the demo's model."""
    case = Case(nodes=2, rounds=2, steps=6, never_scored=False)
    found = evidence(case, tmp_path / "run", CANARIES)
    print(found)
    assert found.planted == CANARIES and found.leaked == []
    assert found.captured > 1 << 20 and found.disk > 1 << 20
    for where in found.at_home.values():  # the control: in text and in tokens they are found
        assert {Path(each).name for each in where} == {"train-canaries.jsonl", "train.tokens"}
    assert -MOST_BEYOND < found.beyond < MOST_BEYOND
    assert all(found.sent[node] > 1 << 19 for node in found.declared)


class Leaking:
    """A trainer that puts a canary wherever it can."""

    def __init__(self, home: Home, marks: dict[str, str]) -> None:
        self._home, self._marks = home, marks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Leaking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        home, marks = self._home, self._marks
        home.log("trainer").write_text(f"step 3 of {marks['log line']}\n")
        error = {"code": "corpus", "message": f"bad line: {marks['exception']}", "hint": None}
        home.status("trainer").write_text(json.dumps({"role": "trainer", "error": error}))
        (home.outputs / f"{marks['file name']}.tmp").write_text("")
        (home.outputs / f"{marks['file name']}.1").mkdir()
        while not self._stop.wait(0.01):
            try:
                job = TrainJob.from_bytes(home.job.read_bytes())
            except (FileNotFoundError, TapestryError):
                continue
            if not home.output(job.run, job.round).exists():
                said = {"cpu": marks["data set name"]}
                write_output(home, job, self._data() if job.train else [], environment=said)

    def _data(self) -> list[bytes]:
        """Digits as in a list of token ids: read as floats they are small."""
        data = [bytearray(each) for each in shards(2.0)]
        digits = ", ".join(str(byte) for byte in self._marks["weights"].encode()).encode()
        data[0][400 : 400 + len(digits)] = digits
        return [bytes(each) for each in data]


@contextmanager
def gate_here(home: Home) -> Iterator[None]:
    """The gate, in this process, so that its checks can be switched off."""
    stop = threading.Event()
    gate = Gate(home, "all")

    def work() -> None:
        while not stop.wait(0.01):
            gate.step()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreUnderTest]:
    core = CoreUnderTest(tmp_path / "core").start()
    yield core
    core.close()


@pytest.fixture
def node(core: CoreUnderTest, tmp_path: Path) -> Iterator[NodeUnderTest]:
    """A joined node of a run of one member, whose traffic is written down in `capture`."""
    plan = make_plan(tmp_path / "seed", total=1, min_nodes=1, quorum=1)
    operator.plan(core.root, plan, tmp_path / "seed")
    operator.start(core.root, plan.run)
    with Recorder(int(core.url.rpartition(":")[2]), tmp_path / "capture") as recorder:
        core.url = f"http://127.0.0.1:{recorder.port}"
        node = NodeUnderTest(tmp_path, core, "fr")
        yield node
        node.stop()


def outside(tmp_path: Path, marker: str) -> bool:
    """Whether it is anywhere in the traffic or on the core's disk."""
    places = (tmp_path / "capture", tmp_path / "core")
    return any(hit for at in places for hit in search(Searcher(marker), at))


def test_with_the_checks_off_a_canary_is_found_in_what_left(
    node: NodeUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a log, an exception or a file's name says leaves by no way, even then."""
    off: list[str] = []
    for target in ("leaks.Leaks.check", "leaks.Leaks.check_file", "environment.Forms.check"):
        monkeypatch.setattr(f"tapestry.node.{target}", lambda *_, target=target: off.append(target))
    marks = {way: canaries._marker() for way in WAYS}
    with Leaking(node.home, marks), gate_here(node.home):
        node.start_role("agent", "--once")
        assert node.wait() == 0, node.log()
    assert len(set(off)) == 3, "the checks that are off were asked"
    assert {way: outside(tmp_path, marks[way]) for way in WAYS} == {
        "weights": True,
        "data set name": True,
        "log line": False,
        "exception": False,
        "file name": False,
    }
    for way in WAYS:  # each was written where it stays
        assert list(search(Searcher(marks[way]), node.home.root)), way


def test_with_the_gate_on_nothing_leaves_and_the_owner_is_told(node: NodeUnderTest, tmp_path: Path) -> None:
    canaries.plant(node.home, 5, tmp_path / "text" / "train-canaries.txt")
    said = canaries.load(node.home)
    assert said is not None
    with Leaking(node.home, dict.fromkeys(WAYS, said.marker)):
        node.start_role("gate")
        node.start_role("agent", "--once")
        wait_until(node.home.refusal("run", 1).exists)
        told = json.loads(node.home.refusal("run", 1).read_bytes())
        wait_until(lambda: "refused round 1" in (node.status("agent")["runs"]["run"]["note"] or ""))
    assert (told["code"], "result.json" in told["reason"]) == ("leak", True)
    assert not outside(tmp_path, said.marker)
    gate = node_status(node.home.root)["gate"]
    assert (gate["canaries"], gate["refused"]) == (5, 2)
    assert gate["last_refused"]["code"] == "leak"
    for text in (json.dumps(gate), node.log("gate"), node.log("agent")):
        assert said.marker not in text
    assert node.log("gate").count('"leak"') == 2


def test_a_card_that_quotes_the_text_is_not_published(
    node: NodeUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set's name, and what else its owner shows of it, leaves by the owner's own command."""
    write_text(tmp_path / "letters", "word ")
    canaries.plant(node.home, 5, tmp_path / "letters" / "train-canaries.jsonl")
    said = canaries.load(node.home)
    assert said is not None
    card = give_card(node.home.root, tmp_path / "letters", name=said.marker).card
    with pytest.raises(Leak) as caught:
        listing.publish(node.home, [card])
    assert said.marker not in f"{caught.value.message} {caught.value.hint}"
    assert not outside(tmp_path, said.marker)
    monkeypatch.setattr("tapestry.node.leaks.Leaks.check", lambda *_: None)
    listing.publish(node.home, [card])
    assert outside(tmp_path, said.marker)
