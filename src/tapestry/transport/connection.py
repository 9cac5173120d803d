"""One signed HTTP request at a time, from a stranger whose answers are capped before they are read."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import urlencode, urlsplit

import httpx

from tapestry.errors import AuthError, PeerError, SettingsError, TapestryError, TooLarge, Unreachable
from tapestry.identity.keys import KeyPair
from tapestry.identity.requests import make_proof
from tapestry.protocol import canonical
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.protocol.views import Hello
from tapestry.transport import core_time, wire
from tapestry.transport.core_time import CoreClock
from tapestry.transport.sockets import Sockets

FOREIGN: Final = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError)

CONNECT_S: Final = 5.0
READ_S: Final = 30.0
MAX_ERROR_BYTES: Final = 1 << 20
SKEW_S: Final = 60.0
"""A request that was refused while the reckoned time was wrong by more than this is signed anew."""
SIGNINGS: Final = 3
"""How often at most: an answer that was on its way while the core's clock was set tells the old time."""


class Traffic:
    """Bytes of HTTP sent and received: start lines, headers and bodies as they are on the wire.

    A request counts when it is begun, its body as it is given to the socket, so one that nobody
    answers counts as well. Not counted: TLS, TCP and IP around them, and the lengths between chunks of
    a chunked body.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.proof_bytes = 0
        """Of what was sent: signed request proofs."""

    def add(self, *, requests: int = 0, sent: int = 0, received: int = 0, proof: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.sent_bytes += sent
            self.received_bytes += received
            self.proof_bytes += proof

    def as_json(self) -> dict[str, int]:
        with self._lock:
            return {
                "requests": self.requests,
                "sent_bytes": self.sent_bytes,
                "received_bytes": self.received_bytes,
                "proof_bytes": self.proof_bytes,
            }


def head_bytes(first_line: int, headers: httpx.Headers) -> int:
    """Of a request or answer whose first line has so many bytes."""
    return first_line + 2 + sum(len(name) + len(value) + 4 for name, value in headers.raw)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask. `pieces` gives a body of `size` bytes, anew each time it is called."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: bytes | None = None
    pieces: Callable[[], Iterator[bytes]] | None = None
    size: int = 0
    proof_of: str | None = None
    """Hash that the proof states in place of the body's own."""
    headers: Mapping[str, str] = field(default_factory=dict)
    signed: bool = True
    patience_s: float = 0.0
    """Waits this much longer than usual for the answer."""

    @property
    def target(self) -> str:
        return self.path + ("?" + urlencode(self.query) if self.query else "")


@dataclass(frozen=True)
class Answer:
    """Status and whole body."""

    status: int
    body: bytes


