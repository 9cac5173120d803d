"""The plan file of a run that repeats another without a dataset, from where that was used first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tapestry.cli import planfile
from tapestry.errors import Conflict, InputError, PlanError
from tapestry.host import files
from tapestry.node.touched import Run, Touched, Use
from tapestry.protocol.canonical import sha256
from tapestry.protocol.plan import Plan

TABLES: Final = ("rounds", "inner", "codec", "merge", "streaming", "witness", "evaluation", "retention")
MAX_NAME: Final = 64


def choose(found: Touched, run: str | None) -> Run:
    """The run to repeat. Raises `PlanError` where there is none, or several and none is named."""
    merged = [each for each in found.runs if each.first is not None and each.first.since == "contribution"]
    if run is not None:
        merged = [each for each in merged if each.run == run]
    if not merged:
        raise PlanError(
            "no base descends from this dataset" + (f" in run {run}" if run is not None else ""),
            hint="there is nothing to repeat; leave --plan out",
        )
    if len(merged) > 1:
        raise PlanError(
            f"{len(merged)} runs have merged it: {', '.join(each.run for each in merged)}",
            hint="choose one with --run, and repeat each that is to go on",
        )
    return merged[0]


def write(path: Path, found: Touched, run: Run, dataset: str) -> dict[str, Any]:
    """Write the plan file; what it says, and what was changed in it, for whoever reads it.

    Raises:
        Conflict: the file is there and says something else.
        InputError: there can be no such file.
        PlanError: the run's plan cannot be written as a file.
    """
    use = run.first
    assert use is not None  # noqa: S101 - `choose`
    plan = Plan.from_json(found.plans[use.plan])
    users = {each.node for each in found.contributions if each.run == run.run}
    others = tuple(node for node in use.nodes if node not in users)
    if not others:
        raise PlanError(
            f"nobody but its owner took part in round {use.round} of run {run.run}",
            hint="there is nobody to repeat it with: begin a run anew without the dataset",
        )
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} cannot be a file", hint="name a file in a folder that is there")
    limits = _limits(plan, others, found.members)
    text = render(plan, use, run.run, dataset, others, limits)
    read = planfile.parse(text.encode(), what=str(path))
    if path.exists() and path.read_bytes() != text.encode():
        raise Conflict(f"{path} is there already and says something else", hint="name another file")
    files.write_atomic(path, text.encode())
    return {
        "file": str(path),
        "run": read.run.name,
        "repeats": run.run,
        "from_round": use.round,
        "merges_kept": use.merges,
        "merges_to_repeat": plan.rounds.total - use.merges,
        "state": use.state,
        "nodes": list(others),
        "lowered": {
            name: {"from": before, "to": after} for name, (before, after) in _lowered(plan, limits).items()
        },
    }


def _limits(plan: Plan, others: tuple[str, ...], members: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """The largest threshold that those who are left can meet, by table and field. Nodes make a round, members
    a quorum of witnesses: several nodes of one member are one there.

    Raises:
        PlanError: of the plan's witnesses nobody is left.
    """
    known = {members.get(node, node) for node in others}
    words = sorted(member for member in known if plan.witness.counts(member))
    if plan.witness.quorum and not words:
        raise PlanError(
            f"none of the plan's witnesses is left: {', '.join(plan.witness.members)}",
            hint="agree on others, and write the plan by hand: [origin] of docs/guides/plan-file.md, and "
            "witness.members",
        )
    nodes = len(others)
    return {("rounds", "min_nodes"): nodes, ("rounds", "quorum"): nodes, ("witness", "quorum"): len(words)}


def _lowered(plan: Plan, limits: Mapping[tuple[str, str], int]) -> dict[str, tuple[int, int]]:
    """What it was, and what it is now, of each threshold that the others cannot meet."""
    before = {(table, key): getattr(getattr(plan, table), key) for table, key in limits}
    return {
        f"{table}.{key}": (before[table, key], most)
        for (table, key), most in limits.items()
        if before[table, key] > most
    }


def render(
    plan: Plan,
    use: Use,
    run: str,
    dataset: str,
    others: tuple[str, ...],
    limits: Mapping[tuple[str, str], int],
) -> str:
    """The file's text: the rules in force in that round, with thresholds that those who are left can meet."""
    values = plan.model_dump(mode="json")
    rounds = values["rounds"]
    for (table, key), most in limits.items():
        values[table][key] = min(values[table][key], most)
    rounds.setdefault("reveal_s", 0)
    values["merge"].setdefault("largest_overlap", 0)
    name = f"{run}-without-{dataset}"
    if len(name) > MAX_NAME:
        name = f"{run[:40]}-without-{sha256(name.encode())[:12]}"
    head = [
        f"# Run {run} from round {use.round} on, without dataset {dataset}. Its last base without that is",
        f"# after merge {use.merges}. Nodes of that round that did not use it: {', '.join(others)}.",
        "# Nodes go on from the inner state that they kept of the rounds before; those who have it no longer",
        "# begin anew. Each says which of both.",
    ]
    for field, (was, now) in _lowered(plan, limits).items():
        head.append(
            f"# {field} was {was}: no more than {now} are left. Whoever starts the run agrees to that."
        )
    lines = [*head, *_pairs({"format": planfile.FORMAT, "version": planfile.VERSION, "sync": plan.sync})]
    title = f"{plan.title or run}, without {dataset}"[:200]
    lines += ["", "[run]", *_pairs({"name": name, "title": title, "stage": plan.stage or "base"})]
    origin = {"run": run, "round": use.round - 1, "state": use.state}
    lines += ["", "[origin]", *_pairs(origin)]
    for table in TABLES:
        lines += ["", f"[{table}]", *_pairs(values[table])]
    return "\n".join(lines) + "\n"


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def _toml(value: Any) -> str:
    """Of a plan's values: no dates, no special numbers, and strings that JSON writes as TOML does."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
