"""Sketches of deltas: drawn while the shards of one are looked at, and kept as a small file each.

`<folder>/<run>/<round>/<delta>`: 32 bytes of keyed BLAKE2b over the delta's digest and what follows, then
the sketch, `BUCKETS` fp32 values of length 1, little-endian. The key is the secret seed, so a file that is
torn, damaged, renamed or drawn with another seed is as good as none. Each can be drawn again while the delta
is there, so none is synced.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from tapestry.codec.contract import Dense
from tapestry.codec.shards import Section
from tapestry.errors import ArtifactError, StoreError, TooLarge
from tapestry.host import files
from tapestry.protocol.layout import Shard
from tapestry.replay.job import OverlapJob, Overlapped, SketchAt
from tapestry.tensors.sketch import BUCKETS, ShardSketch, Signs, overlaps, unit

NEARLY_ALL: Final = 0.999
"""An overlap, with nothing taken out of it, that no two honest updates have: with one inner step a round a
node's own come to 0.994."""
TOGETHER: Final = 256
"""Updates of one round that are compared at a time; far fewer than a sketch has buckets."""
_TAG_BYTES: Final = 32
FILE_BYTES: Final = _TAG_BYTES + 4 * BUCKETS


class Drawing:
    """The sketch of one delta, to which several threads add the shards.

    Args:
        seed: the secret, in hexadecimal digits.
        scale: see `ShardSketch`.
    """

    def __init__(self, seed: str, scale: float = 1.0) -> None:
        self._signs = _signs(seed)
        self._scale = scale
        self._lock = threading.Lock()
        self.sums = torch.zeros(BUCKETS, dtype=torch.float64)

    def add(self, shard: Shard, sections: Sequence[Section]) -> None:
        """All that a shard holds."""
        drawn = ShardSketch(self._signs, shard.index, shard.elements, self._scale)
        for section in sections:
            decoded, start = section.decoded, section.values.start
            if isinstance(decoded, Dense):
                drawn.dense(start, decoded.values)
            else:
                drawn.sparse(start, decoded.places, decoded.values)
        sums = drawn.sums()
        with self._lock:
            self.sums += sums

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.sums).all())


class Sketches:
    """The files.

    Args:
        folder: where they are; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, at: SketchAt, delta: str, drawing: Drawing) -> None:
        """Keep the sketch of a delta that came to a round. Raises `DiskFull`."""
        path = self._path(at.run, at.round, delta)
        data = unit(drawing.sums).numpy().tobytes()
        with files.full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, _tag(at.seed, delta, data) + data, mode=0o600, durable=False)

    def overlaps(self, job: OverlapJob) -> Overlapped:
        """Where a delta is most like one of the others. Raises `StoreError` where its own sketch is lost."""
        own = self._find(job.seed, job.run, job.round, job.delta)
        if own is None:
            raise StoreError(
                f"the sketch of delta {job.delta[:12]} is gone or damaged", hint="it is drawn again"
            )
        lacking: list[int] = []
        worst = Overlapped()
        for _, one_round in groupby(enumerate(job.others), key=lambda each: each[1].round):
            members = list(one_round)
            mine = [each for each in members if each[1].own]
            rest = [each for each in members if not each[1].own]
            for first in range(0, max(1, len(rest)), TOGETHER):
                there = []
                for number, other in rest[first : first + TOGETHER] + mine:
                    sketch = self._find(job.seed, job.run, other.round, other.delta)
                    if sketch is None:
                        lacking.append(number)
                    else:
                        there.append((number, other.own, sketch))
                if there:
                    worst = max(worst, compared(own, there, job.largest), key=_excess)
        return worst.model_copy(update={"lacking": tuple(lacking)})

    def _find(self, seed: str, run: str, round: int, delta: str) -> Tensor | None:
        try:
            data = files.read_limited(self._path(run, round, delta), FILE_BYTES)
        except (FileNotFoundError, ArtifactError, TooLarge):
            return None
        tag, values = data[:_TAG_BYTES], data[_TAG_BYTES:]
        if len(data) != FILE_BYTES or tag != _tag(seed, delta, values):
            return None
        return torch.frombuffer(bytearray(values), dtype=torch.float32)

    def _path(self, run: str, round: int, delta: str) -> Path:
        return self._folder / run / str(round) / delta


def compared(delta: Tensor, others: list[tuple[int, bool, Tensor]], largest: float) -> Overlapped:
    """With the updates of one round: number, whether it is the same node's, sketch."""
    bare, beyond = overlaps(delta, torch.stack([sketch for _, _, sketch in others]))
    took_part = any(own for _, own, _ in others)
    found = []
    for (number, own, _), near, nearer in zip(others, bare.tolist(), beyond.tolist(), strict=True):
        found.append(Overlapped(nearest=number, overlap=min(1.0, near), allowed=max(NEARLY_ALL, largest)))
        if took_part and not own:
            found.append(Overlapped(nearest=number, overlap=min(1.0, nearer), allowed=largest))
    return max(found, key=_excess)


def _excess(found: Overlapped) -> float:
    return found.overlap - found.allowed


def _tag(seed: str, delta: str, data: bytes) -> bytes:
    return blake2b(bytes.fromhex(delta) + data, key=bytes.fromhex(seed), digest_size=_TAG_BYTES).digest()


@lru_cache(maxsize=1)
def _signs(seed: str) -> Signs:
    return Signs(bytes.fromhex(seed))
