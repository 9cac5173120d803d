"""The line between a node and the core breaks in the middle of an upload."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tapestry.cli.rehearsal import evidence
from tapestry.cli.rehearsal.defaults import AWAY_S, CUT_AT
from tapestry.cli.rehearsal.fault import Fault

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.fault import Stage
    from tapestry.cli.rehearsal.scene import Scene


def play(scene: Scene, on: Stage) -> None:
    name = scene.members[0].name
    link, home = scene.links[name], scene.home(name)
    logged = evidence.size(home.log("agent"))
    link.cut_in_upload(round(CUT_AT * 4 * scene.state().plan.parameters), AWAY_S)
    on.waits(f"{name} to send an update")
    cut_at = scene.until("an upload", lambda: link.cut_at)
    cut = link.uploads[-1]
    on.did(f"{name}'s link cut after {cut.bytes:,} bytes of an upload, and away for {AWAY_S:.0f} s")
    at = scene.state().current
    number = at.round if at is not None else scene.state().last_round
    update = scene.until("the update", lambda: evidence.update_of(home, number))
    sha, size = update
    has = scene.within(AWAY_S, lambda: _at_core(scene, name, sha)) or 0
    on.did(f"the core holds {has:,} of the update's {size:,} bytes")
    scene.within(AWAY_S + 20.0, lambda: bool(evidence.troubles(home, logged, "unreachable")))
    told = evidence.troubles(home, logged, "unreachable")
    on.detected(
        "the node notices, says so and tries again by itself",
        bool(told),
        f"{told[0]['error']} ({link.refused} more tries while the link was away)" if told else "nothing said",
    )
    on.waits("the link to be back, and the round to end")
    entry = scene.until("the round's merge", lambda: scene.find("round-committed", round=number))
    after = [each for each in link.uploads if each.at > cut_at]
    rest = after[0].bytes if after else 0
    on.recovered(
        "the upload goes on where it broke off, and does not begin anew",
        0 < has < size and 0 < rest < size,
        f"the core kept {has:,} of {size:,} bytes; {rest:,} more went up, headers and encryption with them",
    )
    stored = scene.opened.store.read(sha) if scene.opened.store.has(sha) else b""
    on.recovered(
        "the same bytes arrived that passed the node's gate",
        len(stored) == size,
        f"{len(stored):,} bytes at the core with SHA-256 {sha[:16]}…, as in the node's own log",
    )
    merged = evidence.merged_nodes(scene, number)
    on.recovered(
        "the round's merge holds the node's update",
        name in merged,
        f"round {number} merged {', '.join(sorted(merged))}, {time.monotonic() - cut_at:.1f} s after the cut",
    )
    on.recorded(f"the merge of round {number}", entry=entry.sequence)
    on.recorded("what left the node, with its hash", scene.relative(home.egress_log))
    on.recorded("the node's trouble, and its end", scene.relative(home.log("agent")))
    on.look(f"tapestry node egress nodes/{name}", f"everything that left {name}: time, kind, size, SHA-256")
    on.look(f"sha256sum core/blobs/{sha[:2]}/{sha}", "the update at the core has the hash that is its name")


def _at_core(scene: Scene, name: str, sha: str) -> int | None:
    """Bytes of a blob that the core holds in part, asked with the node's key and past its link."""
    from tapestry.node import setup

    with setup.connect(scene.home(name), core_url=scene.core_url()) as client:
        return client.missing([sha]).get(sha) or None


FAULT = Fault(
    key="cut-link",
    title="A node's connection is cut in an upload",
    member=0,
    part="its link was cut in an upload",
    does="A relay between one node and the core breaks all connections in the middle of an update's "
    "upload, and "
    f"refuses every new one for {AWAY_S:.0f} seconds.",
    expected="The node notices and tries again by itself. When the link is back the upload goes on where it "
    "broke off; the core ends up with the very bytes that passed the node's gate, and the round waits "
    "for them.",
    play=play,
)
