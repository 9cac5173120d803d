"""The core's side of HTTP, without what the core means by it: limits, who asks, errors, answers.

An application is a FastAPI app inside `Shell`. A route gets a `Call` by depending on `signed` (or on
`signed_blob`, `unsigned`), which has read the body within its cap and found out who sent it; it
raises typed errors and returns `answer(...)`. Nothing else ever leaves: no traceback, no HTML.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tapestry.errors import AuthError, FormatError, NotFound, ProtocolError, TapestryError, TooLarge
from tapestry.identity.keyring import Signer
from tapestry.protocol import canonical
from tapestry.transport import wire

IDLE_S: Final = 60.0
"""A client that sends nothing for so long in the middle of a body is cut off."""
JSON: Final = "application/json"
LINES: Final = "application/jsonl"
NOTE: Final = "text/plain; charset=utf-8"
PUBLIC: Final = "tapestry.public"
"""Of a request's scope: True where whoever asks may read it."""
_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")


class Checker(Protocol):
    """Finds out who sent a request, from its Authorization header; raises `AuthError` and the like."""

    def __call__(self, header: str, method: str, target: str, body_sha: str, /) -> Signer: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in."""

    by: Signer
    body: bytes


# -- the application ------------------------------------------------------------------------------


def make_app(check: Checker, **options: Any) -> FastAPI:
    """A FastAPI app without documentation pages; `check` is what `signed` asks."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, **options)
    app.state.check = check
    app.add_exception_handler(TapestryError, _typed)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _failed)
    return app


async def _typed(_request: Request, error: Exception) -> Response:
    return failure(error if isinstance(error, TapestryError) else TapestryError("the core failed"))


async def _failed(_request: Request, _error: Exception) -> Response:
    """Whatever else it was; `Shell` gets the exception afterwards and has it logged."""
    return failure(TapestryError("the core failed; its log says why"))


async def _unrouted(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        wrong = ProtocolError(f"{request.method} is not possible on this path")
        return Response(wire.error_body(wrong), 405, error.headers, JSON)
    return failure(NotFound("there is nothing at this path"))


class Shell:
    """Outermost layer of an application: the core's time on every answer, and no exception gets out.

    Args:
        app: the application.
        time: the core's time, as messages write it.
        unexpected: told of each exception that is no `TapestryError`, and of the request's method and path.
    """

    def __init__(
        self, app: ASGIApp, *, time: Callable[[], str], unexpected: Callable[[BaseException, str, str], None]
    ) -> None:
        self._app = app
        self._time = time
        self._unexpected = unexpected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = ended = False

        async def timed(message: Message) -> None:
            nonlocal started, ended
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body"))
            if message["type"] == "http.response.start":
                started = True
                headers = [
                    *message.get("headers", ()),
                    (wire.TIME_HEADER.lower().encode(), self._time().encode()),
                ]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, timed)
        except ClientDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, the client learns nothing of it
            self._unexpected(error, str(scope["method"]), str(scope["path"])[:200])
            if started and not ended:
                raise ConnectionAbortedError("an answer broke off") from None


# -- what comes in --------------------------------------------------------------------------------


async def signed(request: Request) -> Call:
    """Dependency: a JSON request of at most 1 MiB from a node."""
    return await _signed(request, wire.MAX_BODY_BYTES)


async def seen(request: Request) -> Call | None:
    """Dependency: a GET of a node, or of anybody, which is None: the application has found it public then."""
    return None if request.scope.get(PUBLIC) is True else await signed(request)


async def signed_list(request: Request) -> Call:
    """Dependency: the same with room for a long list of blobs."""
    return await _signed(request, wire.MAX_MISSING_BYTES)


async def _signed(request: Request, max_bytes: int) -> Call:
    body = await read_body(request, max_bytes)
    return Call(await _check(request, canonical.sha256(body)), body)


async def signed_blob(request: Request, sha: str) -> Call:
    """Dependency: an upload, whose proof is over the whole blob; its body is not read yet."""
    if not canonical.is_sha256(sha):
        raise NotFound(f"{sha[:80]!r} is not the address of a blob")
    return Call(await _check(request, sha), b"")


async def _check(request: Request, body_sha: str) -> Signer:
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        raise AuthError("the request has no proof of who sends it", hint="join first: tapestry node join")
    check: Checker = request.app.state.check
    return await asyncio.to_thread(check, headers[0], request.method, target(request), body_sha)


