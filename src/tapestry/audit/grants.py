"""Certificates of entitlement made from a ledger: who has a right to which release, and the papers for it.

The ledger is gone through once. Of each entry 64 bytes are kept, for the proofs; of each part of a merge 40;
and the entries that a paper may show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tapestry.audit.believing import Believing
from tapestry.audit.file import Line
from tapestry.audit.verify import Found, Verifier
from tapestry.errors import Conflict, EntitlementError, FormatError, NotFound, Refused
from tapestry.governance.charter import Charter
from tapestry.governance.entitlement import (
    RIGHTS,
    Asked,
    Base,
    Counted,
    Entitlement,
    Given,
    Merged,
    Paper,
    Proven,
    Verdict,
    lineage,
    rule,
    standing,
)
from tapestry.governance.proposal import AcceptRelease, ChangeCharter, ReplaceRootKey
from tapestry.governance.state import Item
from tapestry.governance.tally import Tally
from tapestry.identity.keyring import Admitted
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint
from tapestry.ledger.entries import (
    CONSORTIUM,
    CharterAdopted,
    ConsortiumEvent,
    Entry,
    ProposalDecided,
    ProposalOpened,
    VoteKey,
    consortium_event,
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that was accepted."""

    name: str
    state: str
    item: Item
    decided: int
    at: str
    charter: Charter
    tally: Tally
    signers: tuple[VoteKey, ...]
    """By the decision: who countersigns, with which key."""
    members: dict[str, Admitted]
    """All that were ever admitted, as of the decision."""

    @property
    def needed(self) -> int:
        """Countersignatures."""
        return self.charter.release.signatures


@dataclass(frozen=True, kw_only=True)
class Grant:
    """How a member stands to a release."""

    release: str
    member: str
    given: Given
    verdict: Verdict


