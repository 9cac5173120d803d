"""Whether a disk has room for the rounds to come."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tapestry.cli.checkup.finding import Finding, fail, ok
from tapestry.cli.output import human_bytes
from tapestry.governance.planner import keeping
from tapestry.governance.planner.load import Load
from tapestry.protocol.layout import Layout

if TYPE_CHECKING:
    from tapestry.rounds.state import RunState
    from tapestry.storage.blobs import BlobStore


def check_room(
    folder: Path, states: Iterable[RunState], store: BlobStore, rounds: int, *, at_core: bool
) -> Iterator[Finding]:
    """For so many more rounds of every run that is not over."""
    needed, names = 0.0, []
    for state in states:
        if state.status == "finished":
            continue
        more = min(rounds, state.plan.rounds.total - state.merges)
        names.append(f"{more} rounds of {state.run}")
        needed += _more(state, store, more, at_core=at_core)
    if not names:
        yield ok("room for rounds", "no run goes on")
        return
    free = shutil.disk_usage(folder).free
    found = f"{', '.join(names[:4])} take {human_bytes(needed)}; {human_bytes(free)} are free at {folder}"
    if needed > free:
        where = "another disk or an object store" if at_core else "another disk"
        mend = f"free some space, move the blobs to {where}, or lower [retention] in the plan"
        yield fail("room for rounds", found, mend)
    else:
        yield ok("room for rounds", found)


def _more(state: RunState, store: BlobStore, rounds: int, *, at_core: bool) -> float:
    """Bytes on disk after so many more rounds, less those of now; both as the planner reckons."""
    plan, nodes = state.plan, max(1, len(state.enrolled))
    layout = Layout.from_bytes(store.read(plan.layout, Layout.MAX_BYTES))
    load = Load.of(layout, plan.codec, plan.streaming.fragments)

    def disk(merges: int) -> float:
        if at_core:
            return keeping.core_disk(plan, load, plan.parameters, nodes, merges)
        repeats = plan.sync == "replay"
        return keeping.node_disk(plan, load, plan.parameters, nodes, merges, repeats=repeats)

    return max(0.0, disk(state.merges + rounds) - disk(state.merges))
