"""A core from what its nodes have: their verified copies of the ledger, and their blobs.

No copy is believed. Each is verified from its first byte; the longest is taken, and all others must be its
beginning. Where the core's key is lost with its disk, a new one takes its place, for which more than half of
all members sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.core import settings as settings_file
from tapestry.core.consortium import succeed
from tapestry.core.copying import Copy
from tapestry.core.home import Home
from tapestry.core.journal import Journal
from tapestry.core.operator import make_home
from tapestry.core.references import References
from tapestry.core.service import Core, load_key, open_database
from tapestry.core.settings import CoreSettings
from tapestry.errors import (
    Fork,
    InputError,
    IntegrityError,
    TapestryError,
)
from tapestry.host import files
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.protocol import canonical
from tapestry.storage.blobs import BlobStore

GROUP: Final = 500
"""Entries of one transaction, at most."""
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
        endorse: signs with the node's witness key.
    """

    name: str
    ledger: Path
    ledger_bytes: int
    checkpoint: str
    blobs: Path
    endorse: Endorse

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
    progress: Progress = lambda _done, _all: None,
) -> dict[str, int]:
    """Set up a core in `root`, or bring the one there forward, from copies of its ledger and blobs.

    Args:
        root: an older copy of the core, or a folder without one.
        replicas: of as many nodes as there are.
        settings: of a core that is made anew.
        progress: told of the blobs.

    Returns:
        `events` in the ledger, `adopted` of them from the copies, `blobs` copied, and `lacking`: blobs that
        the ledger names and no copy has.

    Raises:
        InputError: no copy holds a ledger.
        IntegrityError, Fork: a copy does not hold, or contradicts another or the core's own ledger.
        KeyRefused: too few members to sign for a new key.
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
        _take_over(journal, load_key(home), verified, best)
    finally:
        database.close()
    if not home.settings.exists():
        files.write_atomic(home.settings, settings_file.render(settings).encode())
    with Core.open(root) as core:
        stores = [BlobStore.open(each.replica.blobs) for each in verified]
        copied, lacking = _blobs(core, best, stores, progress)
        events, _ = core.journal.tree_head()
    return {"events": events, "adopted": adopted, "blobs": copied, "lacking": lacking}


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
            return canonical.encode(verifier.ring.to_json())
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


def _take_over(journal: Journal, key: KeyPair, verified: Sequence[_Verified], best: _Verified) -> None:
    """Have this core's key speak for the ledger, if another did."""
    size, root = journal.tree_head()
    if best.verifier.key_at() == key.public_key or size != best.size:
        return
    consortium = best.verifier.found.consortium
    envelopes = {
        envelope.digest: envelope
        for envelope in (
            each.replica.endorse(consortium, key.public_key, size, root.hex()) for each in verified
        )
    }
    succeed(journal, consortium, key.public_key, list(envelopes.values()), size, root.hex())


def _blobs(core: Core, best: _Verified, stores: Sequence[BlobStore], progress: Progress) -> tuple[int, int]:
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
    return copy.copied, len(copy.lost)
