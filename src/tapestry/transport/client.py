"""The node's side of HTTP: signed requests, typed errors, caps on every answer, transfers that go on.

Time is the core's. Each answer says what time it is there; between answers a clock that nobody can
set (time since boot) counts on from it. So a node whose own clock is wrong signs requests that are
right.

Trust: an answer is taken for what it is, bytes from a stranger. Its size is capped before it is
read, compression is refused, messages are parsed by their closed schemas, blobs by their hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from tapestry.catalog.listing import MAX_LISTED
from tapestry.errors import FormatError
from tapestry.governance.pledge import MAX_LISTED as MAX_PLEDGES
from tapestry.identity import notes
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger.entries import Entry
from tapestry.ledger.tree import MAX_PROOF
from tapestry.protocol import canonical, derivative
from tapestry.protocol.artifact import Blob
from tapestry.protocol.messages import Progress
from tapestry.protocol.views import Hello, RoundRecord, RunView
from tapestry.transport import wire
from tapestry.transport.connection import CONNECT_S, READ_S, Connection, Request, read_error
from tapestry.transport.core_time import CoreClock
from tapestry.transport.direct import Direct
from tapestry.transport.transfers import Blobs, Transfers

MAX_EVENTS_BYTES: Final = 64 << 20


_COMMITTED: Final = re.compile(rb'\{"committed":([1-9][0-9]{0,15})\}')


@dataclass(frozen=True, kw_only=True)
class ContributionAnswer:
    """The core's receipt, or what it waits for."""

    receipt: bytes | None
    """DSSE envelope of a `Receipt`."""
    missing: tuple[str, ...] = ()
    """Blobs to be sent first."""
    committed: int | None = None
    """Position in the event log that shows it; its bytes are wanted when the round is sealed."""


