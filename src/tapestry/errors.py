"""Every exception Tapestry raises, in one tree.

    TapestryError
    ├── InputError              what the user gave is wrong; mend it and call again
    │   ├── SettingsError       core, node or member settings
    │   ├── PlanError           a run plan
    │   ├── CharterError        a charter that is wrong, contradicts itself, or hands control to one member
    │   ├── CorpusError         text that is missing, empty or undecodable
    │   ├── CardError           a dataset card that is wrong, missing, or not of these files
    │   ├── RightsRefused       a dataset whose rights do not let it enter a stage
    │   ├── ModelError          a model or tokenizer directory
    │   ├── RecipeError         the recipe of a build
    │   ├── ConstitutionError   a member's constitution file
    │   └── EvaluationError     tasks, pairs or a survey to evaluate with that are of a wrong shape
    ├── IntegrityError          bytes are not what they claim to be
    │   ├── ArtifactError       malformed artifact, manifest, layout or shard
    │   │   ├── OverNorm        an update larger than its plan allows
    │   │   ├── Copied          an update that is another one, or nearly
    │   │   └── Leak            a canary of the node's text in what was to leave
    │   ├── HashMismatch        content does not match its address
    │   ├── ReleaseError        a release, its draft or its repository that breaks a rule
    │   ├── Fork                the core signed two histories that exclude each other
    │   ├── EntitlementError    a certificate that proves no right, or not to this base
    │   ├── BundleError         a bundle that was changed, or is not what it says
    │   │   └── Incomplete      one that holds, and lacks something that belongs in it
    │   └── FormatError         a message that does not parse, or is not canonical
    │       └── VersionError    a format or version this release does not speak
    ├── AuthError               who is asking is not who may
    │   ├── SignatureError      a signature that does not verify
    │   ├── KeyRefused         a key that is expired, revoked or of the wrong role
    │   ├── UnknownMember       a member, node or key the core never admitted
    │   └── InvitationError     an invitation that is wrong, used or expired
    ├── ProtocolError           the request is well formed but not allowed now
    │   ├── Refused             a contribution that was refused, with its reason
    │   ├── InfeasibleCap       an influence cap no set of weights can meet
    │   ├── GateNotMet          figures that a release gate does not accept
    │   ├── Conflict            the state moved on; look again and retry
    │   └── NotFound            no such run, round, blob or member
    ├── MergeMismatch           a repeated merge gave other bytes
    ├── ResourceError           the machine cannot do it
    │   ├── DiskFull            no space left; nothing was lost
    │   ├── OutOfMemory         a rank of the trainer needs more memory than there is
    │   ├── PortInUse           somebody listens there already
    │   ├── StoreError          the database or blob store failed
    │   └── Busy                not now: another process holds it, or a merge is computed
    ├── PeerError               the other side cannot be reached or misbehaves
    │   ├── Unreachable         no connection; retried with backoff
    │   ├── Behind              the core lacks entries of its ledger that it signed before
    │   └── TooLarge            a body over its stated cap, refused before it is read
    ├── TrainingError           the trainer cannot go on
    │   ├── Diverged            loss or weights are not finite
    │   └── RankLost            another rank of the island ended; all begin again from the checkpoint
    └── ProcessDied             a child process ended unexpectedly

An error says what happened, to which thing (`message`), and what to do next (`hint`). `code` is
stable and crosses the wire; `exit_code` is what the command line returns. Libraries raise, only
`tapestry.cli` exits.
"""

from __future__ import annotations

from typing import ClassVar


class TapestryError(Exception):
    """Root of the tree; never raised itself.

    Args:
        message: what happened, to which thing. One sentence, no secret and no training data in it.
        hint: what to do next, or None where there is nothing to add.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(TapestryError):
    code = "input"
    exit_code = 2


class SettingsError(InputError):
    code = "settings"


class PlanError(InputError):
    code = "plan"


class CharterError(InputError):
    code = "charter"


class CorpusError(InputError):
    code = "corpus"


class CardError(InputError):
    code = "card"


class RightsRefused(InputError):
    code = "rights"


class ModelError(InputError):
    code = "model"


class RecipeError(InputError):
    code = "recipe"


class ConstitutionError(InputError):
    code = "constitution"


class EvaluationError(InputError):
    code = "evaluation"


class IntegrityError(TapestryError):
    code = "integrity"
    exit_code = 3


class ArtifactError(IntegrityError):
    code = "artifact"


class OverNorm(ArtifactError):
    code = "over-norm"


class Copied(ArtifactError):
    code = "copied"


class Leak(ArtifactError):
    code = "leak"


class HashMismatch(IntegrityError):
    code = "hash-mismatch"


class Fork(IntegrityError):
    """`seen` is a checkpoint that the core signed and that the ledger at hand contradicts."""

    code = "fork"

    def __init__(self, message: str, *, hint: str | None = None, seen: str = "") -> None:
        super().__init__(message, hint=hint)
        self.seen = seen


class EntitlementError(IntegrityError):
    code = "entitlement"


class ReleaseError(IntegrityError):
    """`rule` names what was broken, where it is one of those that protect who fetches."""

    code = "release"

    def __init__(self, message: str, *, hint: str | None = None, rule: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


class BundleError(IntegrityError):
    code = "bundle"


class Incomplete(BundleError):
    code = "incomplete"


class FormatError(IntegrityError):
    code = "format"


class VersionError(FormatError):
    code = "version"


class AuthError(TapestryError):
    code = "auth"
    exit_code = 4


class SignatureError(AuthError):
    code = "signature"


class KeyRefused(AuthError):
    code = "key"


class UnknownMember(AuthError):
    code = "unknown-member"


class InvitationError(AuthError):
    code = "invitation"


class ProtocolError(TapestryError):
    code = "protocol"
    exit_code = 5


class Refused(ProtocolError):
    code = "refused"


class OwnerRefused(ProtocolError):
    code = "owner-refused"


class InfeasibleCap(ProtocolError):
    code = "infeasible-cap"


class GateNotMet(ProtocolError):
    code = "gate-not-met"


class Conflict(ProtocolError):
    code = "conflict"


class NotFound(ProtocolError):
    code = "not-found"


class MergeMismatch(TapestryError):
    code = "merge-mismatch"
    exit_code = 3


class ResourceError(TapestryError):
    code = "resource"
    exit_code = 6


class DiskFull(ResourceError):
    code = "disk-full"


class OutOfMemory(ResourceError):
    code = "out-of-memory"


class PortInUse(ResourceError):
    code = "port-in-use"


class StoreError(ResourceError):
    code = "store"


class Busy(ResourceError):
    code = "busy"


class PeerError(TapestryError):
    code = "peer"
    exit_code = 7


class Unreachable(PeerError):
    code = "unreachable"


class Behind(PeerError):
    code = "behind"


class TooLarge(PeerError):
    code = "too-large"


class TrainingError(TapestryError):
    code = "training"
    exit_code = 8


class Diverged(TrainingError):
    code = "diverged"


class RankLost(TrainingError):
    code = "rank-lost"


class ProcessDied(TapestryError):
    code = "process-died"
    exit_code = 9


def _tree(root: type[TapestryError]) -> dict[str, type[TapestryError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def by_code(code: str) -> type[TapestryError]:
    """The class for a `code` read off the wire; `TapestryError` for one this release does not know."""
    return _tree(TapestryError).get(code, TapestryError)