class Connection:
    """One core, and the key that requests to it are signed with. Safe to use from several threads.

    Args: as of `tapestry.transport.client.CoreClient`.
    """

    def __init__(
        self,
        base_url: str,
        consortium: str | None,
        keypair: KeyPair | None,
        *,
        ca: Path | str | None,
        connections: int,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        core_clock: CoreClock | None = None,
    ) -> None:
        self.base_url = _checked_url(base_url)
        self.consortium = consortium
        self.keypair = keypair
        self.clock = core_clock or CoreClock()
        self.traffic = Traffic()
        self.connect_s = connect_s
        self.read_s = read_s
        self.http = httpx.Client(
            base_url=self.base_url,
            transport=Sockets(tls(ca) if self.base_url.startswith("https:") else None, kept=connections),
            headers={"Accept-Encoding": "identity", "User-Agent": "tapestry"},
            trust_env=False,
            follow_redirects=False,
        )

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def hello(self) -> Hello:
        """Who the core is. Raises `AuthError` where that is not the consortium this is for."""
        hello = Hello.from_bytes(self.ask(Request(method="GET", path="/v1/hello", signed=False)))
        if self.consortium is not None and hello.consortium != self.consortium:
            raise AuthError(
                f"{self.base_url} is the core of consortium {hello.consortium[:12]}, "
                f"not of {self.consortium[:12]}",
                hint="check the core's address in consortium.json",
            )
        self.clock.set(hello.time)
        return hello

    def ask(self, request: Request, *, cap: int = wire.MAX_BODY_BYTES) -> bytes:
        """The body of a good answer. Raises the core's error otherwise."""
        answer = self.send(request, cap=cap)
        if answer.status >= 400:
            raise read_error(answer)
        return answer.body

    def send(self, request: Request, *, cap: int = wire.MAX_BODY_BYTES) -> Answer:
        """The answer, good or bad."""
        with self.open(request) as response:
            bad = response.status_code >= 400
            body = b"".join(self.read(response, MAX_ERROR_BYTES if bad else cap))
            return Answer(response.status_code, body)

    @contextlib.contextmanager
    def open(self, request: Request) -> Iterator[httpx.Response]:
        """An answer whose body is still to be read; its head is checked and counted.

        A request the core finds ill-timed is signed anew: by then its answer has told the time.
        """
        if request.signed and not self.clock.known:
            self.hello()
        signings = SIGNINGS
        while True:
            # as signed and as told by this answer: others of other threads set the clock meanwhile
            signed_s = self.clock.now_s() if request.signed else 0.0
            response = self._begun(request, signed_s)
            signings -= 1
            told_s = self.clock.told(response.headers.get(wire.TIME_HEADER)) if request.signed else 0.0
            ill_timed = abs(told_s - signed_s) > SKEW_S + self.read_s
            if response.status_code != 401 or not ill_timed or not signings:
                break
            response.close()
        try:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise PeerError("the core sent a compressed answer, which was not asked for")
            yield response
        finally:
            response.close()

    def _begun(self, request: Request, signed_s: float) -> httpx.Response:
        """A connection that breaks before the answer begins (one kept alive that the core has closed, say)
        is made anew once: every request may be repeated."""
        try:
            return self._begin(request, signed_s)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            try:
                return self._begin(request, signed_s)
            except FOREIGN as e:
                raise self._unreachable(e) from e
        except FOREIGN as e:
            raise self._unreachable(e) from e

    def _begin(self, request: Request, signed_s: float) -> httpx.Response:
        built = self._build(request, signed_s)
        start = len(built.method) + len(built.url.raw_path) + len("  HTTP/1.1\r\n")
        self.traffic.add(
            requests=1,
            sent=head_bytes(start, built.headers) + len(request.body or b""),
            proof=len(built.headers.get("Authorization", "")),
        )
        response = self.http.send(built, stream=True)
        self.traffic.add(received=head_bytes(len("HTTP/1.1 200 OK\r\n"), response.headers))
        if stated := response.headers.get(wire.TIME_HEADER):
            self.clock.set(stated)
        return response

    def _build(self, request: Request, signed_s: float) -> httpx.Request:
        headers = dict(request.headers)
        if request.pieces is not None:
            headers["Content-Length"] = str(request.size)
            headers["Content-Type"] = "application/octet-stream"
        elif request.body is not None:
            headers["Content-Type"] = "application/json"
        built = self.http.build_request(
            request.method,
            request.target,
            headers=headers,
            content=request.body if request.pieces is None else self._counted(request.pieces()),
            timeout=httpx.Timeout(self.read_s + request.patience_s, connect=self.connect_s),
        )
        if request.signed:
            built.headers["Authorization"] = self._proof(
                request, built.url.raw_path.decode("ascii"), signed_s
            )
        return built

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.traffic.add(sent=len(piece))
            yield piece

    def _proof(self, request: Request, target: str, signed_s: float) -> str:
        if self.keypair is None or self.consortium is None:
            raise SettingsError("this needs a key and a consortium", hint="join first: tapestry node join")
        return make_proof(
            self.keypair,
            consortium=self.consortium,
            method=request.method,
            target=target,
            body_sha=request.proof_of or canonical.sha256(request.body or b""),
            at=core_time.text(signed_s),
        )

    def read(self, response: httpx.Response, cap: int = MAX_BLOB_BYTES) -> Iterator[bytes]:
        """The body as it comes, refused above `cap` before more is read."""
        stated = response.headers.get("Content-Length", "")
        if stated and not wire.is_size(stated):
            raise TooLarge(f"the core's answer states {stated[:20]!r} as its size")
        if stated and int(stated) > cap:
            raise TooLarge(f"the core's answer has {stated} bytes; at most {cap} are allowed")
        received = 0
        try:
            for piece in response.iter_raw():
                received += len(piece)
                self.traffic.add(received=len(piece))
                if received > cap:
                    raise TooLarge(f"the core's answer has more than the {cap} bytes allowed for it")
                yield piece
        except FOREIGN as e:
            raise self._unreachable(e) from e

    def _unreachable(self, error: Exception) -> Unreachable:
        what = str(error) or type(error).__name__
        return Unreachable(
            f"the core at {self.base_url} cannot be reached: {what}",
            hint="its certificate is not trusted: give the file of its authority with --ca, and see "
            "that this machine's clock is right"
            if "certificate" in what.lower()
            else "check that `tapestry core serve` runs there and that this machine can connect to it",
        )


def read_error(answer: Answer) -> TapestryError:
    """The core's error; a trouble of the core itself is a core that cannot be reached now."""
    error, _ = wire.read_error(answer.status, answer.body)
    if answer.status >= 500 or answer.status in (408, 425, 429):
        return Unreachable(
            f"the core cannot serve this now ({answer.status}): {error.message}", hint=error.hint
        )
    if type(error) is TapestryError:
        return PeerError(error.message, hint=error.hint)
    return error


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    try:
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise SettingsError(
            f"{url[:200]!r} is not the address of a core",
            hint="write scheme, host and port, e.g. https://core.example.org:8470",
        )
    return f"{parts.scheme}://{parts.netloc}"


def tls(ca: Path | str | None) -> ssl.SSLContext:
    """Trust in one authority, or in the system's. Raises `SettingsError`."""
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as e:
        raise SettingsError(f"CA file {ca} cannot be used: {e}") from e
