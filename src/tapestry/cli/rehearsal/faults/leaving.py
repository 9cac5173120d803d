"""A member takes what is its own, and goes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tapestry.cli.rehearsal import evidence
from tapestry.cli.rehearsal.fault import Fault
from tapestry.errors import KeyRefused, TapestryError

if TYPE_CHECKING:
    from pathlib import Path

    from tapestry.cli.rehearsal.fault import Stage
    from tapestry.cli.rehearsal.scene import Scene


def play(scene: Scene, on: Stage) -> None:
    name = scene.members[2].name
    home, bundle = scene.places.node(name), scene.places.out / "bundle"
    scene.until_training()
    scene.children.end(name)
    scene.gone.add(name)
    since, began = len(scene.entries()), scene.seconds
    on.did(f"{name} stops its node, and takes leave with everything that is its own")
    said = scene.command("node", "leave", home, "--out", bundle, "--member", scene.places.member(name))
    took = scene.seconds - began
    on.recovered(
        "a bundle with base, updates, cards, ledger and proofs is written, and nothing lacks",
        said.code == 0 and said.value.get("complete") is True,
        f"{_size(bundle):,} bytes in {took:.1f} s" if said.code == 0 else said.stderr.strip()[-300:],
    )
    checked = scene.command("bundle", "verify", bundle, offline=True)
    rows = checked.value.get("checked") or {}
    on.recovered(
        "checked offline, every byte, from the bundle alone",
        checked.code == 0 and checked.value.get("complete") is True,
        f"{checked.value.get('contributions')} contributions with proofs, {rows.get('ledger', '')}"
        if checked.code == 0
        else checked.stderr.strip()[-300:],
    )
    _altered(scene, on, bundle)
    refused = _asks(home)
    on.detected(
        "from now on the core refuses its keys",
        refused is not None,
        refused or "the core still answers to it",
    )
    on.waits("the run to go on with who is left")
    merges = scene.state().merges
    scene.until_merges(2)
    newest = evidence.merged_nodes(scene, scene.state().head_round)
    on.recovered(
        "the run goes on with who is left",
        name not in newest and len(newest) == len(scene.members) - len(scene.gone),
        f"{scene.rounds_since(merges)} merges since, the newest of {', '.join(sorted(newest))}",
    )
    ended = scene.find("key-revoked", after=since, member=name)
    if ended is not None:
        on.recorded(f"the end of {name}'s keys", entry=ended.sequence)
    left = scene.find("node-withdrawn", after=since, node=name)
    if left is not None:
        on.recorded(f"{name} is expected no more: {left.body['reason']}", entry=left.sequence)
    on.recorded("the bundle", "bundle")
    on.look("tapestry bundle verify bundle", "every finding; on any machine, with no network")
    on.look("tapestry ledger verify bundle/ledger.jsonl --blobs bundle/blobs", "the ledger it took along")


def _altered(scene: Scene, on: Stage, bundle: Path) -> None:
    """The same bundle with one bit of its base turned."""
    copy = scene.places.out / "bundle-altered"
    if not bundle.is_dir():
        return
    shutil.copytree(bundle, copy)
    victim = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    said = scene.command("bundle", "verify", copy, offline=True)
    shutil.rmtree(copy)
    first = said.stderr.strip().splitlines()[0] if said.stderr.strip() else ""
    on.detected(
        f"a copy of it in which one bit of {len(data):,} bytes was turned is refused",
        said.code == 3,
        f"exit code {said.code}: {first[:160]}",
    )


def _asks(home: Path) -> str | None:
    """What the core says to a request that is signed with the member's key."""
    from tapestry.node import setup
    from tapestry.node.home import Home

    try:
        with setup.connect(Home(home)) as client:
            client.members()
    except KeyRefused as error:
        return error.message
    except TapestryError as error:
        return f"{error.code}: {error.message}" if error.code == "unknown-member" else None
    return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


FAULT = Fault(
    key="leaving",
    title="A member leaves",
    member=2,
    part="left, with a bundle",
    does="A member stops its node and leaves, asking nobody: its bundle is written, its keys are ended.",
    expected="The bundle is complete and can be checked offline by anybody; one turned bit is found. "
    "The core "
    "refuses the ended keys from then on, and the others go on.",
    play=play,
)
