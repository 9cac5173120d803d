"""A member's word for another key of the core, where the old one is lost: signed at home, by the witness key.

Nothing is signed that this node's own copy of the ledger does not bear out.
"""

from __future__ import annotations

import time
from pathlib import Path

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.errors import Conflict, Fork, FormatError, InputError, IntegrityError, TapestryError
from tapestry.host import files
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import WITNESS_ONLY
from tapestry.node import keys, settings, setup
from tapestry.node.home import Home
from tapestry.node.kept import Kept
from tapestry.node.outbox import Outbox
from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Succession, SuccessionRequest
from tapestry.transport.connection import Traffic


def read_request(path: Path) -> SuccessionRequest:
    """Raises `InputError` for no file, `FormatError` for another."""
    try:
        return SuccessionRequest.from_bytes(files.read_limited(path, SuccessionRequest.MAX_BYTES))
    except OSError as e:
        raise InputError(
            f"cannot read {path}: {e.strerror}", hint="tapestry core recover leaves it in the core's folder"
        ) from e
    except IntegrityError as e:
        raise FormatError(f"{path} is no request for a succession: {e.message}", hint=e.hint) from e


def endorse(
    home: Home, request: SuccessionRequest, *, ledger: Path | None = None, anew: bool = False
) -> Envelope:
    """Sign that a key speaks for the ledger from now on.

    Args:
        home: the node's.
        request: of whoever recovers the core.
        ledger: what the request is about, where this node has less of it.
        anew: although this node has signed for another key before.

    Raises:
        InputError: it is about another consortium, or about more than this node has and no `ledger` is given.
        IntegrityError: a ledger does not hold, or is not the one of the request.
        Fork: the request is about another history than this node's.
        Conflict: this node has entries that would be lost, or has signed for another key.
        KeyRefused, UnknownMember: its witness key may not sign (any more).
    """
    joined, node = setup.load_consortium(home), settings.load(home).node
    if request.consortium != joined.consortium:
        raise InputError(
            f"the request is of consortium {request.consortium[:12]}, this node has joined "
            f"{joined.consortium[:12]}",
            hint="ask who recovers the core for the right one",
        )
    verifier = _borne_out(request, _verified(home), ledger)
    said = Succession(
        consortium=request.consortium,
        member=node.member,
        node=node.name,
        core_key=request.core_key,
        size=request.size,
        root=request.root,
    )
    _refuse_second(home, said, anew=anew)
    envelope = sign(said, keys.load_pair(home, "witness"))
    now = time_text(round(time.time() * 1000))
    verifier.ring.verify(envelope, Succession, at=now, roles=WITNESS_ONLY)
    Outbox(home, Traffic()).signed("succession", request.core_key[:16], envelope.to_bytes())
    files.write_atomic(_memory(home), said.to_bytes())
    return envelope


def _verified(home: Home) -> Verifier:
    """This node's own ledger, from its first byte."""
    verifier = Verifier()
    try:
        verifier.take(Kept.of(home).lines())
    except IntegrityError as e:
        raise IntegrityError(f"this node's own ledger does not hold: {e.message}") from e
    return verifier


def _borne_out(request: SuccessionRequest, own: Verifier, ledger: Path | None) -> Verifier:
    """The ledger of a request, if it is this node's or goes on from it."""
    size = own.found.entries
    if request.size < size:
        raise Conflict(
            f"this node has {size} entries of the ledger, the request is about {request.size}: the rest "
            "would be lost",
            hint="give a copy of this node's folder, without keys/, to who recovers the core",
        )
    if request.size == size:
        if own.root(size).hex() != request.root:
            raise Fork(f"the request is about another ledger of {size} entries than this node's", hint=_HINT)
        return own
    if ledger is None:
        raise InputError(
            f"the request is about {request.size} entries of the ledger, this node has {size}",
            hint="give the ledger that came with the request: --ledger FILE",
        )
    longer = Verifier()
    try:
        longer.take(file.read(ledger))
    except IntegrityError as e:
        raise IntegrityError(f"the ledger in {ledger} does not hold: {e.message}") from e
    if (longer.found.entries, longer.root(longer.found.entries).hex()) != (request.size, request.root):
        raise IntegrityError(f"the ledger in {ledger} is not the one that the request is about")
    if longer.root(size) != own.root(size):
        raise Fork(f"the ledger of the request does not go on from the {size} entries here", hint=_HINT)
    return longer


_HINT = "sign nothing; compare ledgers with the other members"


def _refuse_second(home: Home, said: Succession, *, anew: bool) -> None:
    """A majority that signs twice over one ledger could set up two cores."""
    try:
        before = Succession.from_bytes(files.read_limited(_memory(home), Succession.MAX_BYTES))
    except FileNotFoundError:
        return
    except TapestryError as e:
        raise FormatError(f"{_memory(home)} cannot be read: {e.message}") from e
    if not anew and before.core_key != said.core_key and before.size >= said.size:
        raise Conflict(
            f"this node has signed for key {before.core_key[:16]} already, over a ledger as long",
            hint="make sure that no core was set up with it; then sign with --anew",
        )


def _memory(home: Home) -> Path:
    return home.state / "succession.json"
