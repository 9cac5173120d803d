"""`python -m tests.sovereign.malformed [--requests N] [--seed S]`: malformed requests to the endpoint.

Each request is sent over a socket of its own. The endpoint must answer each as its class says (or end the
connection), must answer a good one afterwards, and must not have grown.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.sovereign.malformations import CHAT, CLASSES, GOOD, LEAVES, request
from tests.sovereign.served import TEMPLATE, make, running

ANSWER_S: Final = 30.0


@dataclass
class Outcome:
    """What a run of requests came to."""

    sent: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    grown_bytes: int = 0


def send(url: str, data: bytes, *, wait: bool) -> tuple[int, bytes]:
    """Status and body; 0 where the connection ended without an answer."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=ANSWER_S) as sock:
        got = bytearray()
        with suppress(ConnectionError):
            sock.sendall(data)
        if not wait:
            return 0, b""
        with suppress(ConnectionError):
            while not _is_whole(got) and (piece := sock.recv(65536)):
                got += piece
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else 0), body


def _is_whole(got: bytearray) -> bool:
    """Whether an answer is there, on a connection that may stay open."""
    head, found, body = bytes(got).partition(b"\r\n\r\n")
    stated = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
    return bool(found) and stated is not None and len(body) >= int(stated[1])


def judge(name: str, status: int, body: bytes, codes: frozenset[int]) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    if status not in codes:
        return f"{name}: answered {status}, not {sorted(codes)}: {body[:200]!r}"
    if status:
        try:
            error = json.loads(body)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert len(body) < 2000
        except (ValueError, KeyError, AssertionError):
            return f"{name}: {status} in another shape: {body[:200]!r}"
        if b"Traceback" in body or b'File "' in body:
            return f"{name}: shows a traceback"
    return None


def resident_bytes() -> int:
    import ctypes
    import gc

    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def good(url: str) -> bool:
    for path, body in (("/v1/completions", GOOD), ("/v1/chat/completions", CHAT)):
        status, answer = send(url, request(json.dumps(body), path=path), wait=True)
        if status != 200 or not json.loads(answer)["choices"]:
            return False
    return True


def run(url: str, count: int, seed: int, *, told: list[tuple[str, dict[str, Any]]] | None = None) -> Outcome:
    """Send `count` requests, the classes in turn."""
    draw = random.Random(seed)
    names = list(CLASSES)
    outcome = Outcome()
    warm = len(names) * 2
    before = 0
    for number in range(count):
        if number == min(warm, count // 2):  # what is made once has been made
            before = resident_bytes()
        name = names[number % len(names)]
        data, codes = CLASSES[name](draw)
        try:
            status, body = send(url, data, wait=name not in LEAVES)
        except (OSError, ValueError, IndexError) as error:
            outcome.wrong.append(f"{name}: {type(error).__name__}")
            continue
        outcome.sent[name] += 1
        outcome.codes[status] += 1
        if (wrong := judge(name, status, body, codes)) is not None:
            outcome.wrong.append(wrong)
    if told is not None:
        outcome.wrong += [f"fault: {fields}" for event, fields in told if event == "unexpected"]
    if not good(url):
        outcome.wrong.append("no answer to a good request afterwards")
    outcome.grown_bytes = resident_bytes() - before
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(make(Path(folder) / "small", template=TEMPLATE)) as up,
    ):
        outcome = run(up.url, asked.requests, asked.seed, told=up.told)
    for name, count in outcome.sent.items():
        print(f"{count:6}  {name}")
    print(
        f"{sum(outcome.sent.values())} requests of {len(outcome.sent)} classes, seed {asked.seed}, ", end=""
    )
    print(f"{time.monotonic() - began:.0f} s; {outcome.grown_bytes / 1e6:+.1f} MB of memory")
    print("answers: " + ", ".join(f"{code or 'none'} {n}" for code, n in sorted(outcome.codes.items())))
    for wrong in outcome.wrong:
        print(f"WRONG  {wrong}")
    return 1 if outcome.wrong or outcome.grown_bytes > 32 << 20 else 0


if __name__ == "__main__":
    sys.exit(main())
