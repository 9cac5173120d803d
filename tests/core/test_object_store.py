"""A core whose blobs are in an object store (a real S3 service): rounds, a lost cache, a store that fails."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapestry.cli import corehome
from tapestry.cli.recompute import recompute
from tapestry.core import operator, settings
from tapestry.core.home import Home
from tapestry.core.service import Core
from tapestry.core.staging import Staged, staged
from tapestry.errors import HashMismatch, NotFound, SettingsError, StoreError
from tapestry.protocol.artifact import Artifact, State
from tapestry.replay.client import Replayer
from tapestry.replay.job import MergeJob
from tapestry.storage.blobs import BlobStore
from tapestry.storage.tiered import TieredStore
from tests import object_store
from tests.core.support import CoreUnderTest, code, make_plan, shards
from tests.object_store import KEYS, Proxy, Server

FULL = object_store.answers(403, "QuotaExceeded")


@pytest.fixture
def proxy(s3: Server) -> Iterator[Proxy]:
    with Proxy(s3).running() as proxy:
        yield proxy


@pytest.fixture
def core(s3: Server, proxy: Proxy, tmp_path: Path) -> Iterator[CoreUnderTest]:
    core = make_core(s3, proxy, tmp_path / "core")
    yield core
    core.close()


def make_core(s3: Server, proxy: Proxy, root: Path) -> CoreUnderTest:
    write_keys(root)
    where = {"blobs": f"{s3.bucket()}/blobs", "object_store": {"endpoint": proxy.url}}
    return CoreUnderTest(root, where=where)


def write_keys(root: Path, mode: int = 0o600) -> Path:
    (root / "keys").mkdir(parents=True, exist_ok=True)
    path = root / "keys" / "object_store.toml"
    path.write_text("".join(f'{name} = "{value}"\n' for name, value in KEYS.items()))
    path.chmod(mode)
    return path


def play(core: CoreUnderTest, made: Path, between: Any = lambda: None) -> str:
    """Two rounds of two members; `between` is called before the second. The last state."""
    plan = make_plan(made, total=2)
    members = core.running(plan, made, "ada", "bob")
    state = plan.initial_state
    for number, values in enumerate(((0.5, 0.25), (0.125, 0.0625)), 1):
        if number == 2:
            between()
        for member, value in zip(members, values, strict=True):
            member.hand_in(plan, value, round=number, state=state)
        state = members[0].wait(lambda v, n=number: v.head.merges == n).head.state  # type: ignore[misc]
    return state


def test_rounds_go_on_when_the_cache_is_lost(core: CoreUnderTest, s3: Server, tmp_path: Path) -> None:
    def lose_the_cache() -> None:
        core.kill()
        shutil.rmtree(core.root / "cache")
        core.start()

    core.start()
    after = play(core, tmp_path / "made", lose_the_cache)
    ada = core.members["ada"]
    blob = shards(0.5)[0]
    got = ada.ask("GET", f"/v1/blobs/{State.from_bytes(ada.ask('GET', f'/v1/blobs/{after}').content).base}")
    assert got.status_code == 200 and b"tapestry.artifact" in got.content
    assert ada.ask("GET", f"/v1/blobs/{'0' * 64}").status_code == 404
    assert ada.put(blob).json()["offset"] == len(blob)
    assert core.stop() == 0
    assert not (core.root / "blobs").exists()

    plain = CoreUnderTest(tmp_path / "plain").start()
    try:
        assert play(plain, tmp_path / "made") == after
    finally:
        plain.close()

    shutil.rmtree(core.root / "cache")
    with Core.open(core.root) as opened:
        records = corehome.records(opened, "run")
        found = recompute(opened.store, records, scratch_parent=core.root)
    assert [one.verdict for one in found] == ["same", "same"]


def test_a_store_that_fails_is_waited_for(
    core: CoreUnderTest, proxy: Proxy, s3: Server, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path / "made", total=1)
    core.start()
    ada, bob = core.running(plan, tmp_path / "made", "ada", "bob")
    ada.hand_in(plan, 0.5)
    proxy.spoil("PUT", FULL)
    refused = bob.put(shards(0.25)[0])
    assert (refused.status_code, code(refused)) == (507, "disk-full")
    proxy.heal()
    envelope = bob.contribution(plan, bob.send_delta(0.25))
    proxy.spoil("PUT", FULL)
    assert bob.contribute(envelope).status_code == 507  # the envelope itself is not durable: no receipt
    proxy.spoil("PUT", FULL, after=1)  # now the envelope is, the merge's result is not: no event
    assert bob.contribute(envelope).status_code == 200
    view = bob.wait(lambda v: "is full" in (v.waiting_for or ""))
    assert view.head.merges == 0
    proxy.heal()
    state = bob.wait(lambda v: v.status == "finished").head.state
    url = settings.load(Home(core.root)).blobs
    assert f"blobs/{state[:2]}/{state}" in s3.names(url)


@pytest.mark.parametrize("failpoint", ["core.merge.before-record", "core.blob.received:2"])
def test_killed_with_the_cache_lost_too(core: CoreUnderTest, tmp_path: Path, failpoint: str) -> None:
    plan = make_plan(tmp_path / "made", total=1)
    core.start(TAPESTRY_FAILPOINT=failpoint)
    ada, bob = core.running(plan, tmp_path / "made", "ada", "bob")
    with contextlib.suppress(httpx.TransportError):  # it dies in the middle of one or the other
        ada.hand_in(plan, 0.5)
        bob.hand_in(plan, 0.25)
    assert core.process is not None
    core.process.join(30)
    assert core.process.exitcode == -9
    shutil.rmtree(core.root / "cache")
    core.start()
    for member, value in ((ada, 0.5), (bob, 0.25)):
        member.hand_in(plan, value)
    assert ada.wait(lambda v: v.status == "finished").head.merges == 1


def test_the_worker_gets_its_inputs_only_by_staging(core: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made", total=1)
    core.start()
    ada, bob = core.running(plan, tmp_path / "made", "ada", "bob")
    for member, value in ((ada, 0.5), (bob, 0.25)):
        member.hand_in(plan, value)
    state = ada.wait(lambda v: v.status == "finished").head.state
    assert core.stop() == 0
    shutil.rmtree(core.root / "cache")
    with Core.open(core.root) as opened:
        store = opened.store
        assert isinstance(store, TieredStore)
        record = corehome.records(opened, "run")[0]
        job = MergeJob(
            run="run",
            model=plan.model,
            layout=plan.layout,
            state=record.before,
            merge=plan.merge,
            contributions=record.merged,
            durable=True,
        )
        with Replayer(store.root, threads=1, log_path=tmp_path / "replay.log") as replayer:
            with pytest.raises(NotFound):
                replayer.merge(job)
            replay = staged(replayer, store)
            assert isinstance(replay, Staged)
            base = Artifact.from_bytes(store.read(State.from_bytes(store.read(record.before)).base))
            store.fetch(base.shards[0].sha256).write_bytes(b"damaged")  # the worker finds and removes it
            with pytest.raises(HashMismatch, match="removed"):
                replay.merge(job)
            assert replay.merge(job).state == state
            for path in sorted(store.root.glob("??/*")):
                path.unlink()
            replay.screen(record.merged[0].delta, plan.layout)
            assert staged(replayer, BlobStore.open(tmp_path / "plain")) is replayer


def test_settings_of_an_object_store(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "core"
    made = settings.make(
        port=0,
        blobs=s3.bucket(),
        object_store={"endpoint": s3.url, "region": "eu-west-1", "cache_bytes": 1 << 20},
    )
    with pytest.raises(SettingsError, match="no credentials") as caught:
        operator.init(root, made)
    assert "object_store.toml" in str(caught.value.hint)
    keys = write_keys(root, 0o640)
    with pytest.raises(SettingsError, match="others may read"):
        operator.init(root, made)
    keys.chmod(0o600)
    for text in ("AWS_ACCESS_KEY_ID = secret", "AWS_ACCESS_KEY_ID = 1"):
        keys.write_text(text)
        with pytest.raises(SettingsError, match=r"object_store\.toml") as caught:
            operator.init(root, made)
        assert "secret" not in caught.value.message
    write_keys(root)
    operator.init(root, made)
    assert settings.load(Home(root)) == made
    for value in KEYS.values():
        assert f'"{value}"' not in (root / "core.toml").read_text()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")  # the environment wins
    with Core.open(root) as opened:
        opened.store.check()
    write_keys(tmp_path / "second")
    missing = settings.make(blobs="s3://nobody-made-this", object_store={"endpoint": s3.url})
    with pytest.raises(StoreError, match="no such bucket"):
        operator.init(tmp_path / "second", missing)
    with pytest.raises(SettingsError, match="not supported"):
        operator.init(tmp_path / "third", settings.make(blobs="ftp://x/y"))
