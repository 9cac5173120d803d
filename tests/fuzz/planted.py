"""Parsers with faults, to see that the runner finds each."""

from __future__ import annotations

import ctypes
import time

from tapestry.errors import FormatError
from tests.fuzz.mutate import octets
from tests.fuzz.target import MIB, Parser, Target

SEED = b"planted:12345678"


def _planted(name: str, fault: str) -> Target:
    hold: list[object] = []

    def call(data: bytes) -> bytes:
        if not data.startswith(b"planted:"):
            raise FormatError("not planted")
        if data == SEED or sum(data) % 4:
            return data
        match fault:
            case "none" | "calm":
                pass
            case "untyped":
                raise ValueError(data)
            case "panic":
                raise SystemExit(3)
            case "greedy":
                bytearray(1 << 40)
            case "fat":
                hold.append(b"x" * (3 * MIB))
            case "slow":
                end = time.process_time() + 1.05
                while time.process_time() < end and not hold:
                    pass
                hold.append(data)  # once is enough
            case "other":
                return data + b" "
            case "crash":
                ctypes.string_at(0)
        return data

    return Target(
        name=name, open=lambda: Parser(seeds=[SEED], call=call), mutate=octets, memory_bytes=16 * MIB
    )


FAULTS = {
    **{"none": None, "calm": None, "untyped": "untyped-ValueError", "panic": "untyped-SystemExit"},
    **{
        "greedy": "untyped-MemoryError",
        "fat": "fat",
        "slow": "slow",
        "other": "other-bytes",
        "crash": "died",
    },
}
"""What is planted, and what the runner says of it."""
PLANTED = {fault: _planted(fault, fault) for fault in FAULTS}
