"""The bytes of a delta: what a hostile node can put where numbers are due."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.tensors.shards import values as shard_values
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.support import Game, artifact, refused, send, shards
from tests.attacks.switches import Switches

WHO = "a node, by the bytes of its delta"
Given = tuple[Any, ...]
HEADER = ("tapestry.replay.buffers.check_header", "memoryview(blob)[: len(expected)] != expected")
FINITE = "tapestry.replay.deltas.is_finite"

# -- plain shards -------------------------------------------------------------------------------


class _Bomb:
    """What a pickle does when somebody loads it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (self._path, "w")


def _pickle() -> list[bytes]:
    bomb = pickle.dumps(_Bomb(os.environ["ATTACK_CANARY"]))
    data = shards(8.0)
    return [bomb + b"." * (len(data[0]) - len(bomb)), *data[1:]]


def _header(change: Callable[[dict[str, Any]], None]) -> Callable[[], list[bytes]]:
    def make() -> list[bytes]:
        data = shards(8.0)
        (size,) = struct.unpack("<Q", data[-1][:8])
        table = json.loads(data[-1][8 : 8 + size])
        change(table)
        text = json.dumps(table, separators=(",", ":")).encode()
        assert len(text) <= size
        return [*data[:-1], struct.pack("<Q", size) + text.ljust(size) + data[-1][8 + size :]]

    return make


def _overlapping(table: dict[str, Any]) -> None:
    table["c"]["data_offsets"][0] -= 4


def _out_of_file(table: dict[str, Any]) -> None:
    table["b"]["data_offsets"] = [0, 9999]
    table["c"]["shape"] = [9]


def _other_shape(table: dict[str, Any]) -> None:
    table["c"]["shape"] = [5, 10]
    table["b"]["dtype"] = "I8"


def _header_bomb() -> list[bytes]:
    """The header's stated length is near 2^63."""
    data = shards(8.0)
    return [struct.pack("<Q", (1 << 63) - 1) + data[0][8:], *data[1:]]


def _filled(value: float) -> Callable[[], list[bytes]]:
    def make() -> list[bytes]:
        data = shards(8.0)
        return [data[0][:-4] + struct.pack("<f", value), *data[1:]]

    return make