@dataclass
class _Places:
    """Where in the ledger things stand that a paper may need."""

    always: list[int] = field(default_factory=lambda: [1])
    admitted: dict[str, int] = field(default_factory=dict)
    roots: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Of a replaced root key: the proposal and the decision."""
    charters: dict[str, int] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)
    committed: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """By state, where it was made first: run, merges, position."""
    origins: dict[str, tuple[str, int]] = field(default_factory=dict)


class Grants:
    """What a ledger entitles whom to.

    Args:
        lines: of the ledger.
        told: hears of every entry that holds.
        verify: whether the entries of runs are held against the rules; a node has done that with its copy.

    Raises:
        IntegrityError: the ledger does not hold.
        FormatError: what was believed of it cannot be.
    """

    def __init__(
        self, lines: Iterable[Line], told: Callable[[int], None] = lambda _: None, *, verify: bool = True
    ) -> None:
        self._places, self._tree, self._note = _Places(), tree.Tree(), ""
        self._kept: dict[int, bytes] = {}
        """Entries that papers may show, by position."""
        self._merged = Merged()
        self._charter_of: dict[str, Charter] = {}
        """By proposal to accept a release: the charter that it is under."""
        self.releases: dict[str, Release] = {}
        """By name, in the order of their acceptance."""
        self.revoked: set[str] = set()
        self.verifier = Verifier(told) if verify else Believing(told, self._tree)
        try:
            self.found: Found = self.verifier.take(self._watched(lines))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
            if verify:
                raise
            raise FormatError(
                "this ledger is not as the rules give it", hint="verify it: tapestry ledger verify"
            ) from e

    def release(self, name: str) -> Release:
        """Raises `NotFound`."""
        found = self.releases.get(name)
        if found is None:
            raise NotFound(
                f"the members have accepted no release {name}",
                hint="see what they have: tapestry entitlement list",
            )
        return found

    def grants(self, name: str) -> list[Grant]:
        """Of a release: every member of the consortium by then, and how it stands. Errors as of `paper`."""
        release = self.release(name)
        counted = self._counted(release)
        return [self._grant(release, member, counted.given(member)) for member in sorted(release.members)]

    def papers(self, name: str, members: Iterable[str]) -> Iterator[Paper]:
        """Of these members, not signed yet.

        Raises:
            NotFound: there is no such release or member.
            Conflict: the released state is of no merge in this ledger.
            Refused: the member has no right to it, and why.
        """
        release, members = self.release(name), list(members)
        for member in members:
            if member not in release.members:
                raise NotFound(f"{member} was no member when release {name} was accepted")
        counted = self._counted(release)
        for member in members:
            grant = self._grant(release, member, counted.given(member))
            if not grant.verdict.granted:
                raise Refused(
                    f"{member} has no right to release {name}: {grant.verdict.why}",
                    hint="see who has, and by which numbers: tapestry entitlement list; the charter says how "
                    "much is needed, and a number can be disputed: tapestry account dispute",
                )
            yield self._paper(release, member, grant.given)

    def paper(self, name: str, member: str) -> Paper:
        """Of one. Errors as of `papers`."""
        (found,) = self.papers(name, [member])
        return found

    def hold(self, said: Entitlement) -> None:
        """Raise `EntitlementError` unless this ledger gives that very certificate. Else errors as of
        `paper`."""
        if said.consortium != self.found.consortium:
            raise EntitlementError(
                f"the certificate is of consortium {said.consortium[:12]}, the ledger of "
                f"{self.found.consortium[:12]}",
                hint="hold it against its own ledger",
            )
        ours = self.paper(said.release, said.member).certificate
        if (field_ := first_difference(said, ours)) is not None:
            raise EntitlementError(
                f"the ledger gives another certificate for {said.member}: {field_} differs",
                hint="make it anew from the ledger: tapestry entitlement make",
            )

    def head_of(self, paper: Paper) -> str:
        """The root of this ledger where it had as many entries as the paper's head tells of. Raises
        `EntitlementError` where it has fewer."""
        size = Checkpoint.parse(Note.from_bytes(paper.checkpoint.encode()).text).size
        if size > self.found.entries:
            raise EntitlementError(
                f"the certificate's head is of {size} entries, the ledger has {self.found.entries}",
                hint="take a newer copy of the ledger",
            )
        return self.verifier.root(size).hex()

    # -- the first pass ---------------------------------------------------------------------------

    def _watched(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The same lines. What goes on behind one was told that it holds."""
        for line in lines:
            yield line
            if line[0] == "entry":
                self._seen(line[1])
            elif line[0] == "checkpoint":
                self._note = line[1]

    def _seen(self, entry: Entry) -> None:
        if self._tree.size < entry.sequence:
            self._tree.add(self.verifier.leaf)
        self._merged.take(entry)
        places, body = self._places, entry.body
        if entry.scope == CONSORTIUM:
            if entry.type != "ballot-cast":
                self._kept[entry.sequence] = entry.to_bytes()
                self._of_consortium(entry, consortium_event(entry))
        elif entry.type == "run-planned":
            self._kept[entry.sequence] = entry.to_bytes()
            places.planned[entry.scope] = entry.sequence
            if (origin := body["plan"].get("origin")) is not None:
                places.origins[entry.scope] = origin["run"], origin["merges"]
        elif entry.type == "round-committed":
            self._kept[entry.sequence] = entry.to_bytes()
            places.committed.setdefault(body["state"], (entry.scope, body["merges"], entry.sequence))

    def _of_consortium(self, entry: Entry, event: ConsortiumEvent) -> None:
        places, governance = self._places, self.verifier.assembly.governance
        match event:
            case CharterAdopted() if governance.charter is not None:
                places.charters.setdefault(governance.charter.digest, entry.sequence)
            case ProposalOpened():
                subject = governance.proposals[event.proposal].subject
                if isinstance(subject, ChangeCharter):
                    places.charters.setdefault(subject.charter.digest, entry.sequence)
                elif isinstance(subject, AcceptRelease) and governance.charter is not None:
                    self._charter_of[event.proposal] = governance.charter
            case ProposalDecided() if event.in_force:
                self._in_force(entry, event)
            case _ if entry.type == "member-admitted":
                places.admitted[entry.body["member"]] = entry.sequence
            case _ if entry.type == "core-succeeded":
                places.always.append(entry.sequence)

    def _in_force(self, entry: Entry, event: ProposalDecided) -> None:
        assembly = self.verifier.assembly
        item = assembly.governance.proposals[event.proposal]
        subject = item.subject
        if isinstance(subject, ReplaceRootKey):
            self._places.roots[subject.member, subject.root_key] = item.sequence, entry.sequence
        elif subject.kind == "revoke-release":
            self.revoked.add(subject.release)
        elif isinstance(subject, AcceptRelease):
            charter = self._charter_of[event.proposal]
            self.releases[subject.release] = Release(
                name=subject.release,
                state=subject.state,
                item=item,
                decided=entry.sequence,
                at=entry.at,
                charter=charter,
                tally=Tally.from_bytes(event.tally.encode()),
                signers=event.signers or (),
                members=assembly.ring.members,
            )

    # -- what it comes to -------------------------------------------------------------------------

    def _made(self, release: Release) -> tuple[str, int, int]:
        found = self._places.committed.get(release.state)
        if found is None or found[2] > release.decided:
            raise Conflict(
                f"release {release.name} is of state {release.state[:12]}, which no merge in this ledger had "
                "made by then",
                hint="let the members accept a release of a state that tapestry run status names",
            )
        return found

    def _needed(self, release: Release, member: str) -> set[int]:
        places = self._places
        run, _, committed = self._made(release)
        root = release.members[member]
        return {
            *places.always,
            places.charters[release.charter.digest],
            places.admitted[member],
            *(places.roots[member, root.root_key] if root.former else ()),
            places.planned[run],
            committed,
            release.item.sequence,
            release.decided,
        }

    def _counted(self, release: Release) -> Counted:
        run, merges, _ = self._made(release)
        return self._merged.upto(lineage(run, merges, self._places.origins))

    def _grant(self, release: Release, member: str, given: Given) -> Grant:
        stands = standing(
            release.tally, member, admitted=self._places.admitted[member], opened=release.item.sequence
        )
        return Grant(
            release=release.name,
            member=member,
            given=given,
            verdict=rule(release.charter, given, stands),
        )

    def _paper(self, release: Release, member: str, given: Given) -> Paper:
        run, _, committed = self._made(release)
        planned, commit = (
            Entry.from_bytes(self._kept[place]) for place in (self._places.planned[run], committed)
        )
        plan, made = planned.body["plan"], commit.body
        certificate = Entitlement(
            consortium=self.found.consortium,
            member=member,
            root_key=release.members[member].root_key,
            release=release.name,
            decision=release.item.proposal,
            decided=release.decided,
            at=release.at,
            base=Base(
                run=run,
                **{name: made[name] for name in ("round", "merges", "state", "base")},
                model=plan["model"],
                layout=plan["layout"],
            ),
            rights=RIGHTS,
            charter=release.charter.digest,
            revision=release.charter.revision,
            asked=Asked.of(release.charter),
            given=given,
        )
        proven = []
        for place in sorted(self._needed(release, member)):
            proof = tuple(each.hex() for each in self._tree.inclusion(place - 1))
            proven.append(Proven(entry=self._kept[place].decode(), proof=proof))
        return Paper(certificate=certificate, signatures=(), checkpoint=self._note, entries=tuple(proven))


def first_difference(one: Entitlement, other: Entitlement) -> str | None:
    """The first field that is not the same in both."""
    a, b = one.model_dump(mode="json"), other.model_dump(mode="json")
    return next((name for name in a if a[name] != b[name]), None)
