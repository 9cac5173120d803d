"""Tables of a core and of a run, for people."""

from __future__ import annotations

from typing import Any

from tapestry.cli.output import emit_line, emit_pairs, emit_table, short
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView


def print_core(value: dict[str, Any]) -> None:
    """What `operator.status` found."""
    emit_pairs(
        [
            ("consortium", value["consortium"]),
            ("title", value["title"] or None),
            ("founded", value["founded_at"]),
            ("serves at", value["url"] or "not running; start it with: tapestry core serve HOME"),
        ]
    )
    nodes = {
        member["member"]: sorted({k["node"] for k in member["keys"] if k["node"] and k["role"] == "node"})
        for member in value["members"]
    }
    emit_table(("member", "nodes", "root key"), [
        (member["member"], ", ".join(nodes[member["member"]]) or None, short(member["root_key"]))
        for member in value["members"]
    ])  # fmt: skip
    waiting = [i for i in value["invitations"] if i["used_at"] is None]
    if waiting:
        emit_table(("invited", "until"), [(i["member"], i["expires"]) for i in waiting])
    emit_table(
        ("run", "status", "merges", "state", "nodes", "waits for"),
        [
            (
                r["run"],
                r["status"],
                r["head"]["merges"],
                short(r["head"]["state"]),
                len(r["enrolled"]),
                r["waiting_for"],
            )
            for r in value["runs"]
        ],
        right=("merges", "nodes"),
    )


def print_run(view: RunView, plan: Plan, scores: dict[str, dict[int, float]]) -> None:
    """One run: where it stands, the open round, the scores of each base."""
    emit_pairs(
        [
            ("run", view.run),
            ("status", view.status),
            ("stage", plan.stage or "base"),
            *(
                [("repeats", f"run {plan.origin.run} from round {plan.origin.round + 1} on")]
                if plan.origin
                else []
            ),
            ("merges", f"{view.head.merges} of {plan.rounds.total}"),
            ("state", view.head.state),
            ("witnesses", ", ".join(view.head.witnesses) or None),
            ("plan", view.plan),
            ("enrolled", ", ".join(view.enrolled) or None),
            ("waits for", view.waiting_for),
        ]
    )
    if view.current is not None:
        at = view.current
        emit_line(f"\nround {at.round}: {at.phase}, opened {at.opened_at}")
        emit_line(f"deadline {at.deadline}, quorum {at.quorum}")
        emit_table(
            ("node", "member", "contribution", "reason"),
            [(n.node, n.member, n.status or ("awaited" if n.expected else None), n.reason) for n in at.nodes],
        )
    if scores:
        nodes = sorted(scores)
        merges = sorted({m for found in scores.values() for m in found})
        rows = [(m, *(f"{scores[n][m]:.4f}" if m in scores[n] else None for n in nodes)) for m in merges]
        emit_line("bits per byte of each shared base, by node:")
        emit_table(("merges", *nodes), rows, right=("merges", *nodes))