@attacks(
    case(
        "pickle-in-place-of-a-shard",
        "puts a pickle that opens a file where numbers are due",
        "a shard begins with the header its layout fixes; nothing unpickles",
        _pickle,
        "artifact",
        HEADER,
    ),
    case(
        "overlapping-offsets",
        "writes a header in which two tensors share bytes",
        "a foreign header is compared, never parsed",
        _header(_overlapping),
        "artifact",
        HEADER,
    ),
    case(
        "offsets-out-of-the-file",
        "writes a header whose tensor lies behind the file's end",
        "a foreign header is compared, never parsed",
        _header(_out_of_file),
        "artifact",
        HEADER,
    ),
    case(
        "another-shape-in-the-header",
        "gives a tensor another shape and type of the same bytes",
        "a foreign header is compared, never parsed",
        _header(_other_shape),
        "artifact",
        HEADER,
    ),
    case(
        "header-of-2-to-the-63-bytes",
        "states a header's length near 2^63, for whoever allocates it",
        "a foreign header is compared, never parsed",
        _header_bomb,
        "artifact",
        HEADER,
    ),
    case(
        "nan-in-a-delta",
        "sends NaN, which would spread over the base",
        "screening: every value is finite",
        _filled(float("nan")),
        "not-finite",
        (FINITE, None),
    ),
    case(
        "infinity-in-a-delta",
        "sends an infinity",
        "screening: every value is finite",
        _filled(float("inf")),
        "not-finite",
        (FINITE, None),
    ),
)
def test_a_shard(
    game: Game, switches: Switches, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reason, (target, check) = given
    canary = tmp_path / "canary"
    monkeypatch.setenv("ATTACK_CANARY", str(canary))
    assert game.tried(send(game.eve, make())).status_code == 200, "bytes are looked at afterwards"
    assert game.outcome() == ("refused", reason)
    game.goes_on()
    with ExitStack() as stack:
        if check is None:
            stack.enter_context(switches.off(target, lambda _: True))
            stack.enter_context(switches.off("tapestry.replay.engine.is_finite", lambda _: True))
        else:
            stack.enter_context(switches.check_off(target, check))
        assert game.tried(send(game.eve, make())).status_code == 200
        assert game.outcome() == ("accepted", None)
        values = game.values(game.ended().head.state)
    assert len(values) > 1 or values != {0.25}, "what is no number of the model is in its base"
    assert not canary.exists(), "but not even then is anything executed"


@attack(
    "huge-finite-values",
    tries="sends numbers near the largest float, so that the merged base overflows",
    stopped_by="a merge whose result is not finite is none; the round ends without one",
)
def test_huge_values(play: Any, switches: Switches) -> None:
    from tapestry.protocol.plan import Merge

    game: Game = play(merge=Merge(outer="sgd", outer_rate=1e3, outer_momentum=0.0))
    delta = send(game.eve, shards(3e38))
    assert game.tried(delta).status_code == 200
    view = game.ended()
    assert view.head.merges == 0 and view.current is not None, "abandoned, and the next is open"
    game.round = view.current.round
    with switches.off("tapestry.replay.engine.is_finite", lambda _: True):
        assert game.tried(delta).status_code == 200
        view = game.ended()
    assert any(abs(value) == float("inf") for value in game.values(view.head.state))


@attack(
    "denormals",
    tries="sends numbers so small that machines treat them differently, to have merges disagree",
    stopped_by="flush-to-zero is switched off in each thread that merges",
)
def test_denormals(game: Game, switches: Switches) -> None:
    from tapestry.protocol.artifact import State
    from tapestry.replay.engine import Engine
    from tests.replay import cases

    store = game.core.store
    layout = cases.layout_of()
    tiny = {
        t.name: (cases.random_values(layout, 1)[t.name] * 0 + 3e-39).astype("float32") for t in layout.tensors
    }
    zero = {name: array * 0 for name, array in tiny.items()}
    state = cases.put_state(store, layout, zero)
    delta = cases.put_artifact(store, layout, "delta", tiny)
    job = cases.job_of(store, layout, state, [delta], weights=[1 << 24], merge=cases.FEDAVG)
    right = Engine(store).merge(job)
    base = Artifact.from_bytes(store.read(State.from_bytes(store.read(right.state)).base))
    first = shard_values(layout.shards[0], store.read(base.shards[0].sha256))
    assert bool((first == torch.tensor(-3e-39)).all())
    game.goes_on()
    real = torch.set_flush_denormal
    if not real(True):
        pytest.skip("this processor cannot flush denormals")
    real(False)
    with switches.off("tapestry.replay.engine.torch.set_flush_denormal", lambda _: real(True)):
        assert Engine(store).merge(job).state != right.state, "two machines would part here"


# -- manifests ----------------------------------------------------------------------------------


def _with(**fields: Any) -> Callable[[Artifact], Artifact]:
    return lambda good: good.model_copy(update=fields)


def _short(good: Artifact) -> Artifact:
    last = good.shards[-1]
    return good.model_copy(
        update={"shards": (*good.shards[:-1], Blob(sha256=last.sha256, bytes=last.bytes - 4))}
    )


def _bomb(good: Artifact) -> Artifact:
    """Three shards of 64 MiB where the layout has 10 KiB."""
    return good.model_copy(
        update={"shards": tuple(Blob(sha256=b.sha256, bytes=64 << 20) for b in good.shards)}
    )


def _many(good: Artifact) -> Artifact:
    return good.model_copy(update={"shards": (*good.shards, good.shards[0])})


CHECK = "tapestry.protocol.artifact.Artifact.check_against"


@attacks(
    case(
        "delta-of-another-layout",
        "sends a delta that names another layout",
        "the manifest names the run's layout",
        _with(layout="7" * 64),
        "self.layout != layout.digest",
    ),
    case(
        "base-in-place-of-a-delta",
        "hands in a base, which would be subtracted from itself",
        "the manifest says what it is",
        _with(kind="base"),
        "self.kind != kind",
    ),
    case(
        "too-many-shards",
        "lists one shard more than the layout has",
        "shards are counted before any is looked at; a longer list is not even parsed",
        _many,
        "len(self.shards) != len(layout.shards)",
    ),
    case(
        "undersize-shard",
        "declares a shard four bytes short",
        "each shard has its layout's size",
        _short,
        "blob.bytes != shard.total_bytes",
    ),
    case(
        "bomb-of-declared-sizes",
        "declares 192 MiB where the layout has 10 KiB",
        "sizes are held against the layout before memory is taken",
        _bomb,
        "blob.bytes != shard.total_bytes",
    ),
)
def test_a_manifest(game: Game, switches: Switches, given: Given) -> None:
    change, check = given
    data = shards(8.0)
    delta = send(game.eve, data, change(artifact("delta", data)))
    before, looked = game.sequence, []
    verify = type(game.core.store).verify

    def seen(store: Any, blob: Blob) -> bool:
        looked.append(blob.sha256)
        return verify(store, blob)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(game.core.store), "verify", seen)
        refused(game.tried(delta), "artifact")
    shas = {canonical.sha256(each) for each in data}
    assert game.sequence == before and not shas & set(looked), "no shard was looked at"
    game.goes_on()
    with switches.check_off(CHECK, check):
        answer = game.tried(delta)
        match answer.status_code:
            case 409:
                assert answer.json()["missing"], "the core asks for blobs of a size that the layout has not"
            case 500:
                assert change is _many, "the core falls over it"
            case status:
                assert status == 200 and game.outcome() == ("accepted", None)


@attack(
    "manifest-that-is-none",
    tries="names a blob that is no manifest at all",
    stopped_by="manifests are closed messages of stated size",
)
def test_no_manifest(game: Game, switches: Switches) -> None:
    sha = send(game.eve, [], b"\x80\x04 no manifest")
    refused(game.tried(sha), "format")
    game.goes_on()
    good = artifact("delta", shards(8.0))
    send(game.eve, shards(8.0), good)
    with switches.off("tapestry.protocol.artifact.Artifact.from_bytes", lambda _: good):
        assert game.tried(sha).status_code == 200
