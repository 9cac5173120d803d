"""What a dashboard asks a core: GETs of docs/formats/http.md, signed where it has a member's key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

from tapestry.catalog.listing import MAX_LISTED, CatalogEntry, Shown
from tapestry.errors import AuthError, FormatError, NotFound, TapestryError
from tapestry.governance.charter import Charter
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing
from tapestry.protocol import canonical, derivative
from tapestry.protocol.derivative import DerivativeRecord
from tapestry.protocol.views import Hello, RunView
from tapestry.transport import wire
from tapestry.transport.client import MAX_EVENTS_BYTES
from tapestry.transport.connection import Connection, Request

MAX_RUNS: Final = 256


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A dataset as a member shows it.

    Args:
        public: fields of the card that anybody may see.
        signed: whether the member's signature was checked here; what the core tells anybody has none.
    """

    member: str
    dataset: str
    at: str
    card: Shown
    public: frozenset[str]
    signed: bool


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run as `/v1/runs` lists it."""

    run: str
    status: str
    merges: int


class Source:
    """Of one core.

    Args:
        connection: to it; requests are signed where it has a key.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.signed = connection.keypair is not None

    def close(self) -> None:
        self._connection.close()

    def hello(self) -> Hello:
        return self._connection.hello()

    def time(self) -> str:
        """The core's, as of its last answer."""
        return self._connection.clock.now()

    def lines(self, after: int) -> bytes:
        """Of the ledger, as `audit.file.parse` takes them. Raises `AuthError` where it is not shown."""
        return self._ask("/v1/ledger", cap=MAX_EVENTS_BYTES, after=after)

    def run(self, run: str) -> RunView:
        return RunView.from_bytes(self._ask(f"/v1/runs/{quote(run, safe='')}", cap=RunView.MAX_BYTES))

    def runs(self) -> tuple[RunLine, ...]:
        found = self._json("/v1/runs", "runs")
        try:
            return tuple(
                RunLine(run=str(each["run"]), status=str(each["status"]), merges=int(each["merges"]))
                for each in found[:MAX_RUNS]
            )
        except (KeyError, TypeError, ValueError) as e:
            raise FormatError("the core's list of runs is not one") from e

    def charter(self) -> Charter | None:
        """None where there is none, or it is not shown."""
        try:
            return Charter.from_bytes(self._ask("/v1/charter"))
        except (AuthError, NotFound):
            return None

    def members(self) -> tuple[str, ...]:
        """Names; none where they are not shown."""
        try:
            return tuple(str(each["member"]) for each in self._json("/v1/members", "members"))
        except AuthError:
            return ()
        except (KeyError, TypeError) as e:
            raise FormatError("the core's list of members is not one") from e

    def listings(self, ring: KeyRing, consortium: str) -> tuple[Listing, ...] | None:
        """What members publish of their datasets; None where that is not shown. One whose signature does not
        hold is left out."""
        found: list[Listing] = []
        seen, total = 0, 1
        while seen < total:
            try:
                data = self._ask("/v1/catalog", cap=MAX_EVENTS_BYTES, after=seen, limit=wire.MAX_LISTED)
            except AuthError:
                return None
            answer = canonical.decode(data, what="catalog", max_bytes=MAX_EVENTS_BYTES)
            try:
                entries, total = answer["entries"], int(answer["total"])
                made = [self._listing(each, ring, consortium) for each in entries]
            except (KeyError, TypeError, ValueError) as e:
                raise FormatError("the core's catalog is not one") from e
            if total > MAX_LISTED:
                raise FormatError("the core's catalog is not one")
            found += [each for each in made if each is not None]
            seen += len(entries)
            if not entries:
                break
        return tuple(found)

    def derivatives(self, ring: KeyRing, consortium: str) -> tuple[DerivativeRecord, ...]:
        """What owners show of their derivatives; none where that is not shown, or kept."""
        found: list[DerivativeRecord] = []
        seen, total = 0, 1
        while seen < total:
            try:
                data = self._ask("/v1/derivatives", cap=MAX_EVENTS_BYTES, after=seen, limit=wire.MAX_LISTED)
            except (AuthError, NotFound):
                return ()
            answer = canonical.decode(data, what="registry", max_bytes=MAX_EVENTS_BYTES)
            try:
                entries, total = list(answer["entries"]), int(answer["total"])
            except (KeyError, TypeError, ValueError) as e:
                raise FormatError("the core's registry of derivatives is not one") from e
            if total > derivative.MAX_LISTED:
                raise FormatError("the core's registry of derivatives is not one")
            made = (_opened(each, ring, DerivativeRecord) for each in entries)
            found += [each for each in made if each is not None and each.consortium == consortium]
            seen += len(entries)
            if not entries:
                break
        return tuple(found)

    def _listing(self, value: Any, ring: KeyRing, consortium: str) -> Listing | None:
        if not self.signed:
            if value["card"] is None:
                return None
            whole = {**dict.fromkeys(Shown.model_fields), **value["card"]}
            card = Shown.model_validate_json(canonical.encode(whole))
            public = frozenset(value["card"])
            return Listing(
                member=str(value["member"]), dataset=str(value["dataset"]), at=str(value["at"]),
                card=card, public=public, signed=False,
            )  # fmt: skip
        entry = _opened(value, ring, CatalogEntry)
        if entry is None or entry.card is None or entry.consortium != consortium:
            return None
        return Listing(
            member=entry.member, dataset=entry.dataset, at=entry.at,
            card=entry.card, public=frozenset(entry.public), signed=True,
        )  # fmt: skip

    def _json(self, path: str, field: str) -> list[Any]:
        answer = canonical.decode(
            self._ask(path, cap=RunView.MAX_BYTES), what=field, max_bytes=RunView.MAX_BYTES
        )
        found = answer.get(field) if isinstance(answer, dict) else None
        if not isinstance(found, list):
            raise FormatError(f"the core's list of {field} is not one")
        return found

    def _ask(self, path: str, *, cap: int = wire.MAX_BODY_BYTES, **query: int) -> bytes:
        request = Request(method="GET", path=path, query=query, signed=self.signed)
        return self._connection.ask(request, cap=cap)


S = TypeVar("S", CatalogEntry, DerivativeRecord)


def _opened(value: Any, ring: KeyRing, kind: type[S]) -> S | None:
    """What a member says, if a key that was certified for its member's node has signed it."""
    try:
        envelope = Envelope.from_json(value)
        (signature,) = envelope.signatures
        certificate = ring.keys[signature.keyid].certificate
        entry = envelope.open_as(kind, certificate.public_key)
    except (TapestryError, KeyError, ValueError):
        return None
    return entry if (entry.member, entry.node) == (certificate.member, certificate.node) else None
