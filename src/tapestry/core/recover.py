"""A core from what its nodes have: their verified copies of the ledger, and their blobs.

No copy is believed. Each is verified from its first byte; the longest is taken, and all others must be its
beginning. Where the core's key is lost with its disk, a new one takes its place, for which more than half of
all members sign.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.core import settings as settings_file
from tapestry.core.consortium import succeed
from tapestry.core.coordinator import Replay
from tapestry.core.copying import Copy
from tapestry.core.home import Home
from tapestry.core.journal import ASSEMBLY, Journal
from tapestry.core.operator import make_home
from tapestry.core.references import References
from tapestry.core.repeat import Repeater
from tapestry.core.service import Core, load_key, open_database
from tapestry.core.settings import CoreSettings
from tapestry.core.staging import replayer_of, staged
from tapestry.errors import (
    AuthError,
    Fork,
    FormatError,
    InputError,
    IntegrityError,
    KeyRefused,
    SignatureError,
    TapestryError,
)
from tapestry.host import files
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import WITNESS_ONLY, KeyRing
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Succession, SuccessionRequest
from tapestry.storage.blobs import BlobStore

GROUP: Final = 500
"""Entries of one transaction, at most."""
SUCCESSION: Final = "succession"
"""Folder in a core's home that waits for members to sign: request.json, and the ledger that it is about."""
NONE: Final[Mapping[str, Envelope]] = MappingProxyType({})
Progress = Callable[[int, int], None]
Endorse = Callable[[str, str, int, str], Envelope]
"""Signs for a core's key: takes consortium, key, size and root of the ledger; gives a `Succession`."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What one node has.

    Args:
        name: for people.
        ledger: its file of lines, of which `ledger_bytes` hold.
        checkpoint: the newest head the core signed over them.
        blobs: folder of its blobs.
        endorse: signs with the node's witness key; None of a copy without keys.
    """

    name: str
    ledger: Path
    ledger_bytes: int
    checkpoint: str
    blobs: Path
    endorse: Endorse | None

    def lines(self) -> Iterator[file.Line]:
        return file.read(self.ledger, self.ledger_bytes)


@dataclass(frozen=True)
class _Verified:
    replica: Replica
    verifier: Verifier

    @property
    def size(self) -> int:
        return self.verifier.found.entries


def recover(
    root: Path,
    replicas: Sequence[Replica],
    settings: CoreSettings,
    *,
    endorsements: Mapping[str, Envelope] = NONE,
    progress: Progress = lambda _done, _all: None,
    replay: Replay | None = None,
) -> dict[str, int]:
    """Set up a core in `root`, or bring the one there forward, from copies of its ledger and blobs.

    Args:
        root: an older copy of the core, or a folder without one.
        replicas: of as many nodes as there are.
        settings: of a core that is made anew.
        endorsements: what members have signed for its new key (`Succession`), by a name for people.
        progress: told of the blobs.
        replay: repeats merges that only the lost core has done; a worker of its own where None.

    Returns:
        `events` in the ledger, `adopted` of them from the copies, `blobs` copied, merges `repeated` because
        no copy has the newest base, and `lacking`: blobs that the ledger names and are nowhere.

    Raises:
        InputError: no copy holds a ledger.
        IntegrityError, Fork: a copy does not hold, or contradicts another or the core's own ledger.
        KeyRefused: too few members have signed for a new key; what others have to sign lies in the folder
            `SUCCESSION` of the core then, and the next call goes on.
        AuthError: what was signed is for something else, or by none who may.
        MergeMismatch: a merge that was repeated gives another state than the ledger has.
    """
    verified = [_verify(each) for each in replicas]
    if not verified:
        raise InputError("a core is recovered from the folders of its nodes", hint="give --from NODE_DIR")
    best = max(verified, key=lambda each: each.size)
    for other in verified:
        if other.verifier.root(other.size) != best.verifier.root(other.size):
            raise Fork(
                f"the ledgers of {other.replica.name} and {best.replica.name} contradict each other",
                hint="the core signed both: keep them, and let the members decide which one goes on",
            )
    home = Home(root)
    make_home(home, settings)
    if home.settings.exists():
        settings = settings_file.load(home)
    database = open_database(home, settings, create=True)
    try:
        journal = Journal(database)
        adopted = _adopt(journal, best)
        _take_over(home, journal, load_key(home), verified, best, endorsements)
    finally:
        database.close()
    if not home.settings.exists():
        files.write_atomic(home.settings, settings_file.render(settings).encode())
    with Core.open(root) as core:
        stores = [BlobStore.open(each.replica.blobs) for each in verified]
        copy = _blobs(core, best, stores, progress)
        with nullcontext(replay) if replay is not None else _worker(core) as doing:
            repeated = Repeater(core.runs, doing).repeat()
        lacking = len(core.store.lacking(copy.lost))
        events, _ = core.journal.tree_head()
    return {
        "events": events,
        "adopted": adopted,
        "blobs": copy.copied,
        "repeated": repeated,
        "lacking": lacking,
    }


