"""What of a trainer's result the owner publishes, and what the egress log says of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.node import lines
from tapestry.node.settings import Publish
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.messages import Progress
from tapestry.training.spool import TrainResult

DIGITS: Final = 6
"""Of a measure that leaves, and decimals at most: a float has room for six letters that nobody would see."""


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A folder that may leave, as far as the owner publishes it."""

    result: TrainResult
    delta: Artifact | None


def _plain(measure: float | None) -> float | None:
    """With as many digits as anybody reads: below a million about 24 bits remain of the 64."""
    return None if measure is None else round(float(f"{measure:.{DIGITS}g}"), DIGITS)


def publishable(result: TrainResult, publish: Publish) -> TrainResult:
    """The result without what the owner does not publish, and its measures without idle digits."""
    update: dict[str, Any] = {"loss": _plain(result.loss)}
    if result.score is not None:
        bits = _plain(result.score.bits_per_byte)
        update["score"] = result.score.model_copy(update={"bits_per_byte": bits})
    if publish != "all":
        update["loss"] = None
    if publish == "none":
        update["score"] = None
    return result.model_copy(update=update)


def publishable_progress(progress: Progress, publish: Publish) -> Progress:
    """The progress without what the owner does not publish, and its measures without idle digits."""
    update: dict[str, Any] = {"loss": _plain(progress.loss), "tokens_per_s": _plain(progress.tokens_per_s)}
    if publish != "all":
        update["loss"] = None
    if publish == "none":
        update["tokens_per_s"] = None
    return progress.model_copy(update=update)


def log_lines(passed: Passed) -> list[dict[str, Any]]:
    """What the egress log says of a result, one line an artifact, without the time."""
    result, name = passed.result, f"{passed.result.run}.{passed.result.round}"
    data = result.to_bytes()
    found = [_line("result", name, len(data), canonical.sha256(data))]
    if passed.delta is not None:
        manifest = passed.delta.to_bytes()
        found.append(_line("delta-manifest", f"{name}/delta", len(manifest), canonical.sha256(manifest)))
        found += [
            _line("delta-shard", f"{name}/delta/{index}", blob.bytes, blob.sha256)
            for index, blob in enumerate(passed.delta.shards)
        ]
    if result.score is not None:
        score = canonical.encode(result.score.model_dump(mode="json"))
        found.append(_line("score", f"{name}/score", len(score), canonical.sha256(score)))
    return found


def _line(kind: str, name: str, size: int, sha: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "bytes": size, "sha256": sha}


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return (line.get("kind"), line.get("name"), line.get("sha256"))


def present_lines(path: Path, wanted: Iterable[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Which of `wanted` the egress log holds already."""
    keys = {key_of(line) for line in wanted}
    return {key for line in lines.read(path) if (key := key_of(line)) in keys}
