"""What people write and send each other: plan files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tapestry.cli import planfile
from tests.fuzz.mutate import STRINGS, octets
from tests.fuzz.target import Parser, Target

EXAMPLE = Path(__file__).parents[3] / "examples" / "plan.toml"
SHORT = b"""format = "tapestry.plan-file"
version = 1
[run]
name = "first"
algorithm = "sparseloco"
[model.config]
hidden_size = 128
[rounds]
total = 8
[inner]
tokens = 10_000
schedule = [{ after_merges = 4, steps = 60 }]
"""
WITNESSED = SHORT.replace(
    b"[inner]", b"min_nodes = 3\n[witness]\nquorum = 2\nmembers = ['ada', 'bob']\n[inner]"
)
"""Also with merges that others fetch."""
FETCHED = WITNESSED.replace(b"version = 1\n", b'version = 1\nsync = "fetch"\n')
NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "1.5",
        "inf",
        "-inf",
        "nan",
        "1e400",
        "9" * 5000,
        "0x" + "f" * 5000,
        "0b1",
        "true",
        "1_0",
    ),
    *("2026-01-01", "2026-99-01", "10:00:00", "2026-01-01T00:00:00+23:59", "[]", "{}", "[[]]", '""', "'x'"),
    *(
        "[" * 2000 + "]" * 2000,
        "{a=" * 300 + "1" + "}" * 300,
        '"""\n[' + " " * 3000 + '\n"""',
        "[\n[" + " " * 3000 + "\n1]]",
    ),
)
LINES = (
    *(
        "[model]",
        "[run]",
        "[[rounds]]",
        "[a.b.c]",
        "format.a.b = 1",
        "x" + ".a" * 3000 + " = 1",
        "inner.a.a = 1",
    ),
    *(
        "[inner" + ".a" * 2000 + "]",
        "version" + ".a" * 1500 + " = 1",
        "[codec.matrices]",
        "[witness]",
        "[[witness]]",
        "quorum = 10000",
        "members = ['ada', 'ada']",
        "members = [" + "'a', " * 5000 + "]",
        "members = 'ada'",
        "= 1",
        "\x00",
        "[",
        "]",
    ),
)


def _mutate(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    kind = random.randrange(8)
    lines = seed.split(b"\n")
    at = random.randrange(len(lines))
    if kind < 4 and b"=" in lines[at]:
        key, _, value = lines[at].partition(b"=")
        strange = random.choice(STRINGS).encode("utf-8", "surrogatepass")
        value = random.choice(
            (random.choice(NUMBERS).encode(), b'"' + strange + b'"', value + b"0", value[:-2])
        )
        lines[at] = key + b"=" + value
    elif kind == 4:
        lines.insert(at, random.choice((*LINES, *(line.decode() for line in lines))).encode())
    elif kind == 5:
        lines.pop(at)
    elif kind == 6:
        lines[at] = random.choice((lines[at][:-1], b"x" + lines[at], lines[at].replace(b".", b"..")))
    else:
        return octets(random, seed, seeds)
    return b"\n".join(lines)


def _open() -> Parser:
    def call(data: bytes) -> None:
        file = planfile.parse(data, what="plan.toml")
        file.plan(model="0" * 64, layout="1" * 64, initial_state="2" * 64, parameters=10).to_bytes()

    return Parser(seeds=[EXAMPLE.read_bytes(), SHORT, WITNESSED, FETCHED], call=call)


TARGETS: Sequence[Target] = (Target(name="plan-file", open=_open, mutate=_mutate),)
