"""The core shows one node another history than the others."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tapestry.cli.rehearsal import evidence
from tapestry.cli.rehearsal.defaults import RUN
from tapestry.cli.rehearsal.fault import Fault
from tapestry.cli.rehearsal.link import HOST
from tapestry.errors import IntegrityError
from tapestry.ledger.entries import Entry

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.fault import Stage
    from tapestry.cli.rehearsal.scene import Scene

LIAR = "lying-core"
PATIENCE_S = 60.0
BLIP_S = 1.5
"""The line is away before the liar answers. Were it not, the node might hand in an update before it looks."""


def play(scene: Scene, on: Stage) -> None:
    victim, robbed = scene.members[1].name, scene.members[2].name
    home, link = scene.home(victim), scene.links[victim]
    port = _copied(scene)
    forked_at = len(scene.entries())
    on.did(f"the core copied with its key in {LIAR}/, at a ledger of about {forked_at} entries")
    on.waits("the true history to go on")
    scene.until_merges(1)
    scene.until("the node's own copy", lambda: _size(scene, victim) > forked_at + 2)
    _rewrite(scene, robbed)
    scene.children.start(LIAR, "core", "serve", str(scene.places.out / LIAR))
    scene.until("the lying core", lambda: _answers(port))
    logged = evidence.size(home.log("agent"))
    before = len(_liars_entries(scene))
    truth = link.target
    link.lead_to(port, BLIP_S)
    on.did(
        f"in the copy {robbed} was struck out of the run, signed with the core's true key; {victim}, and "
        f"nobody "
        "else, is led to it"
    )
    on.waits(f"{victim} to find the contradiction")
    scene.within(PATIENCE_S, lambda: bool(evidence.troubles(home, logged, "fork")))  # the proof comes first
    proofs, told = _proofs(home.ledger), evidence.troubles(home, logged, "fork")
    on.detected(
        "the node finds that the core has signed two histories",
        bool(told),
        str(told[0]["error"]) if told else f"nothing within {PATIENCE_S:.0f} s",
    )
    _verified(scene, on, proofs)
    new = [entry for entry in _liars_entries(scene)[before:] if entry.body.get("node") == victim]
    head = _head(scene, victim)
    true = {e.body["state"] for e in scene.entries() if e.scope == RUN and e.type == "round-committed"}
    on.recovered(
        "it takes nothing of the false history, and hands nothing in under it",
        head in true and not new,
        f"its base {head[:16]}… is of the true ledger; the lying core has {len(new)} new entries of {victim}",
    )
    link.lead_to(truth)
    scene.children.end(LIAR)
    on.did("the lying core ended; the node finds the true core at the same address again")
    _goes_on(scene, on, victim)
    for proof in proofs:
        on.recorded("the proof, which convicts the core's key", scene.relative(proof))
        on.look(
            f"tapestry ledger verify {scene.relative(proof)}",
            "both signed heads, and that they exclude each other; needs no ledger and no network",
        )
    on.recorded("what the node saw", scene.relative(home.log("agent")))


def _copied(scene: Scene) -> int:
    """The core, copied while it serves, on a port of its own; the port."""
    from tapestry.core import backup
    from tapestry.core import settings as core_settings
    from tapestry.core.home import Home

    saved, liar = scene.places.out / f"{LIAR}-copy", scene.places.out / LIAR
    backup.backup(scene.places.core, saved)
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port = int(sock.getsockname()[1])
    given = core_settings.load(Home(scene.places.core)).model_copy(update={"port": port})
    backup.restore(saved, liar, settings=given)
    return port


def _rewrite(scene: Scene, robbed: str) -> None:
    """Another history from the copy on, made by the copy's own rules and signed with the true key."""
    from tapestry.core import operator

    operator.withdraw(scene.places.out / LIAR, RUN, robbed)


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((HOST, port)) == 0


def _liars_entries(scene: Scene) -> list[Entry]:
    from tapestry.core.service import Core

    with Core.open(scene.places.out / LIAR) as core:
        found, _ = core.journal.entries(0, limit=1 << 20, max_bytes=1 << 30)
    return [Entry.from_bytes(each) for each in found]


def _verified(scene: Scene, on: Stage, proofs: list[Path]) -> None:
    if not proofs:
        on.detected("it writes a proof that anybody can check", False, "there is no proof")
        return
    said = scene.command("ledger", "verify", proofs[0], offline=True)
    right = said.code == 0 and said.value.get("consortium") == scene.opened.consortium.id
    on.detected(
        "its proof holds, checked offline by a program that knows nothing else",
        right and said.value.get("fork") is True,
        f"{proofs[0].name}, {proofs[0].stat().st_size:,} bytes: two heads of consortium "
        f"{scene.opened.consortium.id[:12]}… signed by its core's key that exclude each other"
        if right
        else said.stderr.strip()[-300:],
    )
    doctored = scene.places.out / "lying-core-proof-altered.json"
    doctored.write_text(_altered(proofs[0].read_text(encoding="utf-8")), encoding="utf-8")
    said = scene.command("ledger", "verify", doctored, offline=True)
    on.detected(
        "a proof in which one hash was altered is refused: nobody can be convicted by a made-up one",
        said.code == IntegrityError.exit_code,
        f"exit code {said.code}: {said.stderr.strip().splitlines()[0][:200] if said.stderr.strip() else ''}",
    )


def _altered(text: str) -> str:
    """With another root, which nobody has signed."""
    at = text.index('"root":"') + len('"root":"')
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


def _goes_on(scene: Scene, on: Stage, victim: str) -> None:
    on.waits(f"{victim} to take part again")
    since = len(scene.entries())
    entry = scene.until(
        "its next contribution", lambda: scene.find("contribution-accepted", after=since, node=victim)
    )
    number = int(entry.body["round"])
    scene.until("that round's merge", lambda: evidence.committed(scene, number))
    merged = evidence.merged_nodes(scene, number)
    on.recovered(
        "with the true core the node takes part again, and the run goes on with all",
        victim in merged,
        f"round {number} merged {', '.join(sorted(merged))}",
    )
    on.recorded(f"the merge of round {number}", entry=evidence.committed(scene, number))


def _proofs(folder: Path) -> list[Path]:
    return sorted(folder.glob("fork-*.json"))


def _head(scene: Scene, name: str) -> str:
    from tapestry.node.memory import Memory

    head = Memory(scene.home(name))[RUN].head
    return head.state if head is not None else ""


def _size(scene: Scene, name: str) -> int:
    """Entries of a node's own ledger on disk."""
    path = scene.home(name).ledger / "roots"
    return path.stat().st_size // 32 if path.exists() else 0


FAULT = Fault(
    key="lying-core",
    title="The core lies to one node",
    member=1,
    part="was shown another history by a lying core",
    does="The core is copied with its key. In the copy history goes another way: a member is struck out, and "
    "the core's own key signs it. One node is led to the copy, all others stay with the original.",
    expected="The node finds that both histories are signed by one key and cannot both be true. It takes "
    "nothing of it, hands nothing in, and writes a proof that convicts the core wherever it is shown.",
    play=play,
)
