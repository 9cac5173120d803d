"""Recorded rounds out of nodes' homes, for `tapestry run estimate --calibrate`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from tapestry.errors import InputError, NotFound
from tapestry.governance.planner.calibrate import Recorded, checked
from tapestry.governance.planner.members import Member, MembersFile
from tapestry.node import lines, settings
from tapestry.node.home import Home, parse_round_name
from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore

BEGINNING: Final = 2
"""Rounds in which things are loaded for the first time; left out where enough others are there."""
ENOUGH: Final = 3
Line = Mapping[str, Any]


def recorded(homes: Sequence[Path], members: MembersFile) -> list[Recorded]:
    """Rounds that these nodes have timed and whose merges they repeated, by plan; nodes of one run together.

    Raises:
        InputError: a node's member is not in the members file, so its link is not known.
        NotFound: a node has no such round.
    """
    entries = {member.name: member for member in members.members}
    found: dict[str, dict[str, list[Line]]] = defaultdict(dict)
    plans: dict[str, tuple[Plan, Layout]] = {}
    nodes: dict[str, list[int]] = defaultdict(list)
    for root in homes:
        home = Home(root)
        name = settings.load(home).node.member
        if name not in entries:
            raise InputError(
                f"the node in {root} is of member {name}, who is not in the members file",
                hint="add that member with the link its node had; others' figures stay as they are",
            )
        records = _records(home)
        timed = _timed(home, root, records)
        store = BlobStore.open(home.blobs)
        for digest, own in timed.items():
            if digest not in plans:
                plan = Plan.from_bytes(store.read(digest, Plan.MAX_BYTES))
                layout = Layout.from_bytes(store.read(plan.layout, Layout.MAX_BYTES))
                plans[digest] = (plan, layout)
            found[digest][name] = own
            nodes[digest] += [len(records[str(line["run"]), int(line["round"])].merged) for line in own]
    return [
        Recorded(
            plan=plan,
            layout=layout,
            members=_those(found[digest], entries, nodes[digest], members),
            lines=found[digest],
        )
        for digest, (plan, layout) in plans.items()
    ]


def _records(home: Home) -> dict[tuple[str, int], RoundRecord]:
    found = {}
    for path in sorted(home.records.glob("*.json")):
        if (named := parse_round_name(path.stem)) is not None:
            found[named] = RoundRecord.from_bytes(path.read_bytes())
    return found


def _timed(home: Home, root: Path, records: Mapping[tuple[str, int], RoundRecord]) -> dict[str, list[Line]]:
    """Lines by digest of their plan."""
    by_run: dict[str, list[Line]] = defaultdict(list)
    for line in checked(lines.read(home.times), str(home.times)) if home.times.exists() else []:
        by_run[str(line.get("run"))].append(line)
    found: dict[str, list[Line]] = defaultdict(list)
    for run, every in by_run.items():
        kept = every[BEGINNING:] if len(every) >= BEGINNING + ENOUGH else every[1:]
        for line in kept:
            if (record := records.get((run, int(line["round"])))) is not None:
                found[record.plan].append(line)
    if not found:
        raise NotFound(
            f"the node in {root} has no recorded round to calibrate with",
            hint="it takes three rounds that it trained and whose merges it repeated",
        )
    return found


def _those(
    lines: Mapping[str, Sequence[Line]],
    entries: Mapping[str, Member],
    nodes: Sequence[int],
    members: MembersFile,
) -> MembersFile:
    """Who took part: the members whose nodes are given, and as many like the first as are not."""
    known = [entries[name].model_copy(update={"count": 1}) for name in sorted(lines)]
    others = round(median(nodes)) - len(known)
    if others > 0:
        known.append(known[0].model_copy(update={"name": "others", "count": others}))
    return members.model_copy(update={"members": tuple(known)})
