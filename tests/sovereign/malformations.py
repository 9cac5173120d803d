"""Malformed requests to the endpoint by class; `malformed` sends them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

BROKEN: Final = frozenset({0})
"""The connection ends without an answer."""
GOOD: Final = {"model": "small", "prompt": "The ", "max_tokens": 2}
CHAT: Final = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
Raw = tuple[bytes, frozenset[int]]
CLASSES: dict[str, Callable[[random.Random], Raw]] = {}


def request(
    body: bytes | str,
    *,
    path: str = "/v1/completions",
    method: str = "POST",
    headers: tuple[str, ...] = (),
    length: str | None = "",
    kind: str = "application/json",
) -> bytes:
    data = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", "Connection: close"]
    if length is not None:
        lines.append(f"Content-Length: {length or len(data)}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + data


def malformed(*codes: int) -> Callable[[Callable[[random.Random], bytes]], Any]:
    def add(make: Callable[[random.Random], bytes]) -> Callable[[random.Random], bytes]:
        CLASSES[make.__name__.replace("_", " ")] = lambda draw: (make(draw), frozenset(codes))
        return make

    return add


def with_field(draw: random.Random, name: str, values: list[Any], *, chat: bool | None = None) -> bytes:
    chat = draw.random() < 0.5 if chat is None else chat
    body = {**(CHAT if chat else GOOD), name: draw.choice(values)}
    return request(json.dumps(body), path="/v1/chat/completions" if chat else "/v1/completions")


# -- no JSON --------------------------------------------------------------------------------------------


@malformed(400)
def body_is_noise(draw: random.Random) -> bytes:
    return request(draw.randbytes(draw.randrange(1, 4000)))


@malformed(400)
def body_is_empty(draw: random.Random) -> bytes:
    return request(b"")


@malformed(400)
def json_cut_short(draw: random.Random) -> bytes:
    whole = json.dumps(CHAT)
    return request(whole[: draw.randrange(1, len(whole) - 1)])


@malformed(400)
def json_with_one_byte_changed_to_noise(draw: random.Random) -> bytes:
    whole = bytearray(json.dumps(GOOD).encode())
    whole[draw.randrange(len(whole))] = draw.randrange(0x80, 0x100)
    return request(bytes(whole))


@malformed(400)
def json_of_another_type(draw: random.Random) -> bytes:
    return request(draw.choice(["null", "true", "1", '"text"', "[]", "[{}]", "1e5"]))


@malformed(400)
def key_given_twice(draw: random.Random) -> bytes:
    return request('{"model":"small","prompt":"a","prompt":"b"}' + " " * draw.randrange(9))


@malformed(400)
def number_that_is_none(draw: random.Random) -> bytes:
    number = draw.choice(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01", "1" * 5000])
    return request('{"model":"small","prompt":"a","temperature":' + number + "}")


@malformed(400)
def nested_deep(draw: random.Random) -> bytes:
    depth = draw.choice([9, 100, 1000, 10_000, 30_000])
    opened, closed = draw.choice([("[", "]"), ('{"a":', "}")])
    return request('{"model":"small","prompt":' + opened * depth + "1" + closed * depth + "}")


@malformed(400)
def nested_deep_and_never_closed(draw: random.Random) -> bytes:
    return request(draw.choice(["[", '{"a":', '[{"a":']) * draw.randrange(1000, 60_000))


@malformed(400)
def very_many_values(draw: random.Random) -> bytes:
    return request('{"model":"small","prompt":[' + ",".join(["[]"] * draw.randrange(70_000, 200_000)) + "]}")


@malformed(400)
def half_a_surrogate_pair(draw: random.Random) -> bytes:
    return with_field(draw, "prompt", ["\ud800", "a\udc00b", "\udfff" * 20], chat=False)


@malformed(400)
def bytes_that_are_no_utf8(draw: random.Random) -> bytes:
    return request(
        b'{"model":"small","prompt":"' + draw.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"]) + b'"}'
    )


@malformed(400)
def json_in_utf16(draw: random.Random) -> bytes:
    return request(json.dumps(GOOD).encode(draw.choice(["utf-16", "utf-16-le", "utf-32"])))


# -- fields ---------------------------------------------------------------------------------------------

NOT_A_TEXT: Final = [None, 1, 1.5, True, {}, {"text": "a"}, [None], [[]], [1.5], [True], [["a"]], [{}], []]


@malformed(400)
def prompt_of_another_type(draw: random.Random) -> bytes:
    return with_field(draw, "prompt", NOT_A_TEXT, chat=False)


@malformed(400)
def field_missing(draw: random.Random) -> bytes:
    body = dict(draw.choice([GOOD, CHAT]))
    body.pop(draw.choice(sorted(set(body) - {"max_tokens"})))
    chat = "messages" in body or "prompt" not in body
    return request(json.dumps(body), path="/v1/chat/completions" if chat else "/v1/completions")


@malformed(400)
def unknown_field(draw: random.Random) -> bytes:
    name = draw.choice(["tools2", "__proto__", "a" * 5000, "", "\x00", "best-of", "top_k", "functions", "🙂"])
    return with_field(draw, name, [1, "x", None, []])


@malformed(400)
def count_out_of_range(draw: random.Random) -> bytes:
    name = draw.choice(["max_tokens", "n"])
    return with_field(draw, name, [0, -1, 1 << 24, 1 << 63, 10**30, 1.5, "1", True, [], {}])


@malformed(400)
def chance_out_of_range(draw: random.Random) -> bytes:
    name = draw.choice(["temperature", "top_p"])
    return with_field(draw, name, [-0.1, 2.01, 1e300, "1", True, [], {}, 1e-400 - 1])


@malformed(400)
def seed_out_of_range(draw: random.Random) -> bytes:
    return with_field(draw, "seed", [1 << 63, -(1 << 63) - 1, 1.5, "1", True, []])


@malformed(400)
def stop_that_is_none(draw: random.Random) -> bytes:
    return with_field(draw, "stop", ["", [""], ["a"] * 5, "x" * 300, 1, [1], {}, [None], [["a"]]])


@malformed(400)
def flag_of_another_type(draw: random.Random) -> bytes:
    return with_field(draw, "stream", ["true", 1, 0, [], {}, "yes"])


@malformed(400)
def options_of_a_stream_alone(draw: random.Random) -> bytes:
    return with_field(
        draw, "stream_options", [{"include_usage": True}, {"x": 1}, [], "a", {"include_usage": 1}]
    )


@malformed(400)
def probabilities_out_of_range(draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return with_field(draw, "logprobs", [-1, 6, 1e9, "2", True, []], chat=False)
    return with_field(draw, "top_logprobs", [-1, 21, 3, "2", True, []], chat=True)


@malformed(400)
def what_is_not_done_here(draw: random.Random) -> bytes:
    name, value = draw.choice(
        [
            ("tools", [{"type": "function", "function": {"name": "f"}}]),
            ("response_format", {"type": "json_object"}),
            ("frequency_penalty", 0.5),
            ("presence_penalty", -1),
            ("logit_bias", {"50": 100}),
            ("functions", []),
            ("store", True),
        ]
    )
    return with_field(draw, name, [value], chat=True)


@malformed(400)
def what_completions_do_not_do_here(draw: random.Random) -> bytes:
    name, value = draw.choice([("echo", True), ("suffix", "x"), ("best_of", 2), ("n", 9)])
    return with_field(draw, name, [value], chat=False)


@malformed(400)
def messages_of_another_shape(draw: random.Random) -> bytes:
    good = {"role": "user", "content": "a"}
    shapes: list[Any] = [
        *([], {}, "Hello", [None], ["Hello"], [[]], [{}], [good, 1], [{"role": "user"}], [{"content": "a"}]),
        [{**good, "role": "tool"}],
        [{**good, "role": "root"}],
        [{**good, "role": 1}],
        [{**good, "x": 1}],
        [{**good, "content": None}],
        [{**good, "content": 1}],
        [{**good, "content": []}],
        [{**good, "content": [{"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}]}],
        [{**good, "content": [{"type": "text"}]}],
        [{**good, "content": [{"type": "text", "text": 1}]}],
        [{**good, "content": [{"type": "text", "text": "a"}] * 65}],
        [good] * 513,
    ]
    return with_field(draw, "messages", shapes, chat=True)


@malformed(400)
def longer_than_the_context(draw: random.Random) -> bytes:
    length = draw.choice([128, 256, 300, 5000, 150_000])
    return with_field(draw, "prompt", ["é" * length, [0] * max(256, min(length, 30_000))], chat=False)


@malformed(400)
def conversation_longer_than_the_context(draw: random.Random) -> bytes:
    one = {"role": "user", "content": "long " * draw.choice([60, 1000, 100_000])}
    return with_field(draw, "messages", [[one]], chat=True)


@malformed(400)
def more_tokens_than_the_context(draw: random.Random) -> bytes:
    return with_field(draw, "max_tokens", [253, 256, 4096, 1 << 23])


@malformed(400)
def token_outside_of_the_vocabulary(draw: random.Random) -> bytes:
    return with_field(draw, "prompt", [[257], [0, 1 << 30], [-1], [1 << 40], [[3], [99999]]], chat=False)


@malformed(404)
def model_that_is_not_served(draw: random.Random) -> bytes:
    return with_field(draw, "model", ["", "gpt-4o", "small ", "../small", "SMALL", "\x00", "x" * 200])


@malformed(400)
def model_of_another_type(draw: random.Random) -> bytes:
    return with_field(draw, "model", [None, 1, [], {}, ["small"], "x" * 201])


# -- HTTP -----------------------------------------------------------------------------------------------


@malformed(413)
def body_larger_than_allowed(draw: random.Random) -> bytes:
    return request(json.dumps({**GOOD, "prompt": "x" * draw.randrange(1 << 20, 3 << 20)}))


@malformed(413)
def stated_larger_than_allowed(draw: random.Random) -> bytes:
    return request("{}", length=str(draw.choice([(1 << 20) + 1, 1 << 40, 10**18 - 1])))


@malformed(400)
def stated_size_that_is_none(draw: random.Random) -> bytes:
    return request("{}", length=draw.choice(["-1", "x", "1.5", "0x10", "1" * 60, "2, 3", "+2"]))


@malformed(400)
def both_kinds_of_length(draw: random.Random) -> bytes:
    return request("0\r\n\r\n", headers=("Transfer-Encoding: chunked", "Content-Length: 999"))


@malformed(400, 413, *BROKEN)
def chunks_that_are_none(draw: random.Random) -> bytes:
    return request(
        draw.choice(["zz\r\nab\r\n0\r\n\r\n", "-1\r\n\r\n", "2\r\n{}}}}\r\n"]),
        length=None,
        headers=("Transfer-Encoding: chunked",),
    )


@malformed(413)
def chunks_without_end(draw: random.Random) -> bytes:
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    return request(piece * draw.randrange(17, 40), length=None, headers=("Transfer-Encoding: chunked",))


@malformed(400)
def compressed_body(draw: random.Random) -> bytes:
    coding = draw.choice(["gzip", "br", "deflate", "zstd", "gzip, gzip"])
    return request(draw.randbytes(100), headers=(f"Content-Encoding: {coding}",))


@malformed(400)
def another_type_of_content(draw: random.Random) -> bytes:
    kind = draw.choice(["text/plain", "multipart/form-data; boundary=x", "application/xml", "", "a" * 200])
    return request(json.dumps(GOOD), kind=kind)


@malformed(405)
def method_that_is_not_allowed(draw: random.Random) -> bytes:
    return request("{}", method=draw.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "GET", "BREW"]))


@malformed(404, 405)
def path_that_is_none(draw: random.Random) -> bytes:
    return request(
        json.dumps(GOOD),
        path=draw.choice(
            [
                *("/", "/v1", "/v1/", "/v1/completion", "//v1/completions", "/v2/completions", "/%00"),
                *("/v1/../etc/passwd", "/v1/completions/", "/v1/chat/completions/x", "/" + "a" * 5000),
                "/v1/models%2f..",
            ]
        ),
    )


@malformed(400)
def query_that_is_not_known(draw: random.Random) -> bytes:
    return request(json.dumps(GOOD), path="/v1/completions?" + draw.choice(["a=1", "stream=true", "%00=%ff"]))


@malformed(403)
def host_that_is_another(draw: random.Random) -> bytes:
    host = draw.choice(
        ["attacker.example", "localhost.attacker.example", "[", "a@localhost", "127.0.0.1.nip.io"]
    )
    return request(json.dumps(GOOD)).replace(b"Host: localhost", b"Host: " + host.encode())


@malformed(403)
def origin_that_is_another(draw: random.Random) -> bytes:
    origin = draw.choice(
        ["null", "http://attacker.example", "file://", "http://[", "http://localhost@evil.example"]
    )
    return request(json.dumps(GOOD), headers=(f"Origin: {origin}",))


@malformed(400, *BROKEN)
def no_http_at_all(draw: random.Random) -> bytes:
    return (
        draw.choice([b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n\r\n", b"\r\n" * 50 + b"?\r\n\r\n"])
        + draw.randbytes(64)
        + b"\r\n\r\n"
    )


@malformed(400, 403, *BROKEN)
def head_that_is_wrong(draw: random.Random) -> bytes:
    return draw.choice(
        [
            b"POST /v1/completions HTTP/1.1\r\n\r\n",
            b"POST /v1/completions HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"POST  /v1/completions  HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX\x00Y: 1\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n folded\r\n : \r\n\r\n",
        ]
    )


@malformed(400, *BROKEN)
def head_that_is_very_long(draw: random.Random) -> bytes:
    return request("{}", headers=("X-Long: " + "x" * draw.choice([40_000, 200_000]),))


@malformed(*BROKEN)
def left_in_the_middle_of_a_body(draw: random.Random) -> bytes:
    if draw.random() < 0.3:  # a chunk of 2^72 bytes that never comes
        return request("f" * 18 + "\r\n", length=None, headers=("Transfer-Encoding: chunked",))
    return request(json.dumps(GOOD)[: draw.randrange(0, 30)], length="5000")


LEAVES: Final = frozenset({"left in the middle of a body"})
"""The sender closes without waiting for an answer."""
