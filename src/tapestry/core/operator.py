"""What the operator does on the core's own machine, through its database; `core serve` may run meanwhile
and notices what is new."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tapestry.core import settings as settings_file
from tapestry.core.consortium import Consortium, found
from tapestry.core.home import Home
from tapestry.core.journal import Journal
from tapestry.core.service import Core, load_key, open_database, open_store
from tapestry.core.settings import CoreSettings
from tapestry.core.views import run_view, trouble_of
from tapestry.core.votes import Votes
from tapestry.errors import InputError, SettingsError, TapestryError
from tapestry.governance.charter import Charter
from tapestry.governance.machine import may_join
from tapestry.host import files
from tapestry.host.processes import pid_alive
from tapestry.identity.envelope import Envelope
from tapestry.identity.invitations import make_token, token_hash
from tapestry.identity.keys import KeyPair
from tapestry.protocol.canonical import is_name
from tapestry.protocol.clock import time_text
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView
from tapestry.rounds import machine
from tapestry.storage import invitations
from tapestry.storage.blobs import BlobStore

DAY_MS: Final = 86_400_000
MAX_STATUS_BYTES: Final = 256 << 10


def init(root: Path, settings: CoreSettings, *, title: str = "") -> str:
    """Found a consortium: folders, the core's key (0600), the first entry, and core.toml last.

    A call that was cut short is finished by the next one.

    Returns:
        the consortium's id.

    Raises:
        SettingsError: there is a core in `root` already.
        AuthError: the database holds a consortium of another core.
    """
    home = Home(root)
    if home.settings.exists():
        raise SettingsError(f"{root} holds a core already", hint="choose another folder")
    if len(title) > 200:
        raise InputError(f"a title has at most 200 characters, not {len(title)}")
    make_home(home, settings)
    key = load_key(home)
    database = open_database(home, settings, create=True)
    try:
        journal = Journal(database)
        found(journal, title=title, core_key=key.public_key, nonce=secrets.token_hex(16))
        consortium = Consortium(journal, key).id
    finally:
        database.close()
    files.write_atomic(home.settings, settings_file.render(settings).encode())
    return consortium


def make_home(home: Home, settings: CoreSettings) -> None:
    """Folders and a key (0600), where there are none; the store of blobs must answer."""
    with files.full_disk(home.root):
        for folder in (home.root, home.status.parent, home.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        home.key.parent.mkdir(mode=0o700, exist_ok=True)
    if not home.key.exists():
        files.private_write(home.key, KeyPair.generate().to_pem())
    open_store(home, settings).check()


def invite(root: Path, member: str, *, days: float = 7.0) -> str:
    """A secret that admits `member`, once, within `days`. Only its hash is kept.

    Raises `Refused` where there is a charter, and no decision of the members for it.
    """
    if not is_name(member):
        raise InputError(f"{member[:80]!r} is not a name for a member", hint="a-z, 0-9, '.', '_' and '-'")
    if not 0 < days <= 3650:
        raise InputError(f"an invitation lasts up to 3650 days, not {days:g}")
    token = make_token()
    with Core.open(root) as core:
        may_join(core.consortium.assembly(), member)
        expires = time_text(core.journal.now_ms() + round(days * DAY_MS))
        with core.database.transaction() as connection:
            invitations.add(connection, token_hash(token), member, expires)
    return token


def adopt(root: Path, charter: Charter, signatures: Sequence[Envelope]) -> None:
    """Give the consortium its first charter. Errors as of `governance.machine.adopt`."""
    with Core.open(root) as core:
        Votes(core.journal, core.consortium.id).adopt(charter, signatures)


def plan(root: Path, plan: Plan, blobs: Path | None = None) -> RunView:
    """Record a new run.

    Args:
        root: the core's home.
        plan: its plan.
        blobs: folder of the blobs it starts from (model, layout, initial state); all its blobs are taken
            over. None where the core has them.

    Raises:
        PlanError, Conflict: as of `Runs.plan`.
    """
    with Core.open(root) as core:
        if blobs is not None:
            source = BlobStore.open(blobs)
            for blob in source.iterate():
                if blob.bytes <= MAX_BLOB_BYTES:
                    core.store.adopt(source.path(blob.sha256), blob.sha256, durable=False)
        core.runs.plan(plan)
        return _view(core, plan.run)


def revise(root: Path, plan: Plan) -> RunView:
    """Give a run a new revision of its plan, in force when its next round opens."""
    with Core.open(root) as core:
        core.runs.revise(plan)
        return _view(core, plan.run)


def start(root: Path, run: str) -> RunView:
    """Start a planned run; harmless for one that runs."""
    with Core.open(root) as core:
        core.runs.apply(run, machine.Start())
        return _view(core, run)


def withdraw(root: Path, run: str, node: str, *, reason: str = "operator") -> RunView:
    """Expect a node no more, from the round in flight on."""
    with Core.open(root) as core:
        core.runs.apply(run, machine.Withdraw(node=node, reason=reason))
        return _view(core, run)


def view(root: Path, run: str) -> RunView:
    """Where a run stands, without what only the serving process knows (progress of nodes)."""
    with Core.open(root) as core:
        return _view(core, run)


def current_plan(root: Path, run: str) -> Plan:
    """The newest revision of a run's plan."""
    with Core.open(root) as core:
        state = core.runs.standing(run).state
        return state.next_plan or state.plan


def status(root: Path) -> dict[str, Any]:
    """The consortium, its members, invitations and runs, and whether the core serves; JSON values."""
    with Core.open(root) as core:
        genesis = core.journal.genesis()
        with core.database.reading() as connection:
            invited = invitations.listed(connection)
        return {
            "consortium": core.consortium.id,
            "title": genesis.body.get("title", ""),
            "founded_at": genesis.at,
            "core_key": core.consortium.core_key.public_key,
            "url": serving_url(root),
            "members": core.consortium.members(),
            "invitations": [
                {"member": i.member, "expires": i.expires, "used_at": i.used_at} for i in invited
            ],
            "runs": [_view(core, run).model_dump(mode="json") for run in core.runs.names()],
        }


def serving(root: Path) -> dict[str, Any] | None:
    """What a running `core serve` says of itself (`pid`, `url`, `trouble`); None where none runs."""
    try:
        value = json.loads(files.read_limited(Home(root).status, MAX_STATUS_BYTES))
    except (OSError, ValueError, TapestryError):
        return None
    alive = isinstance(value, dict) and isinstance(value.get("pid"), int) and pid_alive(value["pid"])
    return value if alive else None


def serving_url(root: Path) -> str | None:
    """Where a running core listens; None where none runs."""
    found = serving(root)
    return str(found["url"]) if found is not None and "url" in found else None


def _view(core: Core, run: str) -> RunView:
    told = (serving(core.home.root) or {}).get("trouble")
    trouble = trouble_of(run, told) if isinstance(told, dict) else None
    return run_view(core.runs.standing(run), core.journal.now_ms(), {}, trouble)
