"""The end of a rehearsal: the run is ended, and all of it is checked again from its bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tapestry.cli.rehearsal import telling
from tapestry.cli.rehearsal.defaults import RUN
from tapestry.cli.rehearsal.fault import LEDGER, Fault
from tapestry.cli.rehearsal.told import Figure, Member

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.fault import Stage
    from tapestry.cli.rehearsal.scene import Scene

VERIFIED: Final = "ledger-verified.json"


def play(scene: Scene, on: Stage) -> None:
    from tapestry.core import operator

    scene.until_merges(scene.size.last_merges)
    plan = operator.current_plan(scene.places.core, RUN)
    rounds = plan.rounds.model_copy(update={"total": scene.state().merges + 1})
    operator.revise(
        scene.places.core, plan.model_copy(update={"rounds": rounds, "revision": plan.revision + 1})
    )
    on.did("the operator lets the run end with the next merge")
    left = [member.name for member in scene.members if member.name not in scene.gone]
    on.waits("all nodes that are left to have the last base")
    scene.until("the end of the run", lambda: scene.state().status == "finished")
    scene.until("the nodes' end", lambda: all(scene.children.ended(name) == 0 for name in left))
    scene.entries()
    scene.children.let_end("core")
    scene.children.end("core")
    heads = {name: _head(scene, name) for name in left}
    on.recovered(
        "all members that are left ended with the same base, to the bit",
        set(heads.values()) == {scene.state().head},
        f"{', '.join(left)}: state {scene.state().head[:16]}…",
    )
    said = scene.command("ledger", "verify", scene.places.core)
    (scene.places.out / VERIFIED).write_text(json.dumps(said.value, indent=1) + "\n", encoding="utf-8")
    merges = scene.state().merges
    on.recovered(
        "the whole ledger holds, verified from its first byte with every merge repeated",
        said.code == 0 and said.value.get("merges_repeated") == merges and not said.value["merges_differing"],
        f"{said.value.get('entries')} entries, {said.value.get('contributions')} contributions, "
        f"{said.value.get('merges_repeated')} of {merges} merges repeated, all the same to the bit"
        if said.code == 0
        else said.stderr.strip()[-300:],
    )
    own = scene.command("ledger", "verify", scene.places.node(left[0]), "--no-merges", offline=True)
    size = int(own.value.get("entries") or 0)
    root = scene.opened.journal.tree_root(size).hex() if size else ""
    on.recovered(
        f"{left[0]}'s own copy of the ledger, verified without a network, is the beginning of the core's",
        own.code == 0 and own.value.get("root") == root,
        f"{size} entries with root {root[:16]}… at both; the core wrote {len(scene.entries()) - size} more "
        "after the node had ended",
    )
    scene.command("ledger", "export", "--core", scene.places.core, scene.places.out / LEDGER)
    on.recorded("what the verification found", VERIFIED)
    on.recorded("the whole ledger, in one file")
    on.look(f"tapestry ledger verify {LEDGER} --blobs core/blobs", "the same verification, from that file")
    on.look("tapestry run recompute --core core", "every merge, repeated once more")


def _head(scene: Scene, name: str) -> str:
    from tapestry.node.memory import Memory

    head = Memory(scene.home(name))[RUN].head
    return head.state if head is not None else ""


def members(scene: Scene, parts: dict[str, str]) -> tuple[Member, ...]:
    """Who took part, and what became of it."""
    merged: dict[str, int] = {}
    scores: dict[str, dict[int, float]] = {}
    for entry in scene.entries():
        if entry.scope == RUN and entry.type == "round-closed":
            for each in entry.body["merged"]:
                merged[each["member"]] = merged.get(each["member"], 0) + 1
        elif entry.scope == RUN and entry.type == "score-published":
            scores.setdefault(entry.body["member"], {})[entry.body["merges"]] = entry.body["bits_per_byte"]
    found = []
    for member in scene.members:
        own = scores.get(member.name, {})
        found.append(
            Member(
                name=member.name,
                about=member.about,
                part=parts.get(member.name, ""),
                merged=merged.get(member.name, 0),
                start=own[min(own)] if own else None,
                end=own[max(own)] if own else None,
            )
        )
    return tuple(found)


def figures(scene: Scene) -> tuple[Figure, ...]:
    """What the front page counts."""
    entries, state = scene.entries(), scene.state()

    def count(*types: str) -> int:
        return sum(entry.type in types for entry in entries)

    told: list[tuple[str, Any]] = [
        ("members, each with a node of its own", len(scene.members)),
        ("parameters of the shared model", f"{state.plan.parameters:,}"),
        ("merges, each repeated by every node", state.merges),
        ("contributions handed in", count("contribution-committed", "contribution-received")),
        ("of these refused, with their reason", count("contribution-refused")),
        ("times a witness signed that a merge is right", count("base-attested")),
        ("entries of the ledger", len(entries)),
    ]
    return tuple(Figure(name=name, value=str(value)) for name, value in told)


CLOSING: Final = Fault(
    key=telling.CLOSING,
    member=None,
    part="",
    title="At the end: everything is checked again",
    does="The run is ended, all processes stop, and what lies on disk is verified from its bytes.",
    expected="Whoever is left has the same base to the bit, and the ledger with all its merges holds.",
    play=play,
)
