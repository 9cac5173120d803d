"""What the agent must not forget: state/agent.json, replaced whole with each change."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tapestry.errors import SettingsError, TapestryError
from tapestry.host import failpoints, files
from tapestry.identity.envelope import Envelope
from tapestry.node.home import Home
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Contribution
from tapestry.protocol.views import OpenRound

Merges = Annotated[int, Field(ge=0, le=1 << 40)]
Round = Annotated[int, Field(ge=0, le=1 << 40)]


class HeadMemory(Part):
    """The newest shared state this node has, all its blobs included."""

    merges: Merges
    state: Sha256
    round: Round
    """Round that led there; 0 for the initial state."""
    repeated: bool = False
    """Whether this node has repeated the merge that led there."""


class OwnAttestation(Part):
    """What this node last signed as a witness. Written before it is sent: of the bases after one number of
    merges it never signs a second."""

    merges: Merges
    state: Sha256
    envelope: str
    """DSSE envelope, canonical JSON text."""


class OwnContribution(Part):
    """What this node signed for a round. Written before it is sent, so that it is only ever sent once
    with one nonce."""

    round: Round
    delta: Sha256
    envelope: str
    """DSSE envelope, canonical JSON text."""
    outcome: Literal["signed", "committed", "receipted", "refused"] = "signed"
    reason: str | None = None

    @property
    def said(self) -> Contribution:
        """What was signed."""
        envelope = Envelope.from_bytes(self.envelope.encode("ascii"))
        return envelope.unverified(Contribution)

    def is_for(self, at: OpenRound) -> bool:
        """Whether it was made for this round of this history: a core that was restored may have another."""
        return self.round == at.round and self.said.state == at.state


class RunMemory(Part):
    """One run."""

    head: HeadMemory | None = None
    older: tuple[Sha256, ...] = ()
    """States before `head` whose blobs may still lie here, oldest first."""
    pruned_round: Round = 0
    """Contributions of rounds up to here were erased."""
    contribution: OwnContribution | None = None
    """The newest."""
    attested: OwnAttestation | None = None
    """The newest."""
    scored: Merges | None = None
    """Merges of the newest base whose score was published."""
    replayed: Merges = 0
    """Merges this node repeated and found right."""
    fetched: Merges = 0
    """States this node took from the core without repeating how they came about."""
    finished: bool = False


_NOTHING = RunMemory()


class AgentMemory(Message):
    """All of it."""

    format: Literal["tapestry.agent-state"] = "tapestry.agent-state"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 32 << 20

    runs: dict[Name, RunMemory] = Field(default_factory=dict)


class Memory:
    """The file and its content. Not for several threads."""

    def __init__(self, home: Home) -> None:
        self._path = home.agent_state
        self._value = self._load()
        self._unsaved = False

    def _load(self) -> AgentMemory:
        try:
            return AgentMemory.from_bytes(files.read_limited(self._path, AgentMemory.MAX_BYTES))
        except FileNotFoundError:
            return AgentMemory()
        except TapestryError as e:
            raise SettingsError(
                f"{self._path} cannot be read: {e}",
                hint="move the file away; the node then fetches the shared state anew",
            ) from e

    @property
    def runs(self) -> Collection[str]:
        """Names of those that something is remembered of."""
        return self._value.runs.keys()

    def __getitem__(self, run: str) -> RunMemory:
        return self._value.runs.get(run) or _NOTHING

    def set(self, run: str, **fields: object) -> RunMemory:
        """Change fields of one run; on disk when this returns."""
        after = self.note(run, **fields)
        if self._unsaved:
            files.write_atomic(self._path, self._value.to_bytes())
            self._unsaved = False
        return after

    def note(self, run: str, **fields: object) -> RunMemory:
        """Change fields that are found out again after a crash; on disk with the next `set`."""
        before = self[run]
        after = before.model_copy(update=fields)
        if after != before:
            self._value = self._value.model_copy(update={"runs": {**self._value.runs, run: after}})
            self._unsaved = True
        return after

    def set_head(self, run: str, head: HeadMemory, **fields: object) -> RunMemory:
        """A new head; the one before stays known until its blobs are erased."""
        before = self[run]
        older = before.older if before.head is None else (*before.older, before.head.state)
        failpoints.reach("node.head.before-save")
        after = self.set(run, head=head, older=tuple(s for s in older if s != head.state), **fields)
        failpoints.reach("node.head.after-save")
        return after