@contextmanager
def _worker(core: Core) -> Iterator[Replay]:
    """Starts with the first merge, if there is one."""
    with replayer_of(core) as replayer:
        yield staged(replayer, core.store)


def _verify(replica: Replica) -> _Verified:
    verifier = Verifier()
    try:
        verifier.take(chain(replica.lines(), [("checkpoint", replica.checkpoint)]))
    except TapestryError as e:
        raise IntegrityError(f"the ledger of {replica.name} does not hold: {e.message}") from e
    return _Verified(replica, verifier)


def _adopt(journal: Journal, best: _Verified) -> int:
    """Have the whole ledger in the journal; what is there must be its beginning. How many were added."""
    own, _ = journal.tree_head()
    both = min(own, best.size)
    if best.verifier.root(both) != journal.tree_root(both):
        raise Fork(
            f"the core's own ledger of {own} entries contradicts that of {best.replica.name}",
            hint="it went on after it was restored: recover into a new folder instead",
        )
    if own >= best.size:
        return 0
    verifier, group = Verifier(), list[Entry]()

    def state(scope: str) -> bytes:
        if scope == CONSORTIUM:
            return ASSEMBLY.encode(verifier.assembly)
        found = verifier.state(scope)
        if found is None:
            raise IntegrityError(f"the ledger has no run {scope}")
        return found.to_bytes()

    for line in best.replica.lines():
        if line[0] == "entry":
            entry: Entry = line[1]
            if group and (entry.scope != group[-1].scope or len(group) == GROUP):
                journal.adopt(group, state)
                group = []
            verifier.line(line)
            if entry.sequence > own:
                group.append(entry)
        else:
            verifier.line(line)
    if group:
        journal.adopt(group, state)
    return best.size - own


def _take_over(
    home: Home,
    journal: Journal,
    key: KeyPair,
    verified: Sequence[_Verified],
    best: _Verified,
    endorsements: Mapping[str, Envelope],
) -> None:
    """Have this core's key speak for the ledger, if another did."""
    size, root = journal.tree_head()
    if best.verifier.key_at() == key.public_key or size != best.size:
        return
    request = SuccessionRequest(
        consortium=best.verifier.found.consortium, core_key=key.public_key, size=size, root=root.hex()
    )
    given = dict(endorsements)
    for each in (each.replica for each in verified):
        if each.endorse is not None:
            given[each.name] = each.endorse(request.consortium, request.core_key, size, request.root)
    ring, now = best.verifier.ring, time_text(journal.now_ms())
    signed = {_member(ring, name, envelope, request, now) for name, envelope in given.items()}
    if 2 * len(signed) <= len(ring.active):
        _ask(home.root / SUCCESSION, request, best)
        raise KeyRefused(
            f"{len(signed)} of {len(ring.active)} members have signed for the core's new key",
            hint=f"more than half of all members must: send them {home.root / SUCCESSION}, have each run "
            "tapestry node endorse, and give what they sign with --endorsement; or name more of their nodes",
        )
    envelopes = {envelope.digest: envelope for envelope in given.values()}
    succeed(journal, request.consortium, key.public_key, list(envelopes.values()), size, request.root)
    shutil.rmtree(home.root / SUCCESSION, ignore_errors=True)


def _member(ring: KeyRing, name: str, envelope: Envelope, request: SuccessionRequest, at: str) -> str:
    """Who has signed for just this. Raises `AuthError` or `FormatError`, with the name of what it was."""
    try:
        said, signer = ring.verify(envelope, Succession, at=at, roles=WITNESS_ONLY)
    except (AuthError, FormatError) as e:
        raise type(e)(f"{name}: {e.message}", hint=e.hint) from e
    for what, own, other in (
        ("of another consortium", request.consortium, said.consortium),
        ("for another key", request.core_key, said.core_key),
        ("for another ledger", (request.size, request.root), (said.size, said.root)),
    ):
        if own != other:
            raise SignatureError(
                f"{name}: member {signer.member} has signed {what} than this core's",
                hint="send the newest request of this core, and have it signed anew",
            )
    return signer.member


def _ask(folder: Path, request: SuccessionRequest, best: _Verified) -> None:
    """What members need to sign: the request, and the ledger it is about."""
    folder.mkdir(exist_ok=True)
    path, temporary = folder / "ledger.jsonl", folder / ".ledger.jsonl.tmp"
    with files.full_disk(path), temporary.open("wb") as out:
        file.write(out, chain(best.replica.lines(), [("checkpoint", best.replica.checkpoint)]))
    temporary.replace(path)
    files.write_atomic(folder / "request.json", request.to_bytes())


def _blobs(core: Core, best: _Verified, stores: Sequence[BlobStore], progress: Progress) -> Copy:
    """Every blob that the ledger names, from wherever it is."""
    for kind, value in best.replica.lines():
        if kind == "blob":
            core.store.put(value, durable=False)
    copy = Copy(core.store, stores)
    named = list(dict.fromkeys(References(core.runs, copy.read).named()))
    for number, sha in enumerate(named):
        progress(number, len(named))
        copy.bring(sha)
    core.store.sync([sha for sha in named if sha not in copy.lost])
    return copy
