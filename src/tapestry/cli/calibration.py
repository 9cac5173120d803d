"""Recorded rounds out of nodes' homes, for `tapestry run estimate --calibrate`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        InputError: a node's member is not in the members file, so its link is not known; or a node twice.
        NotFound: a node has no such round.
    """
    entries = {member.name: member for member in members.members}
    found: dict[str, _Of] = {}
    for root in homes:
        home = Home(root)
        node = settings.load(home).node
        if node.member not in entries:
            raise InputError(
                f"the node in {root} is of member {node.member}, who is not in the members file",
                hint="add that member with the link its node had; others' figures stay as they are",
            )
        records = _records(home)
        timed = _timed(home, root, records)
        store = BlobStore.open(home.blobs)
        for digest, own in timed.items():
            if digest not in found:
                plan = Plan.from_bytes(store.read(digest, Plan.MAX_BYTES))
                found[digest] = _Of(plan, Layout.from_bytes(store.read(plan.layout, Layout.MAX_BYTES)))
            of = found[digest]
            if node.name in of.lines[node.member]:
                raise InputError(
                    f"node {node.name} is there twice, in {root} too", hint="name each node's home once"
                )
            of.lines[node.member][node.name] = own
            of.merged += [len(records[str(line["run"]), int(line["round"])].merged) for line in own]
    return [of.recorded(entries, members) for of in found.values()]


@dataclass
class _Of:
    """What is known of the rounds of one plan."""

    plan: Plan
    layout: Layout
    lines: dict[str, dict[str, list[Line]]] = field(default_factory=lambda: defaultdict(dict))
    """By member and node."""
    merged: list[int] = field(default_factory=list)
    """Nodes of each round."""

    def recorded(self, entries: Mapping[str, Member], members: MembersFile) -> Recorded:
        lines = {name: [line for own in nodes.values() for line in own] for name, nodes in self.lines.items()}
        return Recorded(
            plan=self.plan, layout=self.layout, members=self._those(entries, members), lines=lines
        )

    def _those(self, entries: Mapping[str, Member], members: MembersFile) -> MembersFile:
        """Who took part: the members whose nodes are given, with so many, and as many like the first as are
        not."""
        known = [
            entries[name].model_copy(update={"count": len(nodes)})
            for name, nodes in sorted(self.lines.items())
        ]
        others = round(median(self.merged)) - sum(each.count for each in known)
        if others > 0:
            known.append(known[0].model_copy(update={"name": "others", "count": others}))
        return members.model_copy(update={"members": tuple(known)})


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
