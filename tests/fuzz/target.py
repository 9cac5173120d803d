"""What a fuzz target is, and what may come of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from tapestry.errors import TapestryError

MIB = 1 << 20

Mutate = Callable[[Random, bytes, Sequence[bytes]], bytes]
"""From a generator, a seed and all seeds: another input. Nothing else may decide what it gives."""
Call = Callable[[bytes], bytes | None]


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A target in use: its seeds are made, and what is expensive is kept from input to input.

    Args:
        seeds: valid inputs, made from real objects.
        call: parse. Returns the bytes that encode what was found, where the format has one encoding, which
            must then be those given; else None.
        close: once, at the end.
    """

    seeds: Sequence[bytes]
    call: Call
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Target:
    """One parser of foreign bytes.

    Args:
        name: also of its folder of kept cases.
        open: makes the parser.
        mutate: structure-aware.
        memory_bytes: what the process may grow by, over many inputs.
        refusals: classes that are typed refusals.
        alone: opened in the process that uses it, since it has threads or files of its own.
    """

    name: str
    open: Callable[[], Parser]
    mutate: Mutate
    memory_bytes: int = 64 * MIB
    refusals: tuple[type[Exception], ...] = (TapestryError,)
    alone: bool = False

    @cached_property
    def parser(self) -> Parser:
        return self.open()

    def input(self, seed: int, number: int) -> bytes:
        """The input of this number; the same on every machine of one release."""
        random = Random(f"{self.name}:{seed}:{number}")
        seeds = self.parser.seeds
        return self.mutate(random, random.choice(seeds), seeds)
