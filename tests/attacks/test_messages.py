"""Messages that are none: too large, too deep, ambiguous, with fields that nobody knows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx

from tapestry.identity.envelope import Envelope
from tapestry.protocol import canonical
from tapestry.protocol.messages import Contribution
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.support import EVE, Game, refused
from tests.attacks.switches import Switches

WHO = "an enrolled node, by the bytes of its messages"
Given = tuple[Any, ...]


# -- messages -----------------------------------------------------------------------------------


def _post(game: Game, path: str, body: bytes) -> httpx.Response:
    return game.eve.ask("POST", path, body)


def _unknown_field(value: dict[str, Any]) -> None:
    value["weight"] = 1 << 24


def _free_text(value: dict[str, Any]) -> None:
    value["environment"] = {"note": "a line of raw text\n"}


def _long_text(value: dict[str, Any]) -> None:
    value["environment"] = {"note": "a" * 65}


def _traversal(value: dict[str, Any]) -> None:
    value["run"] = "../../keys/core"


def _nan_tokens(value: dict[str, Any]) -> None:
    value["tokens"] = -1


class _Lenient:
    """A schema that is not closed: fields are taken as they come."""

    def __init__(self, kind: Any, **known: Any) -> None:
        self._kind, self._known = kind, known

    def __call__(self, value: Any) -> Any:
        return self._kind.model_construct(**value | self._known)


@attacks(
    case("unknown-field", "adds a field that some reader might honour", "closed schemas", _unknown_field),
    case(
        "text-in-the-environment",
        "sends a line of text as its environment",
        "its letters are listed",
        _free_text,
    ),
    case(
        "long-text-in-the-environment",
        "hides text in a long value",
        "values have at most 64 letters",
        _long_text,
    ),
    case(
        "path-as-a-runs-name",
        "names a run `../../keys/core`",
        "names are letters, digits, dots and dashes",
        _traversal,
    ),
    case("negative-tokens", "claims −1 token, to turn its weight round", "numbers have bounds", _nan_tokens),
)
def test_a_field_that_no_message_has(game: Game, switches: Switches, given: Given) -> None:
    (change,) = given

    def tried() -> httpx.Response:
        value = game.signed(game.eve.send_delta(EVE)).unverified(Contribution).model_dump(mode="json")
        change(value)
        return game.eve.contribute(_signed_value(game, value), game.run)

    before = game.sequence
    refused(tried(), "format")
    assert game.sequence == before
    game.goes_on()
    known = {"run": game.run} if change is _traversal else {}
    with switches.off("tapestry.protocol.messages.Contribution.from_bytes", _parsed(known)):
        answer = tried()
        assert answer.status_code == 200, answer.text


def _parsed(known: dict[str, Any]) -> Callable[[bytes], Contribution]:
    return lambda data: _Lenient(Contribution, **known)(canonical.decode(data))


def _signed_value(game: Game, value: dict[str, Any]) -> Envelope:
    """An envelope of any JSON value, with a good signature."""
    import base64

    from tapestry.identity.envelope import _signature, payload_type, pre_authentication

    data = canonical.encode(value)
    kind = payload_type(Contribution)
    return Envelope(
        payload=base64.b64encode(data).decode(),
        payloadType=kind,
        signatures=(_signature(pre_authentication(kind, data), game.eve.key),),
    )


MISSING = "/v1/blobs/missing"
DEEP = b"[" * 60_000


@attacks(
    case(
        "json-nested-deep",
        "sends 60,000 brackets, to exhaust the parser's stack",
        "the parser's own limit is a typed error",
        DEEP,
        "format",
        ("tapestry.protocol.canonical.decode", "(ValueError, RecursionError)", ValueError),
        500,
    ),
    case(
        "json-not-canonical",
        "sends the same message in other bytes, for another hash",
        "what does not encode to the same bytes is refused",
        b'{"blobs": []}',
        "format",
        ("tapestry.protocol.canonical.decode", "encode(value) != data", False),
        200,
    ),
    case(
        "json-not-a-number",
        "sends NaN where JSON has none",
        "the parser's constants are refused",
        b'{"blobs":[NaN]}',
        "format",
        None,
        500,
    ),
)
def test_json(game: Game, switches: Switches, given: Given) -> None:
    body, expected, check, status = given
    refused(_post(game, MISSING, body), expected)
    game.goes_on()
    with ExitStack() as stack:
        if check is None:
            stack.enter_context(switches.off("tapestry.protocol.canonical._READ", json.loads))
            stack.enter_context(switches.off("tapestry.protocol.canonical.encode", lambda _: body))
            assert math.isnan(canonical.decode(body)["blobs"][0])
            return
        target, text, value = check
        stack.enter_context(switches.check_off(target, text, lambda: value))
        assert _post(game, MISSING, body).status_code == status


@attack(
    "json-with-a-key-twice",
    tries="names a field twice: one reader takes the first, another the last",
    stopped_by="a key stands once, and the bytes must be canonical",
)
def test_a_key_twice(game: Game, switches: Switches) -> None:
    body = b'{"blobs":["%b"],"blobs":[]}' % (b"0" * 64)
    refused(_post(game, MISSING, body), "format")
    game.goes_on()
    with (
        switches.off("tapestry.protocol.canonical._READ", json.loads),
        switches.check_off("tapestry.protocol.canonical.decode", "encode(value) != data"),
    ):
        assert _post(game, MISSING, body).json() == {"missing": {}}


@attack(
    "huge-json",
    tries="sends 3 MiB where a message has one",
    stopped_by="a body is refused at its cap, before the rest is read",
)
def test_huge_json(game: Game, switches: Switches) -> None:
    body = b'{"blobs":["' + b"0" * (3 << 20) + b'"]}'
    target = f"/v1/runs/{game.run}/progress"
    before = _post(game, target, body)
    refused(before, "too-large")
    assert "allowed here" in before.text, "refused by its stated size"
    game.goes_on()
    with (
        switches.check_off("tapestry.transport.server.stated_size", "size > max_bytes"),
        switches.check_off("tapestry.transport.server.pieces", "received > max_bytes"),
    ):
        assert "tapestry.progress has 3145" in _post(game, target, body).text, "all of it was in memory"


@attack(
    "huge-json-of-unstated-size",
    tries="sends without end and without saying how much",
    stopped_by="bytes are counted as they come",
)
def test_unstated_size(game: Game, switches: Switches) -> None:
    target, piece = f"/v1/runs/{game.run}/progress", b"0" * (1 << 18)

    def tried() -> httpx.Response:
        body = piece * 12
        headers = {"Authorization": game.eve.proof("POST", target, canonical.sha256(body))}
        return game.eve.http.post(game.eve.url + target, content=iter([piece] * 12), headers=headers)

    refused(tried(), "too-large")
    game.goes_on()
    with switches.check_off("tapestry.transport.server.pieces", "received > max_bytes"):
        assert "tapestry.progress has 3145728" in tried().text


@attack(
    "compressed-body",
    tries="sends a compressed body, which would grow a thousandfold",
    stopped_by="no encoding of a body but its own bytes",
)
def test_compressed(game: Game, switches: Switches) -> None:
    def tried() -> httpx.Response:
        return game.eve.ask("POST", MISSING, b'{"blobs":[]}', headers={"Content-Encoding": "gzip"})

    refused(tried(), "format")
    game.goes_on()
    with switches.check_off(
        "tapestry.transport.server.stated_size",
        'request.headers.get("content-encoding", "identity") != "identity"',
    ):
        assert tried().status_code == 200


@attack(
    "too-many-addresses",
    tries="asks after more blobs than any contribution has, to keep the disk busy",
    stopped_by="a list has at most 100,000 addresses",
)
def test_too_many_addresses(game: Game, switches: Switches) -> None:
    body = canonical.encode({"blobs": ["0" * 64] * 100_001})
    asked: list[int] = []
    store = game.core.store
    refused(_post(game, MISSING, body), "format")
    game.goes_on()
    real = type(store).lacking
    with (
        switches.check_off("tapestry.core.blobs_api.BlobsApi.missing", "len(asked) > wire.MAX_MISSING"),
        switches.off(
            "tapestry.storage.blobs.BlobStore.lacking",
            lambda self, shas: asked.append(len(shas)) or real(self, shas[:1]),
        ),
    ):
        assert _post(game, MISSING, body).status_code == 200
    assert asked == [100_001]
