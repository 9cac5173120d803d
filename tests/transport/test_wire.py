from __future__ import annotations

import pytest

from tapestry.errors import Conflict, DiskFull, TapestryError, TooLarge, VersionError, _tree
from tapestry.transport import wire


@pytest.mark.parametrize("kind", sorted(_tree(TapestryError).values(), key=lambda k: k.code))
def test_every_error_crosses(kind: type[TapestryError]) -> None:
    body = wire.error_body(kind("what", hint="next"), missing=["a"])
    error, more = wire.read_error(wire.status_of(kind("x")), body)
    assert (type(error), error.message, error.hint, more) == (kind, "what", "next", {"missing": ["a"]})
    assert 400 <= wire.status_of(error) < 600


def test_statuses() -> None:
    assert [wire.status_of(k("x")) for k in (TooLarge, Conflict, VersionError, DiskFull)] == [
        413,
        409,
        400,
        507,
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[1]",
        b"null",
        b"{}",
        b'{"error":1}',
        b'{"error":{"code":1,"message":"x"}}',
        b"[" * 90_000,
        b"\xff",
    ],
)
def test_answers_that_are_no_errors(body: bytes) -> None:
    error, more = wire.read_error(502, body)
    assert type(error) is TapestryError and "502" in error.message and more == {}


def test_foreign_text_is_tamed() -> None:
    error, _ = wire.read_error(409, b'{"error":{"code":"new-one","message":"a\\u001b[31m\\nb","hint":null}}')
    assert type(error) is TapestryError and error.message == "a [31m b"
    long, _ = wire.read_error(409, wire.error_body(Conflict("x" * 9999 + "\ud800")))
    assert len(long.message) == wire.MAX_TEXT
