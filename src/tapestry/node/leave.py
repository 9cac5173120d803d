"""Taking leave: the node's ledger and base brought up to date, a bundle, and then the end of its keys.

Each step may be repeated, and a call that was cut short is finished by the next one: a bundle that is there
is checked, and kept if nothing of the node's is newer; a key is ended once. The keys come last, since with
them ends what the node may ask the core for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tapestry.bundle.check import Checked, check, require_complete
from tapestry.bundle.folder import Progress
from tapestry.bundle.writer import Told
from tapestry.errors import Conflict, FormatError, KeyRefused, NotFound, SettingsError
from tapestry.host import files
from tapestry.identity.keyring import make_revocation
from tapestry.node import exit as exits
from tapestry.node import keys, settings, setup
from tapestry.node.exit import Standing, Wanted
from tapestry.node.home import Home
from tapestry.node.member import Member, load_member
from tapestry.node.memory import HeadMemory, Memory
from tapestry.node.replica import Replica
from tapestry.node.sync import Library
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient

ENDED: Final = "revoked"
"""In what the core says of a key that was."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """How far it went."""

    checked: Checked
    keys: Literal["revoked", "were revoked", "valid"]
    """`valid` where the member's root key was not at hand."""
    waiting: tuple[str, ...] = ()
    """Runs that will wait for another node, since too few are left for a round."""


def leave(
    home: Path,
    out: Path,
    member_dir: Path | None,
    wanted: Wanted | None = None,
    *,
    progress: Progress = lambda _done, _all: None,
    told: Told = lambda _: None,
) -> Left:
    """Take leave of the consortium; may be repeated.

    Args:
        home: of a node that is stopped.
        out: the bundle.
        member_dir: the member's folder, whose root key ends the node's keys; None leaves them valid.
        wanted: what goes along.
        progress, told: as of `bundle.check.check`.

    Raises:
        Busy: the node runs.
        Conflict: `out` holds something else, or an older bundle.
        Incomplete: the bundle holds and lacks something; no key was ended.
        PeerError, AuthError: the core's reasons, or that it is away.
    """
    at, wanted = Home(home), wanted or Wanted()
    given = settings.load(at)
    member = _member(at, given, member_dir)
    with files.Lock(at.root):
        refused: KeyRefused | None = None
        try:
            _catch_up(at)
        except KeyRefused as error:  # an earlier call has ended the key, or it has expired
            if ENDED not in error.message:
                raise
            refused = error
        found = _bundle(at, out, wanted, progress, told)
        require_complete(found)
        waiting = _waiting(at, given.node.name)
        if refused is not None:
            return Left(checked=found, keys="were revoked")
        if member is None:
            return Left(checked=found, keys="valid", waiting=waiting)
        _end_keys(at, member, given.node.name)
    return Left(checked=found, keys="revoked", waiting=waiting)


def _member(home: Home, given: settings.NodeSettings, folder: Path | None) -> Member | None:
    if folder is None:
        return None
    member = load_member(folder)
    if member.name != given.node.member:
        raise SettingsError(
            f"{folder} holds member {member.name}, the node in {home.root} belongs to {given.node.member}"
        )
    return member


def _catch_up(home: Home) -> None:
    """The whole ledger, and of each run the base that it ends with."""
    joined = setup.load_consortium(home)
    with setup.connect(home) as client:
        replica = Replica(home, client, joined)
        replica.follow(replica.size, again=True)
        replica.keep()
        memory, library = Memory(home), Library(client, BlobStore.open(home.blobs))
        for run in sorted(memory.runs):
            _newest_base(run, replica, memory, library)


def _newest_base(run: str, replica: Replica, memory: Memory, library: Library) -> None:
    state, before = replica.state(run), memory[run].head
    if state is None or before is None:
        return
    plan = library.message(state.plan.digest, Plan)
    library.mend(state.head, plan)  # a power cut takes what was not synced, since it can be fetched again
    if before.state == state.head:
        return
    try:
        library.state(state.head, plan, outer=plan.sync == "replay")
    except NotFound:  # the momentum may be erased already; the base is what counts
        library.state(state.head, plan, outer=False)
    memory.set_head(run, HeadMemory(merges=state.merges, state=state.head, round=state.head_round))


def _bundle(home: Home, out: Path, wanted: Wanted, progress: Progress, told: Told) -> Checked:
    """The one that an earlier call has made, if nothing is newer; else a new one."""
    if not out.exists() or not any(out.iterdir()):
        return exits.export(home.root, out, wanted, progress=progress, told=told)
    found, standing = check(out, progress=progress, told=told), Standing.of(home)
    said, own = found.said, standing.record.of(wanted.run)
    derivatives = tuple(sorted(folder.resolve().name for folder in wanted.derivatives))
    whose = (standing.joined.consortium, standing.given.node.name)
    if (
        (said.kind, said.consortium, said.node, said.only) != ("exit", *whose, wanted.run)
        or (said.runs, said.derivatives) != (standing.runs(wanted.run), derivatives)
        or found.own.keys() != own.keys()
    ):
        raise Conflict(
            f"{out} holds a bundle that is not this node's newest",
            hint="name another folder, or move it away",
        )
    return found


def _waiting(home: Home, node: str) -> tuple[str, ...]:
    """Runs for which too few nodes are left when this one has gone."""
    record, found = Standing.of(home).record, []
    for run, each in record.runs.items():
        plan = each.plans[each.plan_of(each.newest)]
        if not each.finished and node in each.enrolled and len(each.enrolled) - 1 < plan.rounds.quorum:
            found.append(run)
    return tuple(sorted(found))


def _end_keys(home: Home, member: Member, node: str) -> None:
    """All that this node could sign with, the key that asks last; and see that the core refuses it."""
    pair = keys.load_pair(home)
    with setup.connect(home, pair) as client:
        ended = [key for key in setup.live_keys(client, member.name, node) if key != pair.key_id]
        for key in (*ended, pair.key_id):
            revocation = make_revocation(member.root, member=member.name, revoked=key, reason="retired")
            client.post_revocation(revocation.model_dump(mode="json"))
        _is_refused(client)


def _is_refused(client: CoreClient) -> None:
    try:
        client.members()
    except KeyRefused:
        return
    raise FormatError(
        "the core has taken the revocation of the node's key and goes on answering to it",
        hint="ask its operator; tell the other members",
    )
