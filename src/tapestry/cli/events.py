"""A run's figures as TensorBoard event files. Only `tensorboard` itself is needed, and nothing of torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tapestry.errors import InputError
from tapestry.host import files
from tapestry.protocol.clock import parse_time

if TYPE_CHECKING:
    from tapestry.audit.course import Course

MARK: Final = ".tapestry-run"
"""In every folder that is ours to replace."""


def write(course: Course, out: Path) -> dict[str, int]:
    """One folder for the run, one for each node that publishes scores; how many figures each holds.

    Raises:
        InputError: `out` holds a folder of that name that is not of an earlier call.
    """
    scalars: dict[str, list[tuple[str, int, float, float]]] = {course.run: list(_of_run(course))}
    for node in sorted(course.scores):
        scalars[f"{course.run}.{node}"] = [
            ("score/bits_per_byte", merges, value, _seconds(course.scored_at[node, merges]))
            for merges, value in sorted(course.scores[node].items())
        ]
    out.mkdir(parents=True, exist_ok=True)
    for name, values in scalars.items():
        with files.full_disk(out):
            _write_folder(out, name, values)
    return {name: len(values) for name, values in scalars.items()}


def _of_run(course: Course) -> list[tuple[str, int, float, float]]:
    """Tag, step, value, and seconds since 1970, of what concerns all nodes."""
    found = []
    total = 0
    for past in course.committed:
        step, at = past.merges or 0, _seconds(past.ended_at or past.opened_at)
        total += past.tokens
        values = {
            "round/tokens": past.tokens,
            "round/updates_bytes": past.bytes,
            "round/merged": past.merged,
            "round/refused": past.refused,
            "round/late": past.late,
            "round/steps": past.steps,
            "round/seconds": at - _seconds(past.opened_at),
            "run/tokens": total,
        }
        found += [(tag, step, float(value), at) for tag, value in values.items()]
    for merges in sorted({m for each in course.scores.values() for m in each}):
        times = [_seconds(at) for (_, of), at in course.scored_at.items() if of == merges]
        mean = course.mean_score(merges)
        if mean is not None:
            found.append(("score/bits_per_byte_mean", merges, mean, max(times)))
    return found


def _write_folder(out: Path, name: str, values: list[tuple[str, int, float, float]]) -> None:
    """All or nothing: a reader sees the files of the call before, or these."""
    final = out / name
    if final.exists() and not (final / MARK).exists():
        raise InputError(
            f"{final} exists and is not of an earlier call", hint="choose another folder with --out"
        )
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out))
    try:
        _write_events(temporary, values)
        (temporary / MARK).touch()
        temporary.chmod(0o755)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)  # noqa: PTH105
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_events(folder: Path, values: list[tuple[str, int, float, float]]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    try:
        for tag, step, value, at in sorted(values, key=lambda each: (each[3], each[1])):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=at, step=step, summary=summary))
    finally:
        writer.close()


def _seconds(time: str) -> float:
    return parse_time(time).timestamp()