def target(request: Request) -> str:
    """Path and query exactly as sent."""
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def stated_size(request: Request, max_bytes: int) -> int | None:
    """Content-Length, refused above `max_bytes` before anything is read; None where it is not stated."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise FormatError("a compressed body is not accepted")
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not wire.is_size(text):
        raise FormatError("Content-Length is not a number of bytes")
    size = int(text)
    if size > max_bytes:
        raise TooLarge(f"the body has {size} bytes; at most {max_bytes} are allowed here")
    return size


async def pieces(request: Request, max_bytes: int, *, gather_bytes: int = 1) -> AsyncIterator[bytes]:
    """The body as it comes, refused above `max_bytes` before more is taken.

    Args:
        request: whose body.
        max_bytes: its cap.
        gather_bytes: pieces have at least this size, but for the last. What had come when a client broke
            off is given before `ClientDisconnect` is raised.
    """
    stated_size(request, max_bytes)
    waiting: list[bytes] = []
    held = received = 0
    broken: Exception | None = None
    stream = request.stream()
    while broken is None:
        try:
            async with asyncio.timeout(IDLE_S):
                piece = await anext(stream)
        except StopAsyncIteration:
            break
        except (ClientDisconnect, TimeoutError) as e:
            broken = e
            break
        received += len(piece)
        if received > max_bytes:
            raise TooLarge(f"the body has more than the {max_bytes} bytes allowed here")
        waiting.append(piece)
        held += len(piece)
        if held >= gather_bytes:
            yield b"".join(waiting)
            waiting, held = [], 0
    if held:
        yield b"".join(waiting)
    if broken is not None:
        raise ClientDisconnect from broken


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises `TooLarge` before it holds more than `max_bytes`."""
    return b"".join([piece async for piece in pieces(request, max_bytes)])


def query(request: Request, **known: int | float | None) -> dict[str, Any]:
    """Query parameters: numbers that are not negative, each at most once, no other than `known`.

    Args:
        request: whose query.
        known: every parameter with its default; one whose default is None must be there. A float default
            lets the parameter have a fraction.

    Raises:
        FormatError: names the parameter.
    """
    found: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        if name not in known or name in found:
            raise FormatError(f"query parameter {name[:40]!r} is not known here, or stands twice")
        form = r"\d{1,16}(\.\d{1,6})?" if isinstance(known[name], float) else r"\d{1,16}"
        if re.fullmatch(form, text, re.ASCII) is None:
            raise FormatError(f"query parameter {name} is not a number")
        found[name] = float(text) if isinstance(known[name], float) else int(text)
    for name, default in known.items():
        if found.setdefault(name, default) is None:
            raise FormatError(f"query parameter {name} is missing")
    return found


def json_object(body: bytes, *fields: str, max_bytes: int = wire.MAX_BODY_BYTES) -> dict[str, Any]:
    """A canonical JSON object with exactly these fields. Raises `FormatError`."""
    value = canonical.decode(body, what="request", max_bytes=max_bytes)
    if not isinstance(value, dict) or set(value) != set(fields):
        raise FormatError(f"the request must be a JSON object with the fields {', '.join(fields)}")
    return value


def byte_range(request: Request, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of a `Range` header; None without one.

    Raises `ValueError` where the range is not inside `size` bytes. Forms other than `bytes=K-` and
    `bytes=K-L` are passed over, as HTTP allows.
    """
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None:
        return None
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if start >= size or last < start:
        raise ValueError("range is not satisfiable")
    return start, min(last + 1, size)


# -- what goes out --------------------------------------------------------------------------------


def answer(value: Any) -> Response:
    """A JSON value, canonical."""
    return Response(canonical.encode(value), media_type=JSON)


def answer_bytes(body: bytes) -> Response:
    """A message or envelope that is canonical already."""
    return Response(body, media_type=JSON)


def failure(error: TapestryError, **more: Any) -> Response:
    """A typed error; `more` are JSON values beside it."""
    return Response(wire.error_body(error, **more), wire.status_of(error), media_type=JSON)


class Streamed(Response):
    """A body of known size that is sent as it is read, without a task of its own per piece.

    Args:
        read: gives the next piece, b"" at the end.
        close: called once, whatever happens.
    """

    def __init__(
        self,
        read: Callable[[], Coroutine[Any, Any, bytes]],
        close: Callable[[], None],
        *,
        size: int,
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(None, status, {**headers, "Content-Length": str(size)}, "application/octet-stream")
        self._read = read
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            while piece := await self._read():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._close()
