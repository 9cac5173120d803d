"""This node's own copy of the consortium's ledger, each entry held against the rules before it is believed.

    ledger/ledger.jsonl     lines as of `audit.file`, but for the checkpoint; only ever grows
    ledger/roots            32 bytes an entry: the root of the tree that ends with it
    ledger/verified.json    how much of both holds, the newest checkpoint, and where the verification stands

What is taken in is the core's own history or nothing: its entries must make the tree that it signed, and that
tree must begin with the one this node has seen before. So the core cannot show another history later on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tapestry.audit import file, fork
from tapestry.audit.heads import signed_checkpoint
from tapestry.audit.verify import Verifier
from tapestry.errors import Behind, Fork, FormatError, IntegrityError, NotFound, SettingsError, TapestryError
from tapestry.host import failpoints, files
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import Entry
from tapestry.ledger.tree import HASH_BYTES
from tapestry.node import histories
from tapestry.node.home import Home
from tapestry.node.kept import LOST, Verified, restored
from tapestry.node.setup import Consortium
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView
from tapestry.rounds.events import RoundClosed, RoundOpened, parse_event
from tapestry.rounds.state import RunState
from tapestry.rounds.view import view_of
from tapestry.transport.client import CoreClient

MAX_PENDING_BYTES: Final = 4 << 20


class Replica:
    """Of one node; not for several threads.

    Args:
        home: the node's.
        client: asks the core.
        joined: which ledger it is.

    Raises:
        SettingsError: what lies there cannot be read.
    """

    def __init__(self, home: Home, client: CoreClient, joined: Consortium) -> None:
        self._folder = home.ledger
        self._client = client
        self._joined = joined
        self._checkpoint = ""
        self.doubted = False
        """Whether ledgers are compared before anything is sent: the core was away, or had nothing new."""
        self._recovered: tuple[str, Fork | None] | None = None
        """A head of another history, and what is known of that."""
        self._forked: Fork | None = None
        """What others were shown, which contradicts these entries."""
        self._kept = 0
        """Entries that are on disk."""
        self._offset = 0
        self._pending = bytearray()
        self._whole = True
        """Whether what was taken ends with a checkpoint."""
        self._verifier = self._load()

    @property
    def size(self) -> int:
        """Entries."""
        return self._verifier.found.entries

    @property
    def kept(self) -> int:
        """Entries that are on disk."""
        return self._kept

    def core_keys(self) -> Iterator[str]:
        """The key that speaks for the ledger, and then that which speaks for it by now."""
        yield self._verifier.key_at() or self._joined.core_key
        self.follow(self.size, again=True)
        yield self._verifier.key_at()

    @property
    def checkpoint(self) -> str | None:
        """The newest head the core has signed; on disk when this returns."""
        self.keep()
        return self._checkpoint or None

    def state(self, run: str) -> RunState | None:
        """A run, as the ledger has it; None where there is none."""
        return self._verifier.state(run)

    def newest(self, run: str) -> int:
        """Position of a run's newest entry; 0 where there is none."""
        return self._verifier.newest(run)

    def view(self, run: str) -> RunView:
        """Where a run stands by this node's own reading. Raises `NotFound`."""
        state = self.state(run)
        if state is None:
            raise NotFound(f"the ledger has no run {run}")
        return view_of(state, self.newest(run))

    def bears_out(self, run: str, contribution: str) -> bool:
        """Whether the ledger has a contribution, by the digest of its envelope, in a round it still holds."""
        state = self.state(run)
        sent = (s for at in state.rounds for s in at.submissions.values()) if state is not None else ()
        return any(each.contribution == contribution for each in sent)

    def merged(self, run: str, round: int) -> tuple[Merged, ...] | None:
        """What a round merged, with its weights; None where the ledger closes no such round."""
        state = self.state(run)
        at = next((r for r in state.rounds if r.round == round), None) if state is not None else None
        if at is not None:
            return at.merged or None
        self.keep()
        for kind, entry in self._lines():  # it ended long ago
            if kind == "entry" and (entry.scope, entry.type) == (run, "round-closed"):
                event = parse_event(entry.type, entry.body)
                if isinstance(event, RoundClosed) and event.round == round:
                    return event.merged
        return None

    def check_origin(self, plan: Plan) -> None:
        """Raise `IntegrityError` where the run that a plan repeats did not have that state in that round."""
        if (origin := plan.origin) is None:
            return
        self.keep()
        for kind, entry in self._lines():
            if kind == "entry" and (entry.scope, entry.type) == (origin.run, "round-opened"):
                event = parse_event(entry.type, entry.body)
                if isinstance(event, RoundOpened) and event.round == origin.round + 1:
                    if (event.state, event.plan) == (plan.initial_state, origin.plan):
                        return
                    break
        raise IntegrityError(
            f"the plan of run {plan.run} repeats run {origin.run} from round {origin.round + 1} on, and that "
            "run had no such round with that state",
            hint="do not train in it, and show the plan to other members",
        )

    def committed(self, run: str) -> Checkpoint | None:
        """The head that ends with the commit of a run's newest merge; on disk when this returns."""
        size = self._verifier.committed(run)
        if size is None:
            return None
        self.keep()
        return self._head(size)

    # -- following ----------------------------------------------------------------------------

    def follow(self, upto: int, *, again: bool = False) -> None:
        """Have the ledger up to this position at least; look `again` where the core may have lost some of it.

        Raises:
            Fork: the core has signed what contradicts what it signed before; a proof of it is kept.
            Behind: the core has lost entries that this node has.
            IntegrityError: entries that do not hold.
            PeerError: the core is away.
        """
        if self._forked is not None:
            raise Fork(self._forked.message, hint=self._forked.hint, seen=self._forked.seen)
        anew, again = False, again or self.doubted
        while self.size < upto or not self._whole or again:
            before = self.size
            data = self._client.ledger(after=before)
            try:
                self._take(data)
            except TapestryError as error:
                unsigned = bool(self._pending) and not anew
                proven = isinstance(error, Fork) and self._prove(error, data)
                self._reset()
                if not proven and unsigned:
                    # Nothing was signed on what is not on disk: the core may have lost it with its own.
                    anew = True
                    continue
                if not proven and (other := self._other_history()) is not None:
                    raise other from error
                raise
            again = False
            if self.size == before and (before < upto or not self._whole):
                raise Behind(
                    f"the core has spoken of more of its ledger than the {before} entries it gives",
                    hint="if it was restored from an older copy: tapestry core recover brings it forward",
                )
        self.doubted = False

    def doubt(self) -> None:
        """The core was away. It may be set up again from what is on disk here, or from an older copy: nothing
        is to be sent to it before `follow` has compared ledgers."""
        self.settle()
        self.doubted = True

    def settle(self) -> None:
        """Have on disk what was taken, where that is whole: others read it there beside the agent."""
        if self._whole:
            self.keep()

    def keep(self) -> None:
        """Have on disk all that was taken: what this node signs, it must remember having seen."""
        if self.size == self._kept:
            return
        verified = Verified(
            entries=self.size,
            bytes=self._offset + len(self._pending),
            checkpoint=self._checkpoint,
            verifier=self._verifier.to_json(),
        )
        roots = bytes(self._verifier.roots[self._kept * HASH_BYTES :])
        files.append(self._folder / "ledger.jsonl", self._offset, bytes(self._pending))
        files.append(self._folder / "roots", self._kept * HASH_BYTES, roots)
        failpoints.reach("node.ledger.before-save")
        files.write_atomic(self._folder / "verified.json", verified.to_bytes())
        self._kept, self._offset = self.size, verified.bytes
        self._pending.clear()

    def _take(self, data: bytes) -> None:
        """Believe what holds of these lines. What is raised leaves the verification in the middle."""
        lines = list(file.parse(data))
        last = lines.pop()[1] if lines and lines[-1][0] == "checkpoint" else None
        for line in lines:
            self._verifier.line(line)
        if self._verifier.found.consortium != self._joined.consortium:
            raise IntegrityError("the core gives the ledger of another consortium")
        if last is not None:
            said = signed_checkpoint(last, self._joined.consortium, self._verifier.key_at)
            if said.size < self.size:
                self._refuse_older(said, last)
            self._verifier.line(("checkpoint", last))
            self._checkpoint = last
        if lines:
            end = len(data) if last is None else data.rindex(b"\n", 0, len(data) - 1) + 1
            if not self._offset and not self._pending:
                self._pending += file.FIRST
            self._pending += data[:end]
        self._whole = last is not None
        if self._whole and len(self._pending) > MAX_PENDING_BYTES:
            self.keep()

    def _refuse_older(self, said: Checkpoint, text: str) -> None:
        if said.root != self._verifier.root(said.size):
            raise Fork(f"the core has signed another tree of {said.size} entries than before", seen=text)
        raise Behind(
            f"the core has {said.size} entries of its ledger, this node has {self.size} that it signed",
            hint="it was restored from an older copy; its operator brings it forward: tapestry core recover",
        )

    # -- proof --------------------------------------------------------------------------------

    def hold_against(self, note: str) -> bool:
        """Compare a head that the core has signed for others; False where it is of more entries than are
        here, so that nothing follows yet.

        Raises:
            Fork: it contradicts this ledger; a proof is kept, and `follow` raises it from now on.
            FormatError, SignatureError: it is no head of this ledger that the core has signed.
        """
        if not self.size or not self._whole:
            return False
        said = signed_checkpoint(note, self._joined.consortium, self._verifier.key_at)
        if said.size > self.size:
            return False
        if said.root == self._verifier.root(said.size):
            return True
        error = Fork(f"the core has signed another tree of {said.size} entries for others", seen=note)
        self._prove(error, b"")
        self._stop(error)
        raise error

    def hold_against_longer(self, note: str, entries: Sequence[Entry]) -> None:
        """The same for a head of more entries than are here, with the ledger that it is of. Raises `Fork` as
        `hold_against`; whatever proves nothing is passed over."""
        try:
            found = fork.prove(entries, note, self._checkpoint)
        except TapestryError:
            return
        error = Fork(f"the core has signed a ledger of {len(entries)} entries for others", seen=note)
        self._keep_proof(found, error)
        self._stop(error)
        raise error

    def _stop(self, error: Fork) -> None:
        """Nothing is sent any more: whatever is sent, `follow` comes first."""
        self._forked, self.doubted = error, True

    def _other_history(self) -> Fork | None:
        """What the core shows, where that is another, longer ledger that it has signed, or one under another
        key that lacks the end of this."""
        try:
            lines = histories.everything(self._client)
        except TapestryError:
            return None
        head, entries = str(lines[-1][1]), histories.entries_of(lines)
        try:
            found = fork.prove(entries, head, self._checkpoint)
        except TapestryError:
            if self._recovered is None or self._recovered[0] != head:  # verifying all of it takes a while
                self._recovered = head, histories.recovered_without(lines, self._verifier, self._folder)
            if (known := self._recovered[1]) is None:
                return None
            return Fork(known.message, hint=known.hint)
        error = Fork(f"the core shows a ledger of {len(entries)} entries that is not this node's", seen=head)
        self._keep_proof(found, error)
        return error

    def _prove(self, error: Fork, data: bytes) -> bool:
        """Keep what shows anybody that the core has signed two histories; whether there is such a proof."""
        try:
            found = self._proof(error, data)
        except TapestryError:
            found = None
        if found is None:
            return False
        self._keep_proof(found, error)
        return True

    def _keep_proof(self, found: fork.ForkProof, error: Fork) -> None:
        path = self._folder / f"fork-{found.digest[:12]}.json"
        files.write_atomic(path, found.to_bytes())
        error.hint = (
            f"do not train; send {path} to other members: tapestry ledger verify shows what it proves"
        )

    def _proof(self, error: Fork, data: bytes) -> fork.ForkProof | None:
        """Between `error.seen` and the newest head that these entries make and the core has signed."""
        pending = bytes(self._pending).removeprefix(file.FIRST)
        entries = histories.entries_of((*self._lines(), *file.parse(pending)))
        given = list(file.parse(data))
        heads = [value for kind, value in given if kind == "checkpoint"]
        longer = [*entries, *histories.entries_of(given)]
        return histories.proof(
            [(entries, self._checkpoint), (longer, heads[-1] if heads else "")], error.seen
        )

    def _lines(self) -> Iterator[file.Line]:
        """All that is on disk."""
        path = self._folder / "ledger.jsonl"
        return file.read(path, self._offset) if path.exists() else iter(())

    # -- the disk -----------------------------------------------------------------------------

    def _head(self, size: int) -> Checkpoint:
        return Checkpoint(origin_of(self._joined.consortium), size, self._verifier.root(size))

    def _reset(self) -> None:
        """Back to what is on disk: what was taken since is asked for again."""
        self._pending.clear()
        self._whole = True
        self._verifier = self._load()

    def _load(self) -> Verifier:
        path = self._folder / "verified.json"
        try:
            found = Verified.from_bytes(files.read_limited(path, Verified.MAX_BYTES))
            verifier = restored(self._folder, found)
            if (self._folder / "ledger.jsonl").stat().st_size < found.bytes:
                raise FormatError("ledger.jsonl is shorter than it was")
        except FileNotFoundError:
            if path.exists():
                raise SettingsError(f"{self._folder} lacks a part of the ledger", hint=LOST) from None
            self._folder.mkdir(parents=True, exist_ok=True)
            self._kept = self._offset = 0
            self._checkpoint = ""
            return Verifier()
        except (OSError, TapestryError) as e:
            raise SettingsError(f"the ledger in {self._folder} cannot be read: {e}", hint=LOST) from e
        self._kept, self._offset, self._checkpoint = found.entries, found.bytes, found.checkpoint
        return verifier
