"""`tapestry node status`: what the node's processes say of themselves, and what can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tapestry.errors import TapestryError
from tapestry.host import files
from tapestry.host.processes import pid_alive
from tapestry.identity.envelope import Envelope
from tapestry.node import account, airlock, settings, setup
from tapestry.node.home import ROLES, Home, parse_round_name, read_json, round_name
from tapestry.protocol.messages import Contribution
from tapestry.protocol.views import RoundRecord
from tapestry.training.withdrawals import Withdrawals


def node_status(home: Path) -> dict[str, Any]:
    """Where a node stands, as JSON values. Raises `SettingsError` for a folder that is no node's home.

    `level` is how far text and network are apart (`airlock.Level`), `none` while the node does not run.
    """
    at = Home(home)
    given = settings.load(at)
    roles: dict[str, dict[str, Any] | None] = {role: read_json(at.status(role)) for role in ROLES}
    alive = {role: _alive(value) for role, value in roles.items()}
    job = read_json(at.root / "status" / "launcher.json") if given.training.launcher != "local" else None
    if job is not None:  # the ranks' process ids are those of another host
        alive["trainer"] = _alive(job)
        roles["trainer"] = {**(roles["trainer"] or {}), "pid": job.get("pid")}
    agent = roles["agent"] or {}
    gate = roles["gate"] or {}
    failed = _failed(roles)
    return {
        "member": given.node.member,
        "node": given.node.name,
        "publish": given.node.publish,
        "consortium": _consortium(at),
        "running": alive["supervisor"],
        "level": measured_level(roles, given.training.hosts, elsewhere=job is not None)
        if alive["supervisor"]
        else "none",
        "reads_text": agent.get("reads_text"),
        "processes": {
            role: {
                "alive": alive[role],
                "pid": (value or {}).get("pid"),
                "level": (value or {}).get("level"),
                "phase": (value or {}).get("phase"),
                "error": (value or {}).get("error"),
            }
            for role, value in roles.items()
        },
        "restarts": _restarts(roles["supervisor"]),
        "trainer": {key: (roles["trainer"] or {}).get(key) for key in ("run", "round", "step", "steps")},
        "job": {key: (job or {}).get(key) for key in ("launcher", "job", "phase", "reason", "trouble")},
        "runs": agent.get("runs") or {},
        "environments": _environments(at),
        "trouble": agent.get("trouble") or failed.get("message"),
        "hint": agent.get("hint") or failed.get("hint"),
        "traffic": agent.get("traffic"),
        "times": account.summary(at),
        "gate": {
            key: gate.get(key)
            for key in ("passed", "refused", "last", "last_refused", "canaries", "unsearched")
        },
        "withdrawn": [mark.dataset for mark in Withdrawals(at.root).marks()],
    }


def _environments(home: Home) -> dict[str, dict[str, dict[str, str]]]:
    """Run → node → on what it trained, as signed with the newest round whose merge was repeated here."""
    newest: dict[str, int] = {}
    for path in home.records.glob("*.json"):
        if (named := parse_round_name(path.stem)) is not None:
            newest[named[0]] = max(named[1], newest.get(named[0], 0))
    found = {}
    for run, number in sorted(newest.items()):
        path = home.records / f"{round_name(run, number)}.json"
        try:
            record = RoundRecord.from_bytes(files.read_limited(path, RoundRecord.MAX_BYTES))
            said = [_signed(text) for text in record.envelopes]
        except (OSError, TapestryError):
            continue
        found[run] = {each.node: each.environment for each in said}
    return found


def _signed(envelope: str) -> Contribution:
    """What an envelope says whose signature this node has verified before it kept the record."""
    return Envelope.from_bytes(envelope.encode()).unverified(Contribution)


def measured_level(
    roles: dict[str, dict[str, Any] | None], hosts: int, *, elsewhere: bool = False
) -> airlock.Level:
    """Compares the network namespaces of the live processes; of a trainer `elsewhere`, on hosts of a cluster,
    what it found itself counts. What the agent could read, it has tried itself."""
    reads = (roles.get("agent") or {}).get("reads_text") is not False
    return airlock.level(_of_trainer(roles, elsewhere=elsewhere), reads, hosts)


def _of_trainer(roles: dict[str, dict[str, Any] | None], *, elsewhere: bool) -> str | None:
    agent = _namespace(roles.get("agent"), "pid")
    inner = [_namespace(roles.get("gate"), "pid")]
    if not elsewhere:
        inner.append(_namespace(roles.get("trainer"), "worker", "pid"))
    elif (roles.get("trainer") or {}).get("level") == "process":
        return "process"
    if agent is None or all(each is None for each in inner):
        return None
    return "netns" if all(each != agent for each in inner if each is not None) else "process"


def _namespace(value: dict[str, Any] | None, *keys: str) -> str | None:
    for key in keys:
        pid = (value or {}).get(key)
        if isinstance(pid, int):
            try:
                return str(Path(f"/proc/{pid}/ns/net").readlink())
            except OSError:
                continue
    return None


def _alive(value: dict[str, Any] | None) -> bool:
    pid = (value or {}).get("pid")
    return isinstance(pid, int) and pid_alive(pid) and (value or {}).get("phase") != "stopped"


def _restarts(value: dict[str, Any] | None) -> dict[str, int]:
    children = (value or {}).get("children")
    if not isinstance(children, dict):
        return {}
    return {role: child.get("restarts", 0) for role, child in children.items() if isinstance(child, dict)}


def _failed(roles: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """The error that one of the processes ended with; empty where none did."""
    errors = ((value or {}).get("error") for value in roles.values())
    return next((error for error in errors if isinstance(error, dict)), {})


def _consortium(home: Home) -> dict[str, Any] | None:
    try:
        joined = setup.load_consortium(home)
    except TapestryError:
        return None
    return {"id": joined.consortium, "core_url": joined.core_url}
