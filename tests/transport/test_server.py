"""The server's plumbing as an ASGI application, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, Request, Response

from tapestry.errors import Conflict, FormatError, SignatureError, TooLarge
from tapestry.identity.keyring import Signer
from tapestry.protocol import canonical
from tapestry.transport import server

NOW = "2026-01-31T12:00:00.000Z"
faults: list[tuple[BaseException, str, str]] = []


def check(header: str, method: str, target: str, body_sha: str) -> Signer:
    if header != f"Tapestry {method} {target} {body_sha}":
        raise SignatureError("the proof is for another request")
    return Signer("ada", "ada-1", "node", "0" * 64)


async def echo(call: Annotated[server.Call, Depends(server.signed)]) -> Response:
    return server.answer({"by": call.by.node, "bytes": len(call.body)})


async def conflict() -> Response:
    raise Conflict("moved on", hint="look again")


async def bug() -> Response:
    raise RuntimeError("secret detail")


async def late_bug() -> Response:
    pieces = iter([b"first"])

    async def read() -> bytes:
        try:
            return next(pieces)
        except StopIteration:
            raise RuntimeError("in the middle") from None

    return server.Streamed(read, lambda: None, size=10, status=200, headers={})


async def numbers(request: Request) -> Response:
    return server.answer(server.query(request, a=None, b=3, c=0.5))


@pytest.fixture
def ask() -> Any:
    faults.clear()
    app = server.make_app(check)
    for path, endpoint in (
        ("/echo", echo),
        ("/conflict", conflict),
        ("/bug", bug),
        ("/late", late_bug),
        ("/numbers", numbers),
    ):
        app.add_api_route(path, endpoint, methods=["POST", "GET"])
    shell = server.Shell(app, time=lambda: NOW, unexpected=lambda *fault: faults.append(fault))

    def send(method: str, target: str, **more: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(shell), base_url="http://core"
            ) as client:
                return await client.request(method, target, **more)

        answer = asyncio.run(go())
        assert answer.headers["tapestry-time"] == NOW
        return answer

    return send


def proof(method: str, target: str, body: bytes = b"") -> dict[str, str]:
    return {"Authorization": f"Tapestry {method} {target} {canonical.sha256(body)}"}


def test_who_asks_and_with_which_body(ask: Any) -> None:
    body = b"x" * 100
    answer = ask("POST", "/echo?q=%20", content=body, headers=proof("POST", "/echo?q=%20", body))
    assert answer.content == b'{"by":"ada-1","bytes":100}'
    wrong = ask("POST", "/echo", content=body, headers=proof("POST", "/echo", b"other"))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "signature")
    assert ask("POST", "/echo").json()["error"]["code"] == "auth"


def test_bodies_over_their_cap(ask: Any) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1 << 16
            yield b"x" * (1 << 16)

    stated = ask("POST", "/echo", content=b"", headers={"Content-Length": str(1 << 40)})
    assert stated.json()["error"]["code"] == "too-large"
    streamed = ask("POST", "/echo", content=endless())
    assert (streamed.status_code, streamed.json()["error"]["code"]) == (413, "too-large")
    assert taken <= 3 << 20
    assert ask("POST", "/echo", headers={"Content-Length": "x"}).json()["error"]["code"] == "format"


def test_errors_have_one_shape(ask: Any) -> None:
    answer = ask("GET", "/conflict")
    assert answer.status_code == 409
    assert answer.content == b'{"error":{"code":"conflict","hint":"look again","message":"moved on"}}'
    answer = ask("GET", "/bug")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "error")
    assert b"secret" not in answer.content and b"RuntimeError" not in answer.content
    assert [(type(e), m, p) for e, m, p in faults] == [(RuntimeError, "GET", "/bug")]
    assert ask("GET", "/none").json()["error"]["code"] == "not-found"
    assert ask("DELETE", "/echo").status_code == 405
    for path in ("/docs", "/redoc", "/openapi.json", "/echo/"):
        assert ask("GET", path).json()["error"]["code"] == "not-found"


def test_a_fault_in_the_middle_of_an_answer(ask: Any) -> None:
    with pytest.raises(ConnectionAbortedError):
        ask("GET", "/late")
    assert len(faults) == 1


def test_query_parameters(ask: Any) -> None:
    assert ask("GET", "/numbers?a=7&c=1.25").json() == {"a": 7, "b": 3, "c": 1.25}
    for query in (
        "",
        "?a=x",
        "?a=-1",
        "?a=1&a=2",
        "?a=1&d=1",
        "?a=1.5",
        "?a=1&c=nan",
        "?a=٣",
        "?a=" + "9" * 40,
    ):
        assert ask("GET", "/numbers" + query).json()["error"]["code"] == "format", query


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 6)),
        ("bytes=3-99", (3, 10)),
        ("bytes=-5", None),
        ("items=1-", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert server.byte_range(_request(header), 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-3"])
def test_ranges_outside(header: str) -> None:
    with pytest.raises(ValueError, match="range"):
        server.byte_range(_request(header), 10)


def _request(header: str | None) -> Request:
    headers = [(b"range", header.encode())] if header is not None else []
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers})


def test_json_objects() -> None:
    assert server.json_object(b'{"a":1}', "a") == {"a": 1}
    for body in (b"[]", b"{}", b'{"a":1,"b":2}', b'{"a": 1}'):
        with pytest.raises(FormatError):
            server.json_object(body, "a")
    with pytest.raises(TooLarge):
        server.json_object(b'{"a":"%b"}' % (b"x" * 100), "a", max_bytes=50)
