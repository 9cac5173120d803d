"""Whether a paper of entitlement proves what it says: from its bytes and one thing that the reader knows.

No clock is asked. The keys that count are those which the decision on the release names, and every verifier
of the ledger has held that against the keys that were valid then: so a paper stays good when they expire.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from tapestry.audit.heads import signed_checkpoint
from tapestry.errors import EntitlementError, InputError, TapestryError
from tapestry.governance.charter import Charter
from tapestry.governance.entitlement import (
    RIGHTS,
    Asked,
    Countersignature,
    Entitlement,
    Paper,
    rule,
    standing,
)
from tapestry.governance.proposal import AcceptRelease, ChangeCharter, Proposal, ReplaceRootKey
from tapestry.governance.tally import Tally
from tapestry.identity import keys
from tapestry.identity.envelope import Envelope, payload_type, pre_authentication
from tapestry.identity.keys import KeyPair
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint
from tapestry.ledger.entries import (
    CONSORTIUM,
    CharterAdopted,
    ConsortiumEvent,
    CoreSucceeded,
    Entry,
    Founded,
    MemberAdmitted,
    ProposalDecided,
    ProposalOpened,
    VoteKey,
    consortium_event,
)
from tapestry.protocol.plan import Plan

E = TypeVar("E", bound=ConsortiumEvent)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the reader knows from elsewhere; at least one of them.

    Args:
        core_key: has signed the head.
        root: hexadecimal, of the ledger's tree that the head is of.
        consortium: its id. Not enough alone: a ledger that was made up can begin with the true founding.
    """

    core_key: str | None = None
    root: str | None = None
    consortium: str | None = None


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a paper that holds was found to be."""

    certificate: Entitlement
    head: Checkpoint
    core_key: str
    signed: tuple[str, ...]
    """Members who countersigned."""
    needed: int
    holders: tuple[str, ...]


def check(paper: Paper, known: Known, *, base: str | None = None) -> Checked:
    """All of a paper.

    Args:
        base: digest that the certificate must name, of a base or of a state.

    Raises:
        InputError: nothing is known to hold it against.
        EntitlementError: what does not hold, with the rule and the way out.
    """
    if known.core_key is None and known.root is None:
        raise InputError(
            "nothing was named that this certificate could be held against",
            hint="give the core's key (--core-key), a root of the ledger that you know (--root), or the "
            "ledger itself (--ledger)",
        )
    said = paper.certificate
    try:
        evidence = _Evidence(paper)
        head, core_key = evidence.head(known)
        charter, decided = _facts(said, evidence)
        signed = _signatures(paper, charter, decided)
    except EntitlementError:
        raise
    except TapestryError as e:
        raise EntitlementError(f"the certificate does not hold: {e.message}", hint=_ANEW) from e
    if base is not None and base not in (said.base.base, said.base.state):
        raise EntitlementError(
            f"the certificate is for base {said.base.base[:12]} (state {said.base.state[:12]}) of release "
            f"{said.release}, not for {base[:12]}",
            hint="each released base has a certificate of its own: ask for that of this release, "
            "tapestry entitlement make",
        )
    return Checked(
        certificate=said,
        head=head,
        core_key=core_key,
        signed=signed,
        needed=charter.release.signatures,
        holders=charter.release.holders,
    )


_ANEW = "have it made anew from the ledger: tapestry entitlement make"


def _fail(why: str, hint: str = _ANEW) -> NoReturn:
    raise EntitlementError(f"the certificate does not hold: {why}", hint=hint)


class _Evidence:
    """Entries of a paper, by position. That they are of its head, `head` finds."""

    def __init__(self, paper: Paper) -> None:
        self._paper = paper
        self.entries: dict[int, Entry] = {}
        last = 0
        for each in paper.entries:
            entry = Entry.from_bytes(each.entry.encode())
            if entry.sequence <= last:
                _fail("its entries are not in the ledger's order")
            last = entry.sequence
            self.entries[last] = entry
        found = self.entries.get(1)
        event = consortium_event(found) if found is not None and found.scope == CONSORTIUM else None
        if found is None or not isinstance(event, Founded):
            _fail("it does not begin with the founding of a consortium")
        self.consortium, self._founding_key = found.digest, event.core_key
        self._events = [
            (place, consortium_event(entry))
            for place, entry in self.entries.items()
            if entry.scope == CONSORTIUM
        ]
        self.proposals = [
            (place, event.proposal, Envelope.from_bytes(event.envelope.encode()).unverified(Proposal))
            for place, event in self.every(ProposalOpened)
        ]
        """What was proposed, with position and name."""

    def head(self, known: Known) -> tuple[Checkpoint, str]:
        """The head and who signed it; every entry is in its tree."""
        said = self._paper.certificate
        if self.consortium != said.consortium or known.consortium not in (None, said.consortium):
            _fail(
                f"it is of consortium {said.consortium[:12]}, and its proofs or your word are of another",
                "take the certificate of this consortium",
            )
        head = signed_checkpoint(self._paper.checkpoint, self.consortium, self._core_key)
        core_key = self._core_key(head.size)
        if known.core_key not in (None, core_key):
            _fail(
                f"its head is signed by key {core_key[:16]}, not by the core's key that you gave",
                "give the key of this consortium's core; where another has taken its place, have the paper "
                "made anew with a newer head",
            )
        if known.root not in (None, head.root.hex()):
            _fail(f"the tree of its {head.size} entries has another root than the one you gave")
        for each, entry in zip(self._paper.entries, self.entries.values(), strict=True):
            tree.check_inclusion(
                tree.leaf_hash(each.entry.encode()),
                entry.sequence - 1,
                head.size,
                [bytes.fromhex(one) for one in each.proof],
                head.root,
            )
        return head, core_key

    def _core_key(self, size: int) -> str:
        """Of a ledger of so many entries, by those that are shown."""
        found = [each for each in self.every(CoreSucceeded) if each[0] <= size]
        return found[-1][1].core_key if found else self._founding_key

    def every(self, kind: type[E]) -> list[tuple[int, E]]:
        """Events of a kind, with their positions."""
        return [(place, event) for place, event in self._events if isinstance(event, kind)]

    def opened(self, proposal: str) -> tuple[int, Proposal]:
        """A proposal by its name, with its position."""
        for place, name, said in self.proposals:
            if name == proposal == said.digest:
                return place, said
        _fail(f"proposal {proposal[:12]} is not among its entries")

    def decision(self, proposal: str) -> tuple[int, ProposalDecided]:
        """That a proposal passed and is in force, with its position."""
        for place, event in self.every(ProposalDecided):
            if event.proposal == proposal and event.in_force and event.verdict == "passed":
                return place, event
        _fail(f"no entry of it decides proposal {proposal[:12]}")

    def of_run(self, run: str, kind: str) -> list[Entry]:
        return [each for each in self.entries.values() if (each.scope, each.type) == (run, kind)]


def _facts(said: Entitlement, evidence: _Evidence) -> tuple[Charter, ProposalDecided]:
    """Everything the certificate names is what the entries say; the charter, and the decision."""
    opened, proposal = evidence.opened(said.decision)
    place, decided = evidence.decision(said.decision)
    subject = proposal.subject
    if not isinstance(subject, AcceptRelease) or subject.release != said.release:
        _fail(f"proposal {said.decision[:12]} does not accept a release {said.release}")
    if (place, evidence.entries[place].at) != (said.decided, said.at):
        _fail(f"release {said.release} was decided in another entry than {said.decided}, or at another time")
    tally = Tally.from_bytes(decided.tally.encode())
    charter = _charter(said, evidence, tally, proposal)
    _base(said, evidence, subject.state)
    admitted = _root_key(said, evidence)
    if said.rights != RIGHTS:
        _fail(f"it gives other rights than {', '.join(RIGHTS)}")
    asked = Asked.of(charter)
    if said.asked != asked:
        _fail(f"charter {said.charter[:12]} asks for something else")
    verdict = rule(charter, said.given, standing(tally, said.member, admitted=admitted, opened=opened))
    if not verdict.granted:
        _fail(f"by the charter {said.member} has no right to it: {verdict.why}")
    return charter, decided


def _charter(said: Entitlement, evidence: _Evidence, tally: Tally, proposal: Proposal) -> Charter:
    """The one that the release was voted on under."""
    if not said.charter == tally.charter == proposal.charter:
        _fail(
            f"it is under charter {said.charter[:12]}, and the release was voted on under another, "
            f"{tally.charter[:12]}"
        )
    texts = [event.charter for _, event in evidence.every(CharterAdopted)]
    charters = [Charter.from_bytes(text.encode()) for text in texts]
    subjects = [each.subject for _, _, each in evidence.proposals]
    charters += [each.charter for each in subjects if isinstance(each, ChangeCharter)]
    found = next((each for each in charters if each.digest == said.charter), None)
    if found is None:
        _fail(f"the text of charter {said.charter[:12]} is not among its entries")
    if found.revision != said.revision:
        _fail(f"charter {said.charter[:12]} is revision {found.revision}, not {said.revision}")
    return found


def _base(said: Entitlement, evidence: _Evidence, state: str) -> None:
    named = said.base
    if named.state != state:
        _fail(f"release {said.release} is of state {state[:12]}, the certificate of {named.state[:12]}")
    merge = {name: getattr(named, name) for name in ("round", "merges", "state", "base")}
    made = evidence.of_run(named.run, "round-committed")
    if not any(merge.items() <= each.body.items() and each.sequence < said.decided for each in made):
        _fail(f"no entry of it says that run {named.run} made base {named.base[:12]} before the decision")
    plans = [Plan.from_json(each.body.get("plan")) for each in evidence.of_run(named.run, "run-planned")]
    if not any((each.model, each.layout) == (named.model, named.layout) for each in plans):
        _fail(f"run {named.run} is of another model or layout")


def _root_key(said: Entitlement, evidence: _Evidence) -> int:
    """Where the member was admitted. Its root key is the one of then, or one that a decision put there."""
    admitted = [(place, e) for place, e in evidence.every(MemberAdmitted) if e.member == said.member]
    if len(admitted) != 1:
        _fail(f"{len(admitted) or 'no'} entries of it admit {said.member}")
    ((place, event),) = admitted
    wanted = ReplaceRootKey(member=said.member, root_key=said.root_key)
    replaced = {
        name for _, name, each in evidence.proposals if each.subject == wanted and name == each.digest
    }
    put = [
        at
        for at, each in evidence.every(ProposalDecided)
        if each.proposal in replaced and each.in_force and each.verdict == "passed" and at < said.decided
    ]
    if event.root_key != said.root_key and not put:
        _fail(f"no entry of it before the decision gives {said.member} the root key {said.root_key[:16]}")
    return place


def signed_bytes(certificate: Entitlement) -> bytes:
    """What a countersignature is over."""
    return pre_authentication(payload_type(Entitlement), certificate.to_bytes())


def countersign(certificate: Entitlement, member: str, pair: KeyPair) -> Countersignature:
    sig = base64.b64encode(pair.sign(signed_bytes(certificate))).decode("ascii")
    return Countersignature(member=member, public_key=pair.public_key, sig=sig)


def with_signature(paper: Paper, signature: Countersignature) -> Paper:
    """A member that has signed before signs anew."""
    others = [each for each in paper.signatures if each.member != signature.member]
    ordered = tuple(sorted([*others, signature], key=lambda each: each.member))
    return paper.model_copy(update={"signatures": ordered})


def counts(certificate: Entitlement, signature: Countersignature, signers: Iterable[VoteKey]) -> bool:
    """Whether a countersignature is good, and by the key that the decision on the release names."""
    if VoteKey(member=signature.member, key_id=keys.key_id(signature.public_key)) not in signers:
        return False
    try:
        keys.verify(signature.public_key, base64.b64decode(signature.sig), signed_bytes(certificate))
    except TapestryError:
        return False
    return True


def _signatures(paper: Paper, charter: Charter, decided: ProposalDecided) -> tuple[str, ...]:
    """Who has countersigned: enough different holders, each by the key that the decision names."""
    data = signed_bytes(paper.certificate)
    named = {each.member: each.key_id for each in decided.signers or ()}
    signed: list[str] = []
    for each in paper.signatures:
        if each.member not in charter.release.holders:
            _fail(f"{each.member} has signed it, and the charter does not name it among release.holders")
        if keys.key_id(each.public_key) != named.get(each.member):
            _fail(
                f"{each.member} has signed it with key {keys.key_id(each.public_key)[:16]}, which was not "
                "its vote key when the release was accepted",
                "let it sign with the key that it had then, or another holder; else accept the same state "
                "under a new name, and make certificates of that",
            )
        if each.member in signed:
            _fail(f"{each.member} has signed it twice, which counts once", "ask another holder")
        if signed and each.member < signed[-1]:
            _fail("its signatures are not in the order of members")
        keys.verify(each.public_key, base64.b64decode(each.sig, validate=True), data)
        signed.append(each.member)
    if len(signed) < charter.release.signatures:
        lacking = sorted(named.keys() - set(signed))
        raise EntitlementError(
            f"the certificate has {len(signed)} countersignatures; the charter asks for "
            f"{charter.release.signatures} of {len(charter.release.holders)} holders",
            hint=f"ask {', '.join(lacking) or 'other holders'} to sign it: tapestry entitlement sign",
        )
    return tuple(signed)
