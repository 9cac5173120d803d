"""Encoded deltas: what a hostile node can write where a codec is due."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from tapestry.codec.shards import ShardCodec
from tapestry.errors import ArtifactError
from tapestry.protocol.encoding import Bf16, Codec, Int8, TopK
from tests.attacks.catalog import attacks, case
from tests.attacks.support import LAYOUT, Game, send
from tests.attacks.switches import Switches

WHO = "a node, by the bytes of its delta"
Given = tuple[Any, ...]
HEADER = ("tapestry.replay.buffers.check_header", "memoryview(blob)[: len(expected)] != expected")
FINITE = "tapestry.replay.deltas.is_finite"


# -- encoded shards -----------------------------------------------------------------------------

TOP3 = TopK(keep=3, side=8, bits=3, levels="nearest")
FEW = Codec(matrices=TOP3, embeddings=TOP3, norms=TOP3)
BYTES = Codec(matrices=Int8(), embeddings=Int8(), norms=Int8())
HALF = Codec(matrices=Bf16(), embeddings=Bf16(), norms=Bf16())


def encoded(codec: Codec) -> list[bytes]:
    """A good delta as a codec writes it; of `c`, `FEW` sends the numbers 0, 1 and 49."""
    found = []
    for shard in LAYOUT.shards:
        values = torch.linspace(0.25, 0.5, shard.elements)
        for piece in shard.pieces:
            if piece.tensor.name == "c":
                values[piece.values][[0, 1, 49]] = torch.tensor([1.0, 2.0, 3.0])
        found.append(ShardCodec(codec).encode_(shard, values))
    return found


SECTION = 19
"""Bytes of `c` in `FEW`, the last of the last shard: two of count, three levels, one of heads, two of low
bits (4 a number), two of codes (3 a number)."""
LEVELS, LOWS, CODES = 2, 15, 17


def _last(change: Callable[[bytearray], None]) -> Callable[[list[bytes]], list[bytes]]:
    """Changes the section of `c`."""

    def make(data: list[bytes]) -> list[bytes]:
        section = bytearray(data[-1][-SECTION:])
        assert section[:2] == b"\x03\x00", "the count of levels"
        change(section)
        return [*data[:-1], data[-1][:-SECTION] + bytes(section)]

    return make


def _duplicate(section: bytearray) -> None:
    section[LOWS] &= 0x0F  # the second number's low bits: 0 as the first's


def _outside(section: bytearray) -> None:
    section[LOWS + 1] |= 0x0F  # the third number, 49, becomes 63 of 50


def _nan_level(section: bytearray) -> None:
    section[LEVELS + 8 : LEVELS + 12] = struct.pack("<f", float("nan"))


def _descending(section: bytearray) -> None:
    first, second = slice(LEVELS, LEVELS + 4), slice(LEVELS + 4, LEVELS + 8)
    section[first], section[second] = section[second], section[first]


def _level_bomb(section: bytearray) -> None:
    section[:2] = b"\xff\xff"


def _no_such_level(section: bytearray) -> None:
    section[CODES] |= 0xC0
    section[CODES + 1] |= 0x01


def _hidden(section: bytearray) -> None:
    section[CODES + 1] |= 0x80


def _trailing(data: list[bytes]) -> list[bytes]:
    return [*data[:-1], data[-1] + b"!"]


def _short_section(data: list[bytes]) -> list[bytes]:
    return [*data[:-1], data[-1][:-3]]


def _exponent(data: list[bytes]) -> list[bytes]:
    """A power of two for a run that is past all floats."""
    return [data[0][:8] + b"\xff" + data[0][9:], *data[1:]]


def _nan_half(data: list[bytes]) -> list[bytes]:
    return [data[0][:8] + struct.pack("<H", 0x7FC0) + data[0][10:], *data[1:]]


NAN_LEVEL, OUTSIDE, NO_LEVEL = _last(_nan_level), _last(_outside), _last(_no_such_level)
NOT_FINITE = (NAN_LEVEL, _nan_half, _exponent)
FATAL = (OUTSIDE, NO_LEVEL, _short_section)
"""Without their defence these end the process with an error that is no typed one."""
TOPK = "tapestry.codec.topk.TopK"


@attacks(
    case(
        "duplicate-index",
        "sends one element twice, for double weight",
        "places are ascending",
        FEW,
        _last(_duplicate),
        (f"{TOPK}.decode", "bool((place[1:] <= place[:-1]).any())"),
    ),
    case(
        "index-out-of-range",
        "sends an element behind the end of its tensor",
        "places lie in their block",
        FEW,
        OUTSIDE,
        (f"{TOPK}.decode", "bool((number >= group.values).any())"),
    ),
    case(
        "level-not-a-number",
        "sends NaN as a level of the quantizer",
        "levels are finite",
        FEW,
        NAN_LEVEL,
        (f"{TOPK}.decode", "not ascending or not is_finite(levels) or bool((levels == 0).any())"),
    ),
    case(
        "levels-out-of-order",
        "writes the same update in other bytes",
        "levels are ascending",
        FEW,
        _last(_descending),
        (f"{TOPK}.decode", "if not ascending"),
    ),
    case(
        "bomb-of-levels",
        "states 65,535 levels in a section of 19 bytes",
        "a count is held against the bits of a code before its bytes are taken",
        FEW,
        _last(_level_bomb),
        None,
    ),
    case(
        "code-without-a-level",
        "names a level that is not there",
        "each code has a level",
        FEW,
        NO_LEVEL,
        (f"{TOPK}.decode", "used.numel() > count or bool((used == 0).any())"),
    ),
    case(
        "hidden-bits",
        "hides bits behind the last number",
        "unused bits are 0",
        FEW,
        _last(_hidden),
        (f"{TOPK}._row", "not bits.spare_bits_are_zero(octets, count, width)"),
    ),
    case(
        "exponent-past-all-floats",
        "sends a run whose values are infinite",
        "a run has one form",
        BYTES,
        _exponent,
        ("tapestry.codec.runs._Runs.decode", "if not canonical"),
    ),
    case(
        "not-a-number-in-half-precision",
        "sends NaN as bf16",
        "decoded values are finite",
        HALF,
        _nan_half,
        ("tapestry.codec.dense.Whole.decode", "not is_finite(values)"),
    ),
    case(
        "text-behind-the-last-section",
        "hides text behind an encoded shard",
        "a section says where it ends; nothing follows, and no shard is larger than its codec writes",
        FEW,
        _trailing,
        ("tapestry.codec.shards.ShardCodec.decode", "if cursor.left"),
    ),
    case(
        "section-cut-short",
        "ends in the middle of a section",
        "every count is held against what is left",
        FEW,
        _short_section,
        ("tapestry.codec.contract.Cursor.take", "count > self._octets.numel() - self.at"),
    ),
)
def test_an_encoded_shard(play: Any, switches: Switches, given: Given) -> None:
    codec, change, off = given
    game: Game = play(codec=codec)
    bad = change(encoded(codec))
    delta = send(game.eve, bad)
    assert game.tried(delta).status_code == 200
    status, reason = game.outcome()
    assert status == "refused" and reason in ("artifact", "not-finite")
    good = send(game.eve, encoded(codec))
    assert game.tried(good, nonce="1" * 32).status_code == 200, "a good one may follow"
    assert game.outcome() == ("accepted", None)
    arguments = (delta, game.plan.layout, codec, 0)
    with ExitStack() as stack:
        if off is None:
            taken = _taken(stack, switches)
            with pytest.raises(ArtifactError, match="ends early"):
                game.core.replay.screen(*arguments)
            assert max(taken) > 250_000, "so many bytes are asked for"
            return
        stack.enter_context(switches.check_off(*off))
        if reason == "not-finite" or change in NOT_FINITE:
            stack.enter_context(switches.off(FINITE, lambda _: True))
        try:
            game.core.replay.screen(*arguments)
        except (IndexError, ValueError, RuntimeError, struct.error):
            assert change in FATAL, "the worker dies of it, again and again"
        else:
            assert change not in FATAL


def _taken(stack: ExitStack, switches: Switches) -> list[int]:
    """The check of the count is off; what is then taken is noted."""
    from tapestry.codec.contract import Cursor

    taken: list[int] = []
    real = Cursor.take

    def noting(cursor: Cursor, count: int) -> Any:
        taken.append(count)
        return real(cursor, count)

    stack.enter_context(switches.check_off(f"{TOPK}.decode", "count > 1 << self._width"))
    stack.enter_context(switches.off("tapestry.codec.contract.Cursor.take", noting))
    return taken