class CoreClient:
    """One core, as one node sees it. Safe to use from several threads.

    Args:
        base_url: scheme, host and port of the core.
        consortium: its id; None while it is not known (before joining).
        keypair: signs the requests; None makes only `hello` and `join` possible.
        ca: PEM file of the authority that signed the core's certificate; the system's if None.
        chunk_bytes: bytes of one upload request.
        parallel: blobs in flight at once.
        connect_s: patience for a connection.
        read_s: patience for the next bytes of an answer.
        core_clock: the core's time; a new one if None.
        direct: blobs may go to and come from the object store the core names, where it names one.

    Every method raises `Unreachable` where the core is away, fails or breaks off, and the core's own
    typed errors otherwise.
    """

    def __init__(
        self,
        base_url: str,
        consortium: str | None,
        keypair: KeyPair | None,
        *,
        ca: Path | str | None = None,
        chunk_bytes: int = wire.CHUNK_BYTES,
        parallel: int = 4,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        core_clock: CoreClock | None = None,
        direct: bool = True,
    ) -> None:
        self.connection = Connection(
            base_url,
            consortium,
            keypair,
            ca=ca,
            connections=parallel + 8,
            connect_s=connect_s,
            read_s=read_s,
            core_clock=core_clock,
        )
        self._direct = Direct(
            wanted=direct,
            secure=self.connection.base_url.startswith("https:"),
            ca=ca,
            connections=parallel,
            connect_s=connect_s,
            read_s=read_s,
            traffic=self.connection.traffic,
        )
        self._transfers = Transfers(self.connection, self._direct, chunk_bytes=chunk_bytes, parallel=parallel)
        self.base_url = self.connection.base_url
        self.clock = self.connection.clock
        self.traffic = self.connection.traffic

    @property
    def keypair(self) -> KeyPair | None:
        """May be replaced in the middle of everything, when a key is rotated."""
        return self.connection.keypair

    @keypair.setter
    def keypair(self, keypair: KeyPair) -> None:
        self.connection.keypair = keypair

    def close(self) -> None:
        self._transfers.close()
        self._direct.close()
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- who is there ---------------------------------------------------------------------------

    def hello(self) -> Hello:
        """Who the core is. Raises `AuthError` where that is not the consortium this client is for."""
        return self.connection.hello()

    def join(self, join: Any, certificates: Sequence[Any]) -> Any:
        """Ask for admission. `join` and `certificates` are DSSE envelopes as JSON values."""
        body = canonical.encode({"join": join, "certificates": list(certificates)})
        return self._json(Request(method="POST", path="/v1/join", body=body, signed=False))

    def post_certificate(self, certificate: Any) -> Any:
        """Make a key known that the member's root signed."""
        body = canonical.encode({"certificate": certificate})
        return self._json(Request(method="POST", path="/v1/keys", body=body))

    def post_revocation(self, revocation: Any) -> Any:
        """End a key."""
        body = canonical.encode({"revocation": revocation})
        return self._json(Request(method="POST", path="/v1/keys", body=body))

    def members(self) -> Any:
        """Members, nodes and keys, as the core states them."""
        return self._json(Request(method="GET", path="/v1/members"), cap=RunView.MAX_BYTES)

    def events(self, *, after: int, limit: int = wire.MAX_EVENTS) -> list[Entry]:
        """Entries of the event log behind a position, oldest first."""
        query = {"after": after, "limit": limit}
        answer = self._json(Request(method="GET", path="/v1/events", query=query), cap=MAX_EVENTS_BYTES)
        entries = answer.get("entries") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise FormatError("the core's event log is not one")
        return [Entry.from_json(entry) for entry in entries]

    # -- proposals and votes -----------------------------------------------------------------------

    def charter(self) -> bytes:
        """The charter in force: canonical JSON, not verified here. Raises `NotFound` where there is none."""
        return self.connection.ask(Request(method="GET", path="/v1/charter"), cap=wire.MAX_BODY_BYTES)

    def propose(self, envelope: bytes) -> Any:
        """Put a question to the vote."""
        return self._json(Request(method="POST", path="/v1/proposals", body=envelope))

    def vote(self, envelope: bytes) -> Any:
        """Cast a ballot."""
        return self._json(Request(method="POST", path="/v1/ballots", body=envelope))

    def dispute(self, envelope: bytes) -> Any:
        """Say that the account is wrong."""
        return self._json(Request(method="POST", path="/v1/disputes", body=envelope))

    def proposals(self) -> Any:
        """All proposals, in the order of their opening."""
        return self._json(Request(method="GET", path="/v1/proposals"), cap=MAX_EVENTS_BYTES)

    def proposal(self, proposal: str) -> Any:
        """One proposal, with what was signed, and its count."""
        request = Request(method="GET", path=f"/v1/proposals/{quote(proposal, safe='')}")
        return self._json(request, cap=MAX_EVENTS_BYTES)

    # -- pledges ------------------------------------------------------------------------------------

    def pledge(self, envelope: bytes) -> Any:
        """Pledge something to a phase."""
        return self._json(Request(method="POST", path="/v1/pledges", body=envelope))

    def confirm(self, envelope: bytes) -> Any:
        """Say whether another's pledge is real."""
        return self._json(Request(method="POST", path="/v1/confirmations", body=envelope))

    def phases(self) -> Any:
        """How each phase of the charter stands."""
        return self._json(Request(method="GET", path="/v1/phases"), cap=MAX_EVENTS_BYTES)

    def pledges(self) -> tuple[list[Any], int | None]:
        """All pledges in force with what was signed, and the entry they are as of; None, and not all of them,
        where that has changed meanwhile."""
        found: list[Any] = []
        seen: set[int] = set()
        while True:
            query = {"after": len(found), "limit": wire.MAX_LISTED}
            answer = self._json(Request(method="GET", path="/v1/pledges", query=query), cap=MAX_EVENTS_BYTES)
            if not isinstance(answer, dict) or not isinstance(answer.get("pledges"), list):
                raise FormatError("the core's list of pledges is not one")
            sequence, total = answer.get("sequence"), answer.get("total")
            if type(sequence) is not int or type(total) is not int or total > MAX_PLEDGES:
                raise FormatError("the core's list of pledges is not one")
            seen.add(sequence)
            found += answer["pledges"]
            if len(found) >= total or not answer["pledges"] or len(seen) > 1:
                return found, sequence if len(seen) == 1 else None

    # -- the catalog --------------------------------------------------------------------------------

    def publish_listing(self, envelope: bytes) -> Any:
        """Say what a dataset is, or take it back."""
        return self._json(Request(method="POST", path="/v1/catalog", body=envelope))

    def listings(self) -> list[Any]:
        """DSSE envelopes of what members published, as JSON values; not verified here."""
        return self._entries("/v1/catalog", MAX_LISTED, "catalog")

    # -- the registry of derivatives ------------------------------------------------------------------

    def publish_derivative(self, envelope: bytes) -> Any:
        """Say what a derivative is, or take it back."""
        return self._json(Request(method="POST", path="/v1/derivatives", body=envelope))

    def derivatives(self) -> list[Any]:
        """DSSE envelopes of what owners show, as JSON values; not verified here."""
        return self._entries("/v1/derivatives", derivative.MAX_LISTED, "registry")

    def _entries(self, path: str, most: int, what: str) -> list[Any]:
        """All pages of a list."""
        found: list[Any] = []
        while True:
            query = {"after": len(found), "limit": wire.MAX_LISTED}
            answer = self._json(Request(method="GET", path=path, query=query), cap=MAX_EVENTS_BYTES)
            entries = answer.get("entries") if isinstance(answer, dict) else None
            total = answer.get("total") if isinstance(answer, dict) else None
            if not isinstance(entries, list) or type(total) is not int or total > most:
                raise FormatError(f"the core's {what} is not one")
            found += entries
            if len(found) >= total or not entries:
                return found

    # -- the ledger and its tree ----------------------------------------------------------------------

    def ledger(self, *, after: int) -> bytes:
        """Lines of the ledger behind a position, for `audit.file.parse`; the last is the core's checkpoint,
        unless there is more to ask for."""
        request = Request(method="GET", path="/v1/ledger", query={"after": after})
        return self.connection.ask(request, cap=MAX_EVENTS_BYTES)

    def checkpoint(self) -> Note:
        """The core's newest signed head of the tree; its signature is not verified here."""
        answer = self.connection.ask(Request(method="GET", path="/v1/ledger/checkpoint"), cap=notes.MAX_BYTES)
        return Note.from_bytes(answer)

    def inclusion(self, sequence: int, size: int) -> tuple[bytes, ...]:
        """A proof that an entry is among the first `size`, not verified here."""
        return self._proof("inclusion", sequence=sequence, size=size)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """A proof that the first `new` entries begin with the first `old`, not verified here."""
        return self._proof("consistency", old=old, new=new)

    def _proof(self, kind: str, **asked: str | int) -> tuple[bytes, ...]:
        answer = self._json(Request(method="GET", path=f"/v1/ledger/{kind}", query=asked))
        proof = answer.get("proof") if isinstance(answer, dict) else None
        if (
            not isinstance(proof, list)
            or len(proof) > MAX_PROOF
            or not all(isinstance(each, str) and canonical.is_sha256(each) for each in proof)
        ):
            raise FormatError(f"the core's proof of {kind} is none")
        return tuple(map(bytes.fromhex, proof))

    # -- runs -----------------------------------------------------------------------------------

    def runs(self) -> Any:
        """All runs with their status."""
        return self._json(Request(method="GET", path="/v1/runs"), cap=RunView.MAX_BYTES)

    def run(
        self, run: str, *, after: int | None = None, wait_s: float = 0.0, gist: int | None = None
    ) -> RunView:
        """Where a run stands; with `after`, waits up to `wait_s` for something newer than that.

        With `gist`, what leaves the asking node's `RunView.gist_for` as it is may be told a little later.
        """
        query: dict[str, str | int] = {}
        if after is not None:
            query = {"after": after, "wait_s": f"{wait_s:g}"}
        if gist is not None:
            query["gist"] = gist
        request = Request(method="GET", path=_run(run), query=query, patience_s=wait_s)
        return RunView.from_bytes(self.connection.ask(request, cap=RunView.MAX_BYTES))

    def round(self, run: str, number: int) -> RoundRecord:
        """What a committed round was made of. Raises `NotFound` where that round has no record."""
        request = Request(method="GET", path=f"{_run(run)}/rounds/{number}")
        return RoundRecord.from_bytes(self.connection.ask(request, cap=RoundRecord.MAX_BYTES))

    def enrol(self, run: str, envelope: bytes) -> Any:
        """Take part from the next round on."""
        return self._json(Request(method="POST", path=f"{_run(run)}/enrolments", body=envelope))

    def contribute(self, run: str, envelope: bytes) -> ContributionAnswer:
        """Hand in a signed contribution: for good where the core has its bytes, else learn which it lacks, or
        that it wants them later."""
        answer = self.connection.send(
            Request(method="POST", path=f"{_run(run)}/contributions", body=envelope),
            cap=wire.MAX_MISSING_BYTES,
        )
        if answer.status < 400:
            if (found := _COMMITTED.fullmatch(answer.body)) is not None:
                return ContributionAnswer(receipt=None, committed=int(found[1]))
            return ContributionAnswer(receipt=answer.body)
        _, more = wire.read_error(answer.status, answer.body)
        missing = more.get("missing")
        if isinstance(missing, list) and missing and all(isinstance(each, str) for each in missing):
            return ContributionAnswer(receipt=None, missing=tuple(missing))
        raise read_error(answer)

    def attest(self, run: str, envelope: bytes) -> Any:
        """Say that this node has repeated the newest merge."""
        return self._json(Request(method="POST", path=f"{_run(run)}/attestations", body=envelope))

    def score(self, run: str, envelope: bytes) -> Any:
        """Publish the score of a shared base."""
        return self._json(Request(method="POST", path=f"{_run(run)}/scores", body=envelope))

    def progress(self, run: str, progress: Progress) -> None:
        """Say where this node is in its round."""
        request = Request(method="POST", path=f"{_run(run)}/progress", body=progress.to_bytes())
        self.connection.ask(request)

    # -- blobs ----------------------------------------------------------------------------------

    def missing(self, shas: Sequence[str]) -> dict[str, int]:
        """Of these, the blobs the core lacks, each with the bytes of it that it has."""
        return self._transfers.missing(shas)

    def upload_blobs(
        self, blobs: Sequence[Blob], store: Blobs, *, before: Callable[[], None] = lambda: None
    ) -> int:
        """Send the blobs that the core lacks, several at once, from where an earlier try broke off.

        Args:
            blobs: that are wanted there.
            store: which has them.
            before: called before each request with bytes, in several threads; what it raises ends the upload.

        Returns:
            bytes of blobs sent.

        Raises:
            HashMismatch: a blob kept arriving with other bytes than its name says.
        """
        return self._transfers.upload(blobs, store, before)

    def download_blobs(self, blobs: Sequence[Blob], store: Blobs, *, durable: bool = False) -> int:
        """Fetch the blobs that `store` lacks, several at once, from where an earlier try broke off.

        Every blob is verified before it gets its name. One that comes with other bytes is asked for
        again.

        Returns:
            bytes of blobs received.

        Raises:
            HashMismatch: a blob kept coming with other bytes.
            TooLarge: the core announces another size than the blob has.
            NotFound: the core has none of that name.
        """
        return self._transfers.download(blobs, store, durable=durable)

    def download(self, sha: str, store: Blobs, *, max_bytes: int, durable: bool = False) -> None:
        """Fetch one blob of unknown size, at most `max_bytes`. Errors as of `download_blobs`."""
        self._transfers.download_unsized(sha, store, max_bytes=max_bytes, durable=durable)

    def _json(self, request: Request, *, cap: int = wire.MAX_BODY_BYTES) -> Any:
        body = self.connection.ask(request, cap=cap)
        return canonical.decode(body, what="answer of the core", max_bytes=cap) if body else None


def _run(run: str) -> str:
    return f"/v1/runs/{quote(run, safe='')}"
