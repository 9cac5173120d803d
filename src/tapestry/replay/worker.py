"""The resident worker: no network, no text, one request at a time on standard input.

It ends with its parent or at the end of its input. What it cannot do is answered by a `Failure`;
anything that no part of the error tree describes ends the process, with a traceback on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tapestry.errors import FormatError, ResourceError, TapestryError
from tapestry.host.isolation import Level, drop_network
from tapestry.host.processes import die_with_parent
from tapestry.protocol import canonical
from tapestry.protocol.message import Message
from tapestry.replay.job import (
    MAX_LINE_BYTES,
    Failure,
    MergeJob,
    OverlapJob,
    Ready,
    Screened,
    ScreenJob,
)

if TYPE_CHECKING:
    from tapestry.replay.engine import Engine


def main(argv: list[str]) -> int:
    """Serve until standard input ends; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tapestry.replay")
    parser.add_argument("blob_root")
    parser.add_argument("--threads", type=int, default=2, help="shards worked on at once")
    parser.add_argument("--sketches", type=Path, help="folder of the sketches; beside the blobs if not given")
    arguments = parser.parse_args(argv)
    requests, answers = _streams()
    level = drop_network()  # before torch starts threads, which would keep the network
    die_with_parent()  # afterwards: entering a user namespace clears it
    return serve(arguments.blob_root, arguments.threads, level, requests, answers, arguments.sketches)


def serve(
    blob_root: str,
    threads: int,
    level: Level,
    requests: BinaryIO,
    answers: BinaryIO,
    sketches: Path | None = None,
) -> int:
    """Answer requests until there are no more; returns the exit code."""
    import torch

    from tapestry.replay.engine import Engine
    from tapestry.storage.blobs import BlobStore

    torch.set_num_threads(1)
    try:
        engine = Engine(BlobStore.open(blob_root), threads=threads, sketches=sketches)
    except TapestryError as e:
        _send(answers, Failure.of(e))
        return e.exit_code
    _send(answers, Ready(isolation=level))
    while line := requests.readline(MAX_LINE_BYTES + 1):
        try:
            answer = _answer(engine, line.removesuffix(b"\n"))
        except TapestryError as e:
            answer = Failure.of(e)
        except MemoryError:
            answer = Failure.of(ResourceError("the replay worker ran out of memory"))
        _send(answers, answer)
    return 0


def _answer(engine: Engine, line: bytes) -> Message:
    value = canonical.decode(line, what="request", max_bytes=MAX_LINE_BYTES)
    name = value.get("format") if isinstance(value, dict) else None
    if name == MergeJob.format_name():
        return engine.merge(MergeJob.from_json(value))
    if name == ScreenJob.format_name():
        job = ScreenJob.from_json(value)
        engine.screen(job.delta, job.layout, job.codec, job.fragment, job.largest_norm, job.sketch)
        return Screened()
    if name == OverlapJob.format_name():
        return engine.overlap(OverlapJob.from_json(value))
    raise FormatError(f"request {str(name)[:64]!r} is none the replay worker knows")


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, the latter kept for answers: what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def _send(answers: BinaryIO, message: Message) -> None:
    data = message.to_bytes() + b"\n"
    while data:
        data = data[answers.write(data) :]
