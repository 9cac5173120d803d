"""A consent is taken back while its text is being trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tapestry.cli.rehearsal import evidence
from tapestry.cli.rehearsal.defaults import RUN
from tapestry.cli.rehearsal.fault import Fault
from tapestry.ledger.entries import Entry
from tapestry.node import revoke as revoking
from tapestry.node.home import read_json
from tapestry.protocol.clock import add_seconds

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.fault import Stage
    from tapestry.cli.rehearsal.scene import Scene

STOP_S = 180.0
"""A trainer between two rounds looks whether text was withdrawn when it begins again, at most 90 s later."""
REASON = "the consent was taken back (rehearsal)"
UNDER_WAY_S = 2


def play(scene: Scene, on: Stage) -> None:
    name = scene.members[3].name
    home, dataset = scene.home(name), f"{name}-text"
    on.waits(f"{name} to train")
    number = scene.until("a training", lambda: _training(scene, name))
    since = len(scene.entries())
    scene.children.let_end(name)
    began = scene.seconds
    mark = revoking.revoke(home, dataset, reason=REASON, tell=False).mark
    on.did(f"{dataset} revoked at {name}'s node in the middle of round {number}")
    on.waits(f"{name}'s node to stop")
    code = scene.within(STOP_S, lambda: scene.children.ended(name))
    log = scene.children.log(name).read_text(encoding="utf-8", errors="replace")
    line = next((each for each in log.splitlines() if "rule withdrawn" in each), "")
    on.detected(
        "training with it stops by itself, and the node says by which rule",
        code not in (None, 0) and bool(line),
        f"{line.strip()[:160]} ({scene.seconds - began:.1f} s after the mark)"
        if line
        else f"the node goes on (exit code {code})",
    )
    said = scene.command("catalog", "revoke", dataset, "--home", home.root, "--reason", REASON)
    on.did(f"tapestry catalog revoke {dataset}: the same again changes nothing, and lists what it touched")
    on.detected(
        "the dataset stays marked as withdrawn, for good",
        said.code == 0 and said.value.get("withdrawn_at") == mark.at,
        f"withdrawn at {mark.at}" if said.code == 0 else said.stderr.strip()[-300:],
    )
    _listed(scene, on, name, said.value)
    if code is None:
        scene.children.end(name)
    scene.gone.add(name)
    withdrawn = scene.command("run", "withdraw", name, "--core", scene.places.core, "--run", RUN)
    on.did(f"the operator no longer expects {name} in the run (exit code {withdrawn.code})")
    merges = scene.state().merges
    scene.until_merges(2)
    after = scene.entries()[since:]
    late = _handed_in(after, name, mark.at)
    on.detected(
        "nothing made of it is handed in any more",
        not late,
        f"{len(late)} updates of {name} since then, among {len(after)} ledger entries",
    )
    newest = evidence.merged_nodes(scene, scene.state().head_round)
    on.recovered(
        "the run goes on without it",
        name not in newest and bool(newest),
        f"{scene.rounds_since(merges)} merges since, the newest of {', '.join(sorted(newest))}",
    )
    left = scene.find("node-withdrawn", after=since, node=name)
    if left is not None:
        on.recorded(f"{name} is expected no more", entry=left.sequence)
    on.recorded("the mark of the withdrawal", f"nodes/{name}/cards/withdrawn/{dataset}.json")
    on.recorded("why the node stopped", scene.relative(scene.children.log(name)))
    on.look(
        f"tapestry catalog revoke {dataset} --home nodes/{name} --offline --json",
        "the same list again, with every hash: a second time it changes nothing",
    )
    on.look(f"tapestry catalog check --home nodes/{name}", "what may be trained on at this node by now")


def _handed_in(entries: Sequence[Entry], node: str, withdrawn_at: str) -> list[Entry]:
    """What came from a node after the mark; a request that was under way in that moment is let through."""
    until = add_seconds(withdrawn_at, UNDER_WAY_S)
    types = ("contribution-committed", "contribution-revealed", "contribution-received")
    return [e for e in entries if e.type in types and e.body["node"] == node and e.at > until]


def _training(scene: Scene, name: str) -> int | None:
    """A round that this node's trainer is in the middle of, and has handed in nothing for."""
    at = scene.state().current
    told = read_json(scene.home(name).trainer_progress) or {}
    if at is None or at.phase != "training" or name in at.submissions:
        return None
    return at.round if told.get("round") == at.round and (told.get("step") or 0) >= 1 else None


def _listed(scene: Scene, on: Stage, name: str, said: dict[str, Any]) -> None:
    """What it touched is held against the core's ledger, which the command has not read."""
    listed = {each["contribution"] for each in said.get("contributions", ())}
    rounds = {each["merged_in"] for each in said.get("contributions", ())} - {None}
    merged = {
        each["contribution"]: entry.body["round"]
        for entry in scene.entries()
        if entry.scope == RUN and entry.type == "round-closed"
        for each in entry.body["merged"]
        if each["node"] == name
    }
    bases = sum(len(each["bases"]) for each in said.get("runs", ()))
    # The node's own ledger may be a round behind the core's when it is asked.
    lacking = sorted(merged[each] for each in merged.keys() - listed)
    on.detected(
        "everything it touched is listed, from the node's own ledger",
        bool(listed) and len(lacking) <= 1 and rounds <= set(merged.values()),
        f"{len(listed)} updates, {len(rounds)} of {len(merged)} merges, {bases} bases that descend from it",
    )


FAULT = Fault(
    key="revoked-dataset",
    title="A dataset is revoked while it is trained on",
    member=3,
    part="its dataset was revoked",
    does="An owner takes back the consent for a dataset, by one command at its node, while the node is "
    "in the "
    "middle of a round.",
    expected="Training with it stops at the next step, nothing made of it leaves any more, everything it has "
    "touched is listed, and the run goes on without it. What is learned cannot be unlearned: the list "
    "says so.",
    play=play,
)
