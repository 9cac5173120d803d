"""The tables of `tapestry node status`, for people."""

from __future__ import annotations

from typing import Any

from tapestry.cli.output import emit_pairs, emit_table, human_bytes, short


def print_node(value: dict[str, Any]) -> None:
    """What `node.status.node_status` found."""
    consortium = value["consortium"] or {}
    traffic = value["traffic"] or {}
    gate = value["gate"]
    emit_pairs(
        [
            ("node", value["node"]),
            ("member", value["member"]),
            ("consortium", consortium.get("id") or "none; join one with: tapestry node join HOME"),
            ("core", consortium.get("core_url")),
            ("publishes", value["publish"]),
            ("running", "yes" if value["running"] else "no; start it with: tapestry node run HOME"),
            ("isolation", _level(value)),
            *([("ranks", _job(value["job"]))] if value["job"]["launcher"] else []),
            ("gate", _gate(gate)),
            *([("refused", _refused(gate["last_refused"]))] if gate["last_refused"] else []),
            *([("withdrawn", ", ".join(value["withdrawn"]))] if value["withdrawn"] else []),
            ("sent", _bytes(traffic, "sent_bytes")),
            ("received", _bytes(traffic, "received_bytes")),
            *([("trouble", value["trouble"])] if value["trouble"] else []),
            *([("hint", value["hint"])] if value["hint"] else []),
        ]
    )
    emit_table(
        ("process", "pid", "phase", "restarts"),
        [
            (role, one["pid"] if one["alive"] else None, one["phase"], value["restarts"].get(role))
            for role, one in value["processes"].items()
        ],
        right=("pid", "restarts"),
    )
    if value["runs"]:
        emit_table(
            ("run", "status", "merges", "state", "repeated", "fetched", "waits for"),
            [_run(name, run) for name, run in sorted(value["runs"].items())],
            right=("merges", "repeated", "fetched"),
        )
    if value["times"]:
        emit_table(
            (
                "run, mean of a round",
                "rounds",
                "all",
                "training",
                "encoding",
                "waiting",
                "moving",
                "repeating",
            ),
            [_times(name, run) for name, run in sorted(value["times"].items())],
            right=("rounds", "all", "training", "encoding", "waiting", "moving", "repeating"),
        )


def _gate(gate: dict[str, Any]) -> str:
    counts = f"{gate['passed'] or 0} passed, {gate['refused'] or 0} refused"
    return counts + (f"; searches for {gate['canaries']} canaries" if gate["canaries"] else "")


def _refused(last: dict[str, Any]) -> str:
    return f"{last.get('name') or 'a folder'}: {last.get('reason')} ({last.get('code')})"


def _times(name: str, run: dict[str, Any]) -> tuple[Any, ...]:
    """Seconds of a round; moving and repeating may lie inside training or waiting."""
    seconds = [run[key] for key in ("whole_s", "trained_s", "encoded_s", "waited_s")]
    seconds += [run["uploaded_s"] + run["downloaded_s"], run["replayed_s"]]
    return (name, run["rounds"], *(f"{each:.2f} s" for each in seconds))


def _level(value: dict[str, Any]) -> str:
    """How far the process that reads text is cut off, in words."""
    if not value["running"]:
        return "not running"
    if value["reads_text"] is None:
        return "starting"
    return {
        "netns": "netns: trainer and gate have no network, the agent cannot read text",
        "process": "process: the agent cannot read text, but the trainer has a network; see tapestry doctor",
        "site": "site: the agent cannot read text; the network of the trainer's hosts is the site's",
        "none": "none: the agent could read text; see tapestry doctor",
    }[value["level"]]


def _job(job: dict[str, Any]) -> str:
    """Where the job of a cluster stands."""
    where, phase = f"{job['launcher']} job {job['job'] or '-'}", job["phase"]
    said = {
        "queued": f"waiting in the queue of {job['launcher']} (job {job['job']})",
        "running": f"{where} runs",
        "submitting": f"being submitted to {job['launcher']}",
    }.get(phase, f"{where}: {phase}")
    return said + "".join(f"; {job[key]}" for key in ("reason", "trouble") if job[key])


def _bytes(traffic: dict[str, Any], name: str) -> str | None:
    return human_bytes(traffic[name]) if name in traffic else None


def _run(name: str, run: dict[str, Any]) -> tuple[Any, ...]:
    merges = f"{run.get('merges') or 0} of {run.get('rounds') or '?'}"
    waits = run.get("waiting_for") or run.get("note")
    return (
        name,
        run.get("status"),
        merges,
        short(run.get("state")),
        run.get("replayed"),
        run.get("fetched"),
        waits,
    )
