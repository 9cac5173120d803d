"""Sketches are drawn while a delta is screened, kept as files, and compared without the deltas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapestry.errors import OverNorm, StoreError
from tapestry.protocol.encoding import PLAIN, Bf16, Codec, TopK
from tapestry.protocol.layout import Layout
from tapestry.replay.client import Replayer
from tapestry.replay.engine import Engine
from tapestry.replay.job import OverlapJob, Overlapped, SketchAt, Sketched
from tapestry.replay.sketches import NEARLY_ALL, TOGETHER
from tapestry.storage.blobs import BlobStore
from tests.replay import cases

SEED = "5e" * 32
SHAPES = {"a": (300, 400), "b": (70, 33), "c": ()}
FEW = TopK(keep=32, side=32, bits=8)
SPARSE = Codec(matrices=FEW, embeddings=FEW, norms=FEW)


class Desk:
    """Deltas of one layout, screened into rounds."""

    def __init__(self, store: BlobStore, engine: Engine | Replayer | None = None) -> None:
        self.store = store
        self.layout: Layout = cases.layout_of(SHAPES, shard_bytes=1 << 17)
        store.put(self.layout.to_bytes(), durable=False)
        self.engine = engine or Engine(store, threads=2)
        self.rounds: dict[str, int] = {}

    def values(self, seed: int, scale: float = 1.0) -> cases.Values:
        rng = np.random.default_rng(seed)
        return {
            name: np.asarray(rng.standard_normal(shape) * scale, dtype=np.float32)
            for name, shape in SHAPES.items()
        }

    def sent(self, values: cases.Values, round: int, codec: Codec = PLAIN, seed: str = SEED) -> str:
        if codec.plain:
            delta = cases.put_artifact(self.store, self.layout, "delta", values)
        else:
            delta = cases.put_encoded(self.store, self.layout, codec, values)
        at = SketchAt(seed=seed, run="run", round=round)
        self.engine.screen(delta, self.layout.digest, codec, 0, None, at)
        self.rounds[delta] = round
        return delta

    def told(
        self, delta: str, *others: str, own: str = "", largest: float = 0.6, seed: str = SEED
    ) -> Overlapped:
        known = tuple(
            Sketched(round=self.rounds[each], delta=each, own=each == own) for each in (*others, own) if each
        )
        return self.engine.overlap(
            OverlapJob(
                seed=seed,
                run="run",
                round=self.rounds[delta],
                delta=delta,
                largest=largest,
                others=known,
            )
        )


@pytest.fixture
def desk(store: BlobStore) -> Desk:
    return Desk(store)


def plus(values: cases.Values, other: cases.Values, times: float) -> cases.Values:
    return {name: np.asarray(each + np.float32(times) * other[name]) for name, each in values.items()}


def times(values: cases.Values, factor: float) -> cases.Values:
    return {name: np.asarray(each * np.float32(factor)) for name, each in values.items()}


def folder(store: BlobStore) -> Path:
    return store.root.parent / "sketches" / "run"


def test_copies_of_anothers_update_and_honest_ones(desk: Desk) -> None:
    common, noise = desk.values(1, 2.0), desk.values(2)
    ada, bob, eve = (plus(common, desk.values(10 + i), 1.0) for i in range(3))
    sent = [desk.sent(each, 1) for each in (ada, bob, eve)]
    honest = desk.sent(plus(common, desk.values(20), 1.0), 2)
    found = desk.told(honest, *sent[:2], own=sent[2])
    assert not found.copied
    assert desk.told(honest, *sent[:2], own=sent[2], largest=0.05).copied, "it is compared"
    copies = {
        "scaled": times(ada, 0.03),
        "the other way": times(ada, -1.0),
        "noise": plus(ada, noise, 0.5),
        "huge": times(ada, 1e36),
        "the mean": times(plus(plus(ada, bob, 1.0), eve, 1.0), 1 / 3),
    }
    for name, values in copies.items():
        copied = desk.told(desk.sent(values, 2), *sent[:2], own=sent[2])
        assert copied.copied, name
        assert copied.nearest == 0 or name == "the mean", name


def test_a_nodes_own_update_and_a_round_it_had_no_part_in(desk: Desk) -> None:
    ada, bob = desk.values(1), desk.values(2)
    first, second = desk.sent(ada, 1), desk.sent(bob, 1)
    close, closer = (
        desk.sent(plus(ada, desk.values(3), 0.2), 2),
        desk.sent(plus(ada, desk.values(3), 0.02), 2),
    )
    # Of its own, and of a round that tells nothing of what it has in common with others, only the same again.
    for own, others in ((first, (second,)), ("", (first, second))):
        assert not desk.told(close, *others, own=own).copied
        found = desk.told(closer, *others, own=own)
        assert found.copied and found.allowed == NEARLY_ALL
    assert desk.told(close, first, own=second).copied, "but of another's, where it took part"
    assert not desk.told(closer, first, own=second, largest=1.0).copied, "1 takes all but the same bytes"


def test_encodings_do_not_hide_a_copy(desk: Desk) -> None:
    ada = desk.values(1)
    first, own = desk.sent(ada, 1), desk.sent(desk.values(2), 1)
    half = Codec(matrices=Bf16(), embeddings=Bf16(), norms=Bf16())
    assert desk.told(desk.sent(ada, 2, half), first, own=own).overlap > 0.99
    few = desk.sent(ada, 3, SPARSE)
    again = desk.sent(times(ada, 1.5), 4, SPARSE)
    assert desk.told(again, few, own=own).overlap > 0.99
    # 32 of 1024 values hold a fifth of the whole: it is another update, and is told as one.
    assert 0.2 < desk.told(few, first, own=own).overlap < 0.6


def test_more_of_a_round_than_are_compared_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry.replay.sketches.TOGETHER", 3)
    assert TOGETHER > 3
    sent = [desk.sent(desk.values(i), 1) for i in range(8)]
    copy = desk.sent(plus(desk.values(6), desk.values(99), 0.3), 2)
    found = desk.told(copy, *sent[1:], own=sent[0])
    assert found.copied and found.nearest == 5
    assert not desk.told(desk.sent(desk.values(55), 2), *sent[1:], own=sent[0]).copied
    assert desk.told(copy) == Overlapped()


def test_a_file_that_is_lost_damaged_or_of_another_secret_is_as_good_as_none(desk: Desk) -> None:
    one, other = desk.sent(desk.values(1), 1), desk.sent(desk.values(2), 2)
    path = folder(desk.store) / "1" / one
    assert path.stat().st_mode & 0o777 == 0o600
    good = path.read_bytes()
    assert desk.told(other, one).lacking == ()
    for bad in (
        good[:-1],
        good + b"\0",
        good[:40] + bytes([good[40] ^ 1]) + good[41:],
        b"",
        bytes(len(good)),
    ):
        path.write_bytes(bad)
        assert desk.told(other, one).lacking == (0,)
    path.write_bytes((folder(desk.store) / "2" / other).read_bytes())
    assert desk.told(other, one).lacking == (0,), "another delta's"
    path.unlink()
    assert desk.told(other, one).lacking == (0,)
    path.write_bytes(good)
    with pytest.raises(StoreError, match="gone or damaged"):
        desk.told(other, one, seed="ab" * 32)
    desk.sent(desk.values(2), 2, seed="ab" * 32)
    assert desk.told(other, one, seed="ab" * 32).lacking == (0,)


def test_what_is_refused_for_its_norm_leaves_no_sketch(desk: Desk) -> None:
    delta = cases.put_artifact(desk.store, desk.layout, "delta", desk.values(1))
    at = SketchAt(seed=SEED, run="run", round=1)
    with pytest.raises(OverNorm):
        desk.engine.screen(delta, desk.layout.digest, PLAIN, 0, 1e-3, at)
    assert not folder(desk.store).exists()


def test_through_the_worker(store: BlobStore, tmp_path: Path) -> None:
    with Replayer(store.root, sketches=tmp_path / "elsewhere") as replayer:
        desk = Desk(store, replayer)
        one, own = desk.sent(desk.values(1), 1), desk.sent(desk.values(2), 1)
        copy = desk.sent(times(desk.values(1), -3.0), 2)
        found = desk.told(copy, one, own=own)
        assert (found.copied, found.nearest, found.lacking) == (True, 0, ())
        replayer.close()
    with Replayer(store.root, sketches=tmp_path / "elsewhere") as replayer:
        desk.engine = replayer
        assert desk.told(copy, one, own=own) == found
        with pytest.raises(StoreError, match="gone or damaged"):
            desk.told(copy, one, own=own, seed="00" * 32)
    assert (tmp_path / "elsewhere" / "run" / "1" / one).is_file() and not folder(store).exists()
    log = store.root.parent / "logs" / "replay.log"
    assert SEED not in log.read_text()
