"""What a dataset has touched: read from a node's own copy of the ledger, which the node has verified.

A contribution is touched where its data manifest names the dataset, in any revision of its card, or where
nobody can tell any more since its node has lost that manifest. From the first merge that holds such a
contribution on, every base of the run descends from it, and so does every run that repeats such a run from a
later base.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tapestry.audit.file import BLOB, ENTRY
from tapestry.errors import FormatError
from tapestry.node.home import Home
from tapestry.node.kept import Kept
from tapestry.protocol.canonical import encode, sha256

NAMING: Final = ("contribution-received", "contribution-committed", "contribution-late")
"""Entries that stand behind the envelope of a contribution."""
_WANTED: Final = (
    *NAMING,
    "contribution-accepted",
    "contribution-refused",
    "round-opened",
    "round-closed",
    "round-committed",
    "round-abandoned",
    "run-planned",
    "plan-revised",
    "node-enrolled",
    "run-finished",
    "proposal-opened",
    "proposal-decided",
)
_ENDS: Final = tuple(f'"type":"{each}","version":1}}}}'.encode() for each in _WANTED)
"""How the canonical line of such an entry ends."""


@dataclass
class Contribution:
    """One that was trained on the dataset."""

    run: str
    round: int
    """It was trained in."""
    member: str
    node: str
    contribution: str
    """Digest of its envelope."""
    delta: str
    data_manifest: str
    status: str = "received"
    merged_in: int | None = None
    """Round whose merge holds it."""
    weight: int | None = None
    """There, in units of 2^-24."""


@dataclass(frozen=True)
class Base:
    """A shared base that descends from the dataset."""

    round: int
    merges: int
    state: str
    base: str


@dataclass(frozen=True)
class Use:
    """Where a run began to descend from it: its state before that is the last without it."""

    round: int
    merges: int
    state: str
    plan: str
    nodes: tuple[str, ...]
    """Expected in that round."""
    since: str
    """`contribution`, or the name of the run that this one repeats."""


@dataclass
class Release:
    """A base that descends from the dataset, and that the members accepted as a release."""

    release: str
    state: str
    decision: str
    """The proposal that accepted it."""
    revoked: bool = False


@dataclass
class Run:
    """One run."""

    run: str
    first: Use | None = None
    bases: list[Base] = field(default_factory=list)
    finished: bool = False


@dataclass
class Touched:
    """All of it, as far as this node's ledger tells."""

    entries: int = 0
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the runs that are touched, by digest."""
    contributions: list[Contribution] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    """By node, of all that ever enrolled."""
    releases: list[Release] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "contributions": [asdict(each) for each in self.contributions],
            "runs": [asdict(run) for run in self.runs],
            "releases": [asdict(each) for each in self.releases],
        }


@dataclass
class _Reading:
    """Where a run stands while its entries pass by."""

    opened: dict[int, dict[str, Any]] = field(default_factory=dict)
    closing: set[int] = field(default_factory=set)
    """Rounds whose merge holds a touched contribution, and which are not committed."""
    found: Run = field(default_factory=lambda: Run(""))
    merges: dict[int, int] = field(default_factory=dict)
    """Merges before each round."""
    head: int = 0


class _Reader:
    """Takes the entries in their order."""

    def __init__(self, counts: Callable[[str, str], bool]) -> None:
        self._counts = counts
        self._runs: dict[str, _Reading] = {}
        self._touched: dict[str, Contribution] = {}
        """By the digest of the envelope."""
        self._plans: dict[str, dict[str, Any]] = {}
        self._members: dict[str, str] = {}
        self._subjects: dict[str, dict[str, Any]] = {}
        """What a proposal on a release is about, by its name."""
        self._releases: dict[str, Release] = {}
        self.entries = 0

    def found(self) -> Touched:
        runs = [at.found for _, at in sorted(self._runs.items()) if at.found.first is not None]
        needed = {run.first.plan for run in runs if run.first is not None}
        plans = {sha: plan for sha, plan in self._plans.items() if sha in needed}
        states = {base.state for run in runs for base in run.bases}
        releases = [each for each in self._releases.values() if each.state in states]
        return Touched(self.entries, plans, list(self._touched.values()), runs, self._members, releases)

    def take(self, kind: str, scope: str, body: dict[str, Any], blob: bytes) -> None:
        """`blob`: the newest line of one before this entry."""
        if kind in ("run-planned", "plan-revised"):
            self._plans[sha256(encode(body["plan"]))] = body["plan"]
            if kind == "run-planned":
                self._planned(scope, body["plan"])
            return
        if kind.startswith("proposal-"):
            self._proposal(kind, body)
            return
        at = self._runs[scope]
        if kind in NAMING:
            self._contribution(body, base64.b64decode(blob[len(BLOB) : -2]), late=kind == "contribution-late")
        elif kind in ("contribution-accepted", "contribution-refused"):
            if (one := self._touched.get(body["contribution"])) is not None:
                reason = f": {body['reason']}" if "reason" in body else ""
                one.status = kind.rpartition("-")[2] + reason
        elif kind == "round-opened":
            at.opened[body["round"]] = body
            at.merges[body["round"]] = at.head
        elif kind == "round-closed":
            self._closed(at, body)
        elif kind == "node-enrolled":
            self._members[body["node"]] = body["member"]
        elif kind == "run-finished":
            at.found.finished = True
        else:
            self._ended(at, body, committed=kind == "round-committed")

    def _proposal(self, kind: str, body: dict[str, Any]) -> None:
        name = body["proposal"]
        if kind == "proposal-opened":
            subject = json.loads(base64.b64decode(json.loads(body["envelope"])["payload"]))["subject"]
            if subject["kind"] in ("accept-release", "revoke-release"):
                self._subjects[name] = subject
        elif body["in_force"] and (subject := self._subjects.get(name)) is not None:
            if subject["kind"] == "accept-release":
                self._releases[subject["release"]] = Release(subject["release"], subject["state"], name)
            else:
                self._releases[subject["release"]].revoked = True

    def _planned(self, scope: str, plan: dict[str, Any]) -> None:
        at = self._runs[scope] = _Reading(found=Run(scope))
        origin = plan.get("origin")
        if origin is None:
            return
        at.head = origin["merges"]
        of = self._runs[origin["run"]].found.first
        if of is not None and origin["merges"] > of.merges:
            at.found.first = Use(
                origin["round"] + 1,
                origin["merges"],
                plan["initial_state"],
                origin["plan"],
                (),
                origin["run"],
            )

    def _contribution(self, body: dict[str, Any], envelope: bytes, *, late: bool) -> None:
        if sha256(envelope) != body["contribution"]:
            raise FormatError(
                f"the envelope of contribution {body['contribution'][:12]} is not before its entry"
            )
        said = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        if self._counts(said["node"], said["data_manifest"]):
            names = ("run", "round", "member", "node", "delta", "data_manifest")
            one = Contribution(**{name: said[name] for name in names}, contribution=body["contribution"])
            one.status = "late" if late else one.status
            self._touched[body["contribution"]] = one

    def _closed(self, at: _Reading, body: dict[str, Any]) -> None:
        for merged in body["merged"]:
            if (one := self._touched.get(merged["contribution"])) is not None:
                one.merged_in, one.weight = body["round"], merged["weight"]
                at.closing.add(body["round"])

    def _ended(self, at: _Reading, body: dict[str, Any], *, committed: bool) -> None:
        number = body["round"]
        opened, merges = at.opened.pop(number), at.merges.pop(number)
        holds = number in at.closing
        at.closing.discard(number)
        if not committed:
            for one in self._touched.values() if holds else ():
                if (one.run, one.merged_in) == (at.found.run, number):
                    one.merged_in = one.weight = None
            return
        at.head = body["merges"]
        if holds and at.found.first is None:
            at.found.first = Use(
                number, merges, opened["state"], opened["plan"], tuple(opened["nodes"]), "contribution"
            )
        if at.found.first is not None:
            at.found.bases.append(Base(number, body["merges"], body["state"], body["base"]))


def touched(home: Home, counts: Callable[[str, str], bool]) -> Touched:
    """What descends from some of the contributions.

    Args:
        home: of a node that keeps a ledger.
        counts: which, by node and data manifest.

    Raises:
        InputError: this node holds no ledger.
        FormatError: it cannot be read.
    """
    kept = Kept.of(home)
    reader = _Reader(counts)
    try:
        blob = b""
        for line in _lines(kept.path, kept.size):
            if line.startswith(BLOB):
                blob = line
            elif line.startswith(ENTRY):
                reader.entries += 1
                # Members' names and keys, attestations and scores are most lines, and say nothing here.
                if line.endswith(_ENDS):
                    entry = json.loads(line)["entry"]
                    reader.take(entry["type"], entry["scope"], entry["body"], blob)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise FormatError(
            f"{kept.path} cannot be read: {e}", hint="start the node: it verifies its ledger again"
        ) from e
    return reader.found()


def _lines(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        left = size
        for line in file:
            left -= len(line)
            if left < 0:
                return
            yield line.rstrip(b"\n")
