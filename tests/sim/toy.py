"""The smallest run there is: four numbers, deltas that follow from who trained what, a short merge."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from tapestry.errors import ArtifactError
from tapestry.host import failpoints
from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, Model, State
from tapestry.protocol.canonical import sha256
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import Layout, Shard, Tensor
from tapestry.replay.inputs import Source, read_inputs, read_message, read_source
from tapestry.replay.job import MergeJob, MergeResult
from tapestry.storage.blobs import BlobStore

RUN: Final = "toy"
LAYOUT: Final = Layout(shard_bytes=4096, tensors=(Tensor(name="w", shape=(4,)),))
MODEL: Final = Model(layout=LAYOUT.digest, files=())
STEPS: Final = 4
TOKENS_A_STEP: Final = 8
UNIT: Final = 1 << 24

Numbers = tuple[float, ...]
"""As many as the layout has elements, each a value of fp32."""


def fp32(values: Sequence[float]) -> Numbers:
    """Rounded to what 32 bits hold."""
    return struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values))


@dataclass(frozen=True)
class Made:
    """An artifact with its blobs."""

    artifact: Artifact
    blobs: tuple[bytes, ...]
    """The shards, then the manifest."""

    @property
    def digest(self) -> str:
        return sha256(self.blobs[-1])


def make(kind: ArtifactKind, values: Numbers) -> Made:
    data, at = [], 0
    for shard in LAYOUT.shards:
        data.append(shard.header + struct.pack(f"<{shard.elements}f", *values[at : at + shard.elements]))
        at += shard.elements
    blobs = tuple(Blob(sha256=sha256(each), bytes=len(each)) for each in data)
    artifact = Artifact(kind=kind, layout=LAYOUT.digest, shards=blobs)
    return Made(artifact, (*data, artifact.to_bytes()))


INITIAL: Final[Numbers] = (1.0, -0.5, 0.25, 2.0)
START: Final = State(run=RUN, model=MODEL.digest, merges=0, base=make("base", INITIAL).digest, outer=None)


def initial_blobs() -> list[bytes]:
    return [LAYOUT.to_bytes(), MODEL.to_bytes(), START.to_bytes(), *make("base", INITIAL).blobs]


def trained(node: str, round: int, state: str) -> Numbers:
    """What comes of a round of training, wherever and how often it is done."""
    seed = hashlib.sha256(f"{node} {round} {state}".encode()).digest()
    return fp32([(seed[i] - 128) / 1000 for i in range(LAYOUT.elements)])


def steps_of(node: str, round: int) -> int:
    """Members are not equally fast."""
    return 1 + (sum(node.encode()) + round) % STEPS


def merged(
    base: Numbers, momentum: Numbers | None, deltas: Sequence[tuple[int, Numbers]]
) -> tuple[Numbers, Numbers]:
    """The next base and momentum, from weights in units of 2^-24 and deltas, in merge order."""
    average = [0.0] * len(base)
    for weight, delta in deltas:
        average = [a + weight / UNIT * d for a, d in zip(average, delta, strict=True)]
    before = momentum or (0.0,) * len(base)
    after = fp32([0.9 * m + a for m, a in zip(before, average, strict=True)])
    return fp32([b - 0.7 * (a + 0.9 * m) for b, a, m in zip(base, average, after, strict=True)]), after


class ToyReplay:
    """Stands where `replay.client.Replayer` does, over the same blobs.

    Args:
        store: the blobs.
        crooked: this merge comes out wrong, by the least that fp32 can tell.
        told: hears of each state that comes of a merge.
    """

    def __init__(
        self, store: BlobStore, *, crooked: int = 0, told: Callable[[str], None] = lambda _: None
    ) -> None:
        self._store = store
        self._crooked = crooked
        self._told = told

    def start(self) -> str:
        return "process"

    def close(self) -> None:
        pass

    def merge(self, job: MergeJob, /) -> MergeResult:
        inputs = read_inputs(job, self._store)
        deltas = [
            (each.weight, self._values(source))
            for each, source in zip(job.contributions, inputs.deltas, strict=True)
        ]
        momentum = None if inputs.momentum is None else self._values(inputs.momentum)
        base, after = merged(self._values(inputs.base), momentum, deltas)
        if inputs.state.merges + 1 == self._crooked:
            base = next_after(base)
        made = make("base", base), make("outer", after)
        for data in chain.from_iterable(each.blobs for each in made):
            self._store.put(data, durable=job.durable)
            failpoints.reach("replay.shard.written")
        state = State(
            run=job.run,
            model=job.model,
            merges=inputs.state.merges + 1,
            base=made[0].digest,
            outer=made[1].digest,
        )
        sha = self._store.put(state.to_bytes(), durable=job.durable)
        failpoints.reach("replay.state.written")
        self._told(sha)
        return MergeResult(state=sha, base=made[0].digest, outer=made[1].digest, seconds=0.0, input_bytes=0)

    def screen(
        self,
        delta_digest: str,
        layout_digest: str,
        codec: Codec,
        fragment: int = 0,
        largest_norm: float | None = None,
        /,
    ) -> None:
        layout = read_message(self._store, layout_digest, Layout)
        source = read_source(self._store, delta_digest, layout.fragment(fragment), "delta", "delta", codec)
        if not all(abs(value) < float("inf") for value in self._values(source)):
            raise ArtifactError("delta: shard 0 holds NaN or infinity")

    def _values(self, source: Source) -> Numbers:
        return tuple(
            chain.from_iterable(
                values_of(shard, self._store.read(source.sha(shard.index))) for shard in LAYOUT.shards
            )
        )


def values_of(shard: Shard, data: bytes) -> Numbers:
    if not data.startswith(shard.header) or len(data) != shard.total_bytes:
        raise ArtifactError(f"shard {shard.index} does not begin as its layout says")
    return struct.unpack(f"<{shard.elements}f", data[len(shard.header) :])


class Reference:
    """Merges once more, from what the ledger says alone: no disk, no faults, no code of the core."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Numbers, Numbers | None]] = {START.digest: (0, INITIAL, None)}

    def after(self, state: str, deltas: Sequence[tuple[int, Numbers]]) -> str:
        """Digest of the state that follows."""
        merges, base, momentum = self._known[state]
        new, outer = merged(base, momentum, deltas)
        made = State(
            run=RUN,
            model=MODEL.digest,
            merges=merges + 1,
            base=make("base", new).digest,
            outer=make("outer", outer).digest,
        )
        self._known[made.digest] = (merges + 1, new, outer)
        return made.digest

    def known(self, state: str) -> tuple[int, Numbers, Numbers | None]:
        """Merges, base and momentum of a state it has computed."""
        return self._known[state]


def next_after(values: Numbers) -> Numbers:
    """The first number becomes the next one of fp32."""
    (bits,) = struct.unpack("<I", struct.pack("<f", values[0]))
    return (*struct.unpack("<f", struct.pack("<I", bits + 1)), *values[1:])


def fair_weights(tokens: Mapping[str, int], lags: Mapping[str, int], factor: float) -> dict[str, float]:
    """Each node's part by its tokens, in plain floats; an independent look at `rounds.weights`."""
    amounts = {node: count * factor ** lags[node] for node, count in tokens.items()}
    total = sum(amounts.values())
    return {node: amount / total for node, amount in amounts.items()}
