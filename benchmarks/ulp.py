"""The least lie: one value of a model's base or momentum moved to the next one that fp32 has.

A core computes its merges as it should; of a half of them, chosen by chance, it then changes one value of one
tensor, hashes shard, manifest and state anew, records that and goes on with it. A node repeats each merge as
it follows the run, and an auditor repeats all of them afterwards. Both have to name the merges that were lied
about and no others. The control is an auditor who repeats none: it finds nothing.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.machine import say
from benchmarks.report import Report, Settings
from tapestry.cli import verification
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.core.views import round_record
from tapestry.errors import MergeMismatch
from tapestry.node.home import Home
from tapestry.node.memory import HeadMemory
from tapestry.node.people import People
from tapestry.node.sync import Library, Synchronizer
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.replay.client import Replayer
from tapestry.rounds.view import view_of
from tapestry.storage.blobs import BlobStore

if TYPE_CHECKING:
    from tests.audit.liar import LyingScene

LIES: Final = 1000
QUICK_LIES: Final = 20
OF_A_LEDGER: Final = 100
"""Merges; half of them are lies."""
NOT_SHOWN: Final = (
    "A small model of 5 tensors in 2 shards, two members, plain updates, Nesterov: the arithmetic and the "
    "hashes are the same for any other, the number of bits that can be wrong is not.",
    "Only what a merge gives: lies about what went into it are others (docs/security/attacks.md).",
    "Node and auditor in one process with the core, but for the worker that repeats: no network.",
)


@dataclass
class Tally:
    """Rounds of one or more ledgers."""

    merges: int = 0
    lies: int = 0
    by_node: int = 0
    by_auditor: int = 0
    wrongly: int = 0
    """Honest merges that were called lies."""
    unrepeated: int = 0
    """Lies that an auditor names who repeats no merge."""
    parts: dict[str, int] = field(default_factory=lambda: {"base": 0, "outer": 0})


class _Line:
    """Stands where a `CoreClient` does, without a network."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def round(self, run: str, number: int) -> RoundRecord:
        return round_record(self._core.journal, self._core.store, run, number)

    def members(self) -> dict[str, Any]:
        return {"members": self._core.consortium.members()}

    def download(self, sha: str, store: BlobStore, *, max_bytes: int) -> None:
        store.put(self._core.store.read(sha, max_bytes), durable=False)

    def download_blobs(self, blobs: Any, store: BlobStore) -> int:
        for blob in blobs:
            store.put(self._core.store.read(blob.sha256), durable=False)
        return sum(blob.bytes for blob in blobs)


class _Node:
    """Follows a run by repeating its merges; goes on from a lie it has found, to meet the next."""

    def __init__(self, folder: Path, core: Core, plan: Plan) -> None:
        home = Home(folder)
        home.make_folders()
        line: Any = _Line(core)
        self._plan = plan
        self._library = Library(line, BlobStore.open(home.blobs))
        self.replayer = Replayer(home.blobs)
        self._synchronizer = Synchronizer(
            *(home, self._library, self.replayer, core.consortium.id, People(line))
        )
        self._library.state(plan.initial_state, plan, outer=True)
        self._at = HeadMemory(merges=0, state=plan.initial_state, round=0)

    def believes(self, core: Core) -> bool:
        """Whether it comes to the newest base of the core by its own merge."""
        standing = core.runs.standing(self._plan.run)
        view = view_of(standing.state, standing.sequence)
        try:
            self._at, repeated = self._synchronizer.advance(self._at, view, self._plan)
        except MergeMismatch:
            head = view.head
            self._library.state(head.state, self._plan, outer=True)
            self._at = HeadMemory(merges=head.merges, state=head.state, round=head.round)
            return False
        assert repeated == 1
        return True


def measure(settings: Settings) -> Report:
    wanted = QUICK_LIES if settings.quick else LIES
    tally = Tally()
    while tally.lies < wanted:
        merges = min(OF_A_LEDGER, 2 * (wanted - tally.lies))
        with tempfile.TemporaryDirectory() as folder:
            _play(Path(folder), merges, seed=tally.merges, tally=tally)
        say(f"ulp: {tally.lies} of {wanted}: {tally.by_node} found by the node, {tally.by_auditor} after it")
    return _report(tally)


def _play(folder: Path, merges: int, *, seed: int, tally: Tally) -> None:
    from tests.audit.liar import LyingScene

    chance = random.Random(seed)
    lies = set(chance.sample(range(1, merges + 1), merges // 2))
    scene = LyingScene(folder / "core", seed)
    with scene.core:
        members = [scene.node(name) for name in ("ada", "bob")]
        plan = scene.running(*members, rounds_total=merges)
        doubted = _follow(scene, _Node(folder / "node", scene.core, plan), members, lies, merges)
        named, wrong = _audited(scene.core, unless="")
        unnamed, _ = _audited(scene.core, unless="control")
    tally.merges += merges
    tally.lies += len(lies)
    tally.by_node += len(doubted & lies)
    tally.by_auditor += len(named & lies)
    tally.wrongly += len((doubted | named) - lies) + wrong
    tally.unrepeated += len(unnamed)
    for part in scene.lied_about:
        tally.parts[part] += 1


def _follow(scene: LyingScene, node: _Node, members: Any, lies: set[int], merges: int) -> set[int]:
    with node.replayer:
        doubted = set()
        for number in range(1, merges + 1):
            scene.round(*members, lie=number in lies)
            if not node.believes(scene.core):
                doubted.add(number)
    return doubted


def _audited(core: Core, *, unless: str) -> tuple[set[int], int]:
    """Rounds that differ, and how many were neither the same nor different though they were repeated."""
    lines = Proofs(core.journal, core.consortium).lines(core.store)
    found, repeated = verification.verify(lines, core.store, unless=unless)
    named = {each.round for each in repeated.differing}
    return named, 0 if unless else found.merges - repeated.same - len(named)


def _report(tally: Tally) -> Report:
    report = Report(what="ulp", title="A lie of one bit", not_shown=NOT_SHOWN)
    report.section(
        "One value of fp32 moved to its neighbour",
        f"{tally.merges} merges, {tally.lies} of them lied about: {tally.parts['base']} in the base, "
        f"{tally.parts['outer']} in the momentum; tensor, value and direction by chance, hashes and "
        "signatures made anew, in ledgers that hold by their bytes. Of no miss in n tries it follows at 95 % "
        f"that less than 3/n are missed: {3 / tally.lies:.2%}.",
    )
    rows = [
        ["a node that repeats each merge", f"{tally.by_node} of {tally.lies}"],
        ["`tapestry ledger verify` of the core, blobs at hand", f"{tally.by_auditor} of {tally.lies}"],
        ["the same with `--no-merges` (control)", f"{tally.unrepeated} of {tally.lies}"],
        ["honest merges called a lie by either", f"{tally.wrongly} of {tally.merges - tally.lies}"],
    ]
    report.table(["who", "found"], rows)
    return report
