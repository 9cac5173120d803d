"""Bases and what was made of them: releases as the ledger has them, files as a repository names them, and
derivatives as their owners show them, as one tree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.errors import TapestryError
from tapestry.governance.state import Assembly
from tapestry.host import files
from tapestry.protocol.canonical import is_sha256
from tapestry.protocol.derivative import DerivativeRecord, ShownDerivative
from tapestry.rounds.state import RunState

MAX_TARGETS_BYTES: Final = 16 << 20
MAX_FILES: Final = 2000
_TARGETS: Final = re.compile(r"([1-9][0-9]{0,9})\.targets\.json")


@dataclass(frozen=True)
class File:
    """Of a release, as a repository names it."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A base that the members have accepted.

    Args:
        run, merges: of the state, where a run of the ledger ends with it.
        decision, revoked: proposals.
        files: none where no repository that is known here has it.
    """

    name: str
    state: str
    decision: str
    at: str
    revoked: str | None
    run: str | None
    merges: int | None
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.files)


@dataclass(frozen=True)
class Head:
    """The newest base of a run, whether it was released or not."""

    run: str
    state: str
    merges: int
    finished: bool


@dataclass(frozen=True)
class Branch:
    """A derivative, and what was made of it in turn. A parent that is not shown leaves it at the base."""

    record: DerivativeRecord
    children: tuple[Branch, ...]


@dataclass(frozen=True)
class Trunk:
    """A base with the derivatives that stand on it; `state` is None where its owner does not show it."""

    name: str
    state: str | None
    branches: tuple[Branch, ...]


def releases(
    assembly: Assembly, states: Mapping[str, RunState], repositories: Iterable[Mapping[str, tuple[File, ...]]]
) -> list[Release]:
    """As the ledger has them, newest first."""
    held: dict[str, tuple[str | None, int | None]] = {
        state.head: (run, state.merges) for run, state in states.items()
    }
    known: dict[str, tuple[File, ...]] = {}
    for repository_files in repositories:
        known |= dict(repository_files)
    found = []
    for name, each in assembly.governance.releases.items():
        item = assembly.governance.proposals.get(each.decision)
        run, merges = held.get(each.state, (None, None))
        found.append(
            Release(
                name=name,
                state=each.state,
                decision=each.decision,
                at=item.outcome.at if item is not None and item.outcome is not None else "",
                revoked=each.revoked,
                run=run,
                merges=merges,
                files=known.get(name, ()),
            )
        )
    return sorted(found, key=lambda each: each.at, reverse=True)


def heads(states: Mapping[str, RunState]) -> list[Head]:
    return [
        Head(run, state.head, state.merges, state.status == "finished")
        for run, state in sorted(states.items())
    ]


def seen_by(records: Iterable[DerivativeRecord], *, insider: bool) -> Iterator[DerivativeRecord]:
    """As a viewer sees them: to the public, an owner shows less."""
    for each in records:
        if insider or each.shown is None:
            yield each
        else:
            hidden = dict.fromkeys(set(ShownDerivative.model_fields) - set(each.public))
            yield each.model_copy(update={"shown": each.shown.model_copy(update=hidden)})


def tree(records: Iterable[DerivativeRecord], names: Mapping[str, str]) -> list[Trunk]:
    """Derivatives by the base they stand on, and below each what was carried over from it.

    Args:
        records: those that are shown.
        names: of states.
    """
    shown = sorted(
        (each for each in records if each.shown is not None), key=lambda each: (each.member, each.derivative)
    )
    by_lineage = {each.shown.lineage: each for each in shown if each.shown is not None and each.shown.lineage}
    below: dict[str, list[DerivativeRecord]] = {}
    tops: dict[str | None, list[DerivativeRecord]] = {}
    for each in shown:
        assert each.shown is not None  # noqa: S101 - left out above
        parent = each.shown.parent
        if parent in by_lineage and parent != each.shown.lineage:
            below.setdefault(parent, []).append(each)
        else:
            base = each.shown.base
            tops.setdefault(base.state if base is not None else None, []).append(each)
    seen: set[str] = set()
    order = sorted(tops, key=lambda state: (state is None, names.get(state or "", "")))
    return [
        Trunk(names.get(state or "", ""), state, tuple(_branch(each, below, seen) for each in tops[state]))
        for state in order
    ]


def _branch(record: DerivativeRecord, below: Mapping[str, list[DerivativeRecord]], seen: set[str]) -> Branch:
    """`seen`: lineages on the way, so that two that name each other do not go on for ever."""
    lineage = record.shown.lineage if record.shown is not None else None
    if lineage is None or lineage in seen:
        return Branch(record, ())
    seen.add(lineage)
    return Branch(record, tuple(_branch(each, below, seen) for each in below.get(lineage, ())))


def newest_list(folder: Path) -> tuple[str | int, ...] | None:
    """Which list of a repository's folder is its newest, and as of when; None where there is none."""
    try:
        path = _newest(folder)
        held = path.stat()
    except (OSError, ValueError):
        return None
    return path.name, held.st_mtime_ns, held.st_size, held.st_ino


def _newest(folder: Path) -> Path:
    """Raises `OSError`, `ValueError`."""
    named = [match for path in (folder / "metadata").iterdir() if (match := _TARGETS.fullmatch(path.name))]
    return folder / "metadata" / max(named, key=lambda match: int(match[1]))[0]


def repository(folder: Path) -> dict[str, tuple[File, ...]]:
    """Files of each release in a repository's folder, by the newest list in it. Its signatures are checked by
    who fetches; what is wrong with it leaves it empty."""
    try:
        value = json.loads(files.read_limited(_newest(folder), MAX_TARGETS_BYTES))
        targets = value["signed"]["targets"]
        found: dict[str, list[File]] = {}
        for path, told in sorted(targets.items())[:MAX_FILES]:
            name, _, rest = path.partition("/")
            if rest:
                found.setdefault(name, []).append(_file(rest, told))
        return {name: tuple(each) for name, each in found.items()}
    except (OSError, TapestryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _file(path: str, told: Any) -> File:
    sha, size = told["hashes"]["sha256"], told["length"]
    if not is_sha256(sha) or type(size) is not int:
        raise ValueError("this is no file of a repository")
    return File(path, size, sha)
