"""A node with real keys sends what would harm the base, or is not its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tapestry.cli.demo import cards
from tapestry.cli.rehearsal import evidence
from tapestry.cli.rehearsal.defaults import LARGEST_NORM, RUN, WAIT_S
from tapestry.cli.rehearsal.fault import Fault
from tapestry.cli.rehearsal.hostile import Hostile, Values
from tapestry.errors import Refused, TapestryError

if TYPE_CHECKING:
    from pathlib import Path

    from tapestry.cli.rehearsal.fault import Stage
    from tapestry.cli.rehearsal.scene import Scene
    from tapestry.ledger.entries import Entry

CLAIM = 1000
"""Times the tokens that a round has."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """An update, what it is, and why it should be refused."""

    what: str
    values: Values
    reason: str
    because: str


def play(scene: Scene, on: Stage) -> None:
    member = scene.members[4].name
    node = f"{member}-2"
    home = _joined(scene, member, node)
    on.did(f"{node}, a second node of {member} with keys that the core knows, is in hostile hands")
    since = len(scene.entries())
    with Hostile(home) as hostile:
        hostile.enrol()
        _claims(hostile, on)
        _sends(scene, on, hostile, node, scene.members[0].name)
        said = scene.command("run", "withdraw", node, "--core", scene.places.core, "--run", RUN)
        on.did(f"the operator withdraws {node} from the run (exit code {said.code})")
        refused = _enrols_again(hostile)
    on.detected(
        "once withdrawn it may not come back",
        refused is not None,
        refused or "it was let in again",
    )
    entry = scene.find("node-withdrawn", after=since, node=node)
    if entry is not None:
        on.recorded("its withdrawal", entry=entry.sequence)
    scene.until_merges(1)
    merged = [e for e in scene.entries()[since:] if e.scope == RUN and e.type == "round-closed"]
    inside = [e for e in merged if any(each["node"] == node for each in e.body["merged"])]
    honest = min((len(e.body["merged"]) for e in merged), default=0)
    on.recovered(
        "no merge holds anything of it, and every honest update is in",
        bool(merged) and not inside and honest == len(scene.members) - len(scene.gone),
        f"{len(merged)} merges since it joined, {len(inside)} with an update of {node}, "
        f"at least {honest} honest ones in each",
    )
    on.recorded("what the core saw in each update", "core/logs/core.log")
    on.look(
        "tapestry account show ledger.jsonl", "what each member gave; of the refused updates, nothing counts"
    )


def _joined(scene: Scene, member: str, node: str) -> Path:
    from tapestry.core import operator
    from tapestry.node import setup

    home = scene.places.node(node)
    owner, text = scene.places.member(member), scene.places.texts / member
    setup.init(home, owner, node, text, threads=1, residency=cards.HERE)
    token = operator.invite(scene.places.core, member)
    setup.join(home, scene.core_url(), token, ca=scene.places.tls / "ca.pem", member_dir=owner)
    return home


def _claims(hostile: Hostile, on: Stage) -> None:
    on.waits("a round that expects the hostile node")
    error = hostile.claim(hostile.round(), CLAIM)
    on.detected(
        f"a claim of {CLAIM:,} times the tokens that a round has, to weigh more, is refused at once",
        isinstance(error, Refused),
        error.message if error is not None else "it was taken in",
    )


def _sends(scene: Scene, on: Stage, hostile: Hostile, node: str, victim: str) -> None:
    """One update a round, each of another kind."""
    loud = hostile.loud()
    tries = [
        Try(
            what=f"an update of length {hostile.norm(loud):,.0f}, far longer than honest ones",
            values=loud,
            reason="over-norm",
            because=f"the plan allows a length of {LARGEST_NORM:g}",
        )
    ]
    if scene.thorough:
        tries.append(
            Try(
                what="an update with one value that is not a number",
                values=hostile.broken(),
                reason="not-finite",
                because="it would spread over the whole base",
            )
        )
    for each in tries:
        _send(scene, on, hostile, node, each)
    if scene.thorough:
        at = scene.state().head_round
        copied = Try(
            what=f"{victim}'s update of round {at}, halved and with its sign turned",
            values=hostile.copied(at, victim),
            reason="copied",
            because="it is like another's beyond what all updates have in common",
        )
        _send(scene, on, hostile, node, copied)


def _send(scene: Scene, on: Stage, hostile: Hostile, node: str, given: Try) -> None:
    on.waits("the next round")
    since, at = len(scene.entries()), hostile.round()
    error: TapestryError | None = None
    on.did(f"round {at.round}: {node} commits and sends {given.what}")
    try:
        hostile.send(at, given.values)
    except TapestryError as refused:
        error = refused

    def outcome() -> str | None:
        for type_ in ("contribution-refused", "contribution-accepted"):
            entry = scene.find(type_, after=since, node=node)
            if entry is not None:
                return str(entry.body.get("reason", "accepted"))
        return None

    found = scene.within(WAIT_S, outcome)
    entry = scene.find("contribution-refused", after=since, node=node)
    on.detected(
        f"refused as {given.reason}: {given.because}",
        found == given.reason,
        _said(scene, node, at.round, entry) if found else f"no word of it: {error}",
    )
    if entry is not None:
        on.recorded(f"refused as {found}, round {at.round}", entry=entry.sequence)
    scene.until("that round's merge", lambda: evidence.committed(scene, at.round))


def _said(scene: Scene, node: str, number: int, entry: Entry | None) -> str:
    """What the ledger has of it, and what the core wrote into its log."""
    if entry is None:
        return "it was accepted"
    told = (
        str(line["error"])
        for line in evidence.log_lines(scene.places.core / "logs" / "core.log")
        if (line.get("event"), line.get("node"), line.get("round")) == ("contribution-refused", node, number)
    )
    return f"ledger entry {entry.sequence}: {entry.body['reason']}; {next(told, 'the core says no more')}"


def _enrols_again(hostile: Hostile) -> str | None:
    try:
        hostile.enrol()
    except TapestryError as error:
        return error.message
    return None


FAULT = Fault(
    key="hostile-node",
    title="A node with real keys turns hostile",
    member=4,
    part="a second node of it turned hostile",
    does="A second node of one member, admitted and with valid keys, is driven by a program that signs "
    "what no "
    "trainer made: a false claim, an update that is far too large, one that is not a number, and another "
    "member's work as its own.",
    expected="Each is refused for its own reason, which the ledger states for all to see; none is in a "
    "merge. "
    "The operator withdraws the node, and it cannot come back.",
    play=play,
)
