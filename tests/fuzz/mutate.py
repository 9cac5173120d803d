"""Mutations that know JSON, text and packed numbers. All randomness comes from the generator given."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tapestry.errors import FormatError
from tapestry.protocol import canonical

MOST_BYTES = 1 << 20
"""An input is cut here: larger ones are the crafted artifacts' business."""
INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 63, 64, 255, 256, 4095, 4096, 65535, 65536, (1 << 20) + 1),
    *((1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, (1 << 40) + 1, 1 << 50),
    *((1 << 53) - 1, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 53), -(1 << 63), 10**30),
)
FLOATS = (0.0, -0.0, 0.5, 1.5, -1.5, 1e-7, 1e-6, 5e-324, 1e21, 1e16, 1.7976931348623157e308, 0.1, 1e9, 1e12)
STRINGS = (
    *("", " ", "a", "A", "..", "../x", "a..b", "a/b", ".a", "a.", "con", "x" * 64, "x" * 65, "x" * 300),
    *("\x00", "\n", "\x1b[2J", "\x7f", "\ud800", "a\udfff", "é", "²", "٣", "\U0001f600", "\ufeff", "\u2028"),
    *("0" * 64, "f" * 64, "F" * 64, "g" * 64, "0" * 63, "0" * 64 + "\n", "=", "AA==", "AB==", "QQ", "Q Q="),
    *("1", "-1", "1e400", "NaN", "Infinity", "null", "true", "9999-99-99T99:99:99.999Z"),
    *("0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "2026-02-29T00:00:00.000Z", "2026-01-01"),
)
KEYS = (
    "",
    "format",
    "version",
    "type",
    "x",
    "__class__",
    "\ud800",
    "é",
    "kind",
    "a" * 300,
    "\u0000",
    "10",
    "9",
)
NUMBER_TEXTS = (
    *("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "-0", "00", "01", "1.0", "1E5", "1e5", "+1", "0x10"),
    *("9" * 400, "9" * 5000, "0." + "0" * 400 + "1", "1e-400", ".5", "5.", "1_000", "١"),
)


def json_value(random: Random, value: Any) -> Any:
    """The value with one thing changed somewhere in it; it may be changed in place."""
    places = list(_places(value))
    if not places:
        return _strange(random, value)
    holder, key = random.choice(places)
    _CHANGES[random.randrange(len(_CHANGES))](random, holder, key, places)
    return value


def json_changed(random: Random, value: Any) -> Any:
    """As `json_value`; as it is where a number cannot be changed so."""
    with contextlib.suppress(OverflowError, ValueError):
        return json_value(random, value)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 5000:
        each = waiting.pop()
        keys: Any = (
            each.keys() if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        )
        for key in keys:
            found.append((each, key))
            waiting.append(each[key])
    return found


def _replace(random: Random, holder: Any, key: Any, places: Any) -> None:
    holder[key] = _strange(random, holder[key])


def _near(random: Random, holder: Any, key: Any, places: Any) -> None:
    """Something like what was there."""
    value = holder[key]
    if isinstance(value, bool) or value is None:
        holder[key] = random.choice((True, False, None, 0, 1))
    elif isinstance(value, int):
        holder[key] = random.choice(
            (value + 1, value - 1, -value, value * 2, value << 20, float(value) + 0.5)
        )
    elif isinstance(value, float):
        holder[key] = random.choice((-value, value * 1e3, value * 1e-9, value + 1, int(value)))
    elif isinstance(value, str):
        holder[key] = text(random, value)
    elif isinstance(value, list) and value:
        at = random.randrange(len(value))
        random.choice((value.append, lambda each: value.insert(0, each)))(value[at])
    else:
        holder[key] = _strange(random, value)


def _delete(random: Random, holder: Any, key: Any, places: Any) -> None:
    if isinstance(holder, list):
        holder.pop(key)
    else:
        del holder[key]


def _swap(random: Random, holder: Any, key: Any, places: Sequence[tuple[Any, Any]]) -> None:
    other, there = random.choice(places)
    mine, its = holder[key], other[there]
    if not isinstance(mine, dict | list) and not isinstance(its, dict | list):
        holder[key], other[there] = its, mine
    elif isinstance(mine, dict | list):
        holder[key] = its if not isinstance(its, dict | list) else random.choice(([], {}))


def _add(random: Random, holder: Any, key: Any, places: Any) -> None:
    value = _strange(random, None)
    if isinstance(holder, list):
        holder.extend([holder[key]] * random.choice((1, 2, 100)))
    else:
        name = random.choice((random.choice(KEYS), f"{key}_", str(key).upper()))
        holder[name] = random.choice((value, holder[key]))


def _rename(random: Random, holder: Any, key: Any, places: Any) -> None:
    if isinstance(holder, dict):
        holder[random.choice((random.choice(KEYS), key[1:], key + "s"))] = holder.pop(key)
    else:
        random.shuffle(holder)


def _nest(random: Random, holder: Any, key: Any, places: Any) -> None:
    value, name = holder[key], random.choice(KEYS[:6])
    for _ in range(random.choice((1, 2, 20, 120, 199, 260, 400))):
        value = [value] if random.random() < 0.5 else {name: value}
    holder[key] = value


_CHANGES: tuple[Callable[[Random, Any, Any, Any], None], ...] = (
    *(_replace, _replace, _near, _near, _near, _delete, _swap, _swap, _add, _rename, _nest),
)


def _strange(random: Random, value: Any) -> Any:
    kind = random.randrange(8)
    if kind < 2 or (kind < 5 and isinstance(value, int)):
        return random.choice(INTEGERS)
    if kind == 2 or (kind < 5 and isinstance(value, float)):
        return random.choice(FLOATS)
    if kind < 6:
        return random.choice(STRINGS)
    return random.choice((None, True, False, [], {}, [[]], [None], {"": 0}, ["a", "a"], {"a": {"a": 1}}))


def text(random: Random, value: str) -> str:
    """A text with some characters changed."""
    if not value:
        return random.choice(STRINGS)
    at = random.randrange(len(value))
    piece = random.choice(("", value[at : at + 4] * 2, random.choice(STRINGS), chr(random.randrange(0x300))))
    return value[:at] + piece + value[at + random.choice((0, 1, 1, 4)) :]


def encoded(value: Any) -> bytes:
    """Canonical where that is possible."""
    try:
        return canonical.encode(value)
    except (FormatError, ValueError):
        pass
    try:
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    except (ValueError, RecursionError, TypeError):
        return b"[]"


def json_bytes(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """A JSON document with its values changed, now and then its text."""
    kind = random.random()
    if kind < 0.12:
        return json_text(random, seed)
    if kind < 0.17:
        return octets(random, seed, seeds)
    try:
        value = json.loads(seed)
    except ValueError:
        return octets(random, seed, seeds)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        with contextlib.suppress(OverflowError, ValueError):  # a number that is no float, or no integer
            value = json_value(random, value)
    return encoded(value)[:MOST_BYTES]


def json_text(random: Random, seed: bytes) -> bytes:
    """Forms that a value has no room for: a key twice, other spellings of numbers, space, depth."""
    data = seed
    kind = random.randrange(7)
    marks = [at for at, byte in enumerate(data[:20_000]) if byte in b',:{}["']
    at = random.choice(marks) if marks else 0
    if kind == 0:
        end = data.find(b",", at)
        return data[:at] + data[at : end + 1] + data[at:]
    if kind == 1:
        return (
            data[: at + 1]
            + random.choice((b" ", b"\n", b"\t", b"\xef\xbb\xbf", b"//x\n", b","))
            + data[at + 1 :]
        )
    if kind == 2:
        number = random.choice(NUMBER_TEXTS).encode()
        colon = data.find(b":", at)
        return data[: colon + 1] + number + data[colon + 1 + random.choice((0, 1, 2)) :]
    if kind == 3:
        depth = random.choice((10, 199, 990, 1000, 3000, 100_000))
        opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")))
        return data[: at + 1] + opening * depth + b"1" + closing * depth + data[at + 1 :]
    if kind == 4:
        escape = random.choice((b"\\ud800", b"\\u0061", b"\\/", b"\\x", b"\\u00e9", b"\xff", b"\xed\xa0\x80"))
        quote = data.find(b'"', at)
        return data[: quote + 1] + escape + data[quote + 1 :]
    if kind == 5:
        return random.choice((b" ", b"\n", b"")) + data + random.choice((b" ", b"\n", b"\x00", b"{}", data))
    return data[:at]


def octets(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Bytes changed without regard to what they mean, and numbers in them to their extremes."""
    data = bytearray(seed)
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        if not data:
            return random.randbytes(random.randrange(64))
        at, kind = random.randrange(len(data)), random.randrange(10)
        if kind < 3:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 3:
            data[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x20, 0x22))
        elif kind == 4:
            del data[at : at + random.choice((1, 2, 4, 8, 64))]
        elif kind == 5:
            data[at:at] = random.choice((b"\x00", b"\xff", bytes(data[at : at + 16]), random.randbytes(4)))
        elif kind == 6:
            number = random.choice(INTEGERS) & (1 << 64) - 1
            size = random.choice((2, 4, 8))
            data[at : at + size] = struct.pack("<Q", number)[:size]
        elif kind == 7:
            other = random.choice(seeds)
            cut = random.randrange(len(other) + 1)
            data[at:] = other[cut:]
        elif kind == 8:
            del data[at:]
        else:
            end = min(len(data), at + random.randrange(1, 64))
            data[at:end] = random.choice((bytes(end - at), b"\xff" * (end - at), bytes(data[at:end][::-1])))
    return bytes(data[:MOST_BYTES])


FLOAT_BITS = (
    0x7FC00000,
    0x7F800000,
    0xFF800000,
    0x7F800001,
    0x80000000,
    0,
    1,
    0x007FFFFF,
    0x7F7FFFFF,
    0xFFFFFFFF,
)


def floats(random: Random, data: bytearray, start: int) -> None:
    """Write a strange binary32 somewhere behind `start`."""
    if len(data) - start >= 4:
        at = start + 4 * random.randrange((len(data) - start) // 4)
        struct.pack_into("<I", data, at, random.choice(FLOAT_BITS))


def lines(change: Callable[[Random, bytes, Sequence[bytes]], bytes]) -> Callable[..., bytes]:
    """Changes one line of several, or their order."""

    def mutated(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
        every = seed.split(b"\n")
        kind, at = random.randrange(8), random.randrange(len(every))
        if kind == 0:
            every.insert(random.randrange(len(every)), every[at])
        elif kind == 1:
            every.pop(at)
        elif kind == 2:
            other = random.randrange(len(every))
            every[at], every[other] = every[other], every[at]
        else:
            every[at] = change(random, every[at], seeds)
        return b"\n".join(every)

    return mutated
