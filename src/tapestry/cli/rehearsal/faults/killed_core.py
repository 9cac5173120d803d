"""The core dies in the middle of a round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapestry.cli.rehearsal import evidence
from tapestry.cli.rehearsal.defaults import RUN
from tapestry.cli.rehearsal.fault import Fault
from tapestry.node.home import read_json

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.fault import Stage
    from tapestry.cli.rehearsal.scene import Scene
    from tapestry.rounds.state import Round

SOME = 2
"""Updates are handed in when the core dies, and not all."""


def play(scene: Scene, on: Stage) -> None:
    on.waits("a round in which some have handed in and others still train")
    at = scene.until("a round under way", lambda: _under_way(scene))
    held = evidence.receipts(scene)
    scene.children.kill("core")
    killed_s = scene.seconds
    known = len(scene.entries())
    root = scene.opened.journal.tree_root(known).hex()
    handed_in = scene.state().find(at.round, at.fragment)
    number = len(handed_in.submissions) if handed_in is not None else 0
    on.did(
        f"kill -9 of the core's process in round {at.round}: {number} of {len(at.nodes)} updates handed in, "
        f"{known} ledger entries, {len(held)} receipts given in all"
    )
    on.waits("all nodes to notice")
    names = [member.name for member in scene.members if member.name not in scene.gone]
    scene.within(60.0, lambda: len(_waiting(scene, names)) == len(names))
    waiting = _waiting(scene, names)
    on.detected(
        "every node notices that the core is gone, and waits",
        len(waiting) == len(names),
        f"{len(waiting)} of {len(names)} nodes say so: {next(iter(waiting.values()), 'nothing')}",
    )
    scene.start_core()
    on.did(f"the core started again by the same command, {scene.seconds - killed_s:.1f} s after its death")
    on.waits("the round to end")
    entry = scene.until("the round's merge", lambda: scene.find("round-committed", round=at.round))
    after = scene.seconds - killed_s
    merged = evidence.merged_nodes(scene, at.round)
    on.recovered(
        "the round goes on, and its merge holds every node's update",
        set(merged) == set(at.nodes),
        f"round {at.round} merged {len(merged)} of {len(at.nodes)} updates {after:.1f} s after the kill",
    )
    same = scene.opened.journal.tree_root(known).hex() == root
    on.recovered(
        "the ledger only grew: its beginning has the same Merkle root as when the core died",
        same,
        f"{known} entries, root {root[:16]}…; now {len(scene.entries())} entries",
    )
    borne_out = evidence.borne_out(scene, held)
    on.recovered(
        "no contribution was lost: every receipt given before has its entry",
        borne_out == len(held) and bool(held),
        f"{borne_out} of {len(held)} receipts, each signature verified, name the entry of their contribution",
    )
    on.recorded(f"the merge of round {at.round}", entry=entry.sequence)
    on.recorded("what nodes noticed", scene.relative(scene.home(names[0]).log("agent")))
    on.recorded("receipts", scene.relative(scene.home(names[0]).receipts))
    on.look("tapestry ledger verify core", "every entry held against the rules, every merge repeated")
    on.look(f"tapestry run status --core core --run {RUN}", "how the run ended, and with which members")


def _under_way(scene: Scene) -> Round | None:
    at = scene.state().current
    if at is None or at.phase != "training" or not SOME <= len(at.submissions) < len(at.nodes):
        return None
    return at


def _waiting(scene: Scene, names: list[str]) -> dict[str, str]:
    """Nodes that say that they wait for the core, and why."""
    found = {}
    for name in names:
        told = read_json(scene.home(name).status("agent")) or {}
        if told.get("trouble"):
            found[name] = str(told["trouble"])
    return found


FAULT = Fault(
    key="killed-core",
    title="The core is killed in the middle of a round",
    member=None,
    part="",
    does="The core's process gets SIGKILL, which no program can catch, while some members have handed "
    "in their "
    "updates and others still train; then it is started again by the same command.",
    expected="Nodes notice and wait. After the restart the round goes on where it was: no ledger entry "
    "and no "
    "receipted contribution is lost, and the merge holds every member's update.",
    play=play,
)
