"""The resident worker: typed errors, restarts, kills at every failpoint, light import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tapestry.errors import ArtifactError, FormatError, NotFound, ProcessDied
from tapestry.host import failpoints, processes
from tapestry.protocol.artifact import State
from tapestry.replay import client
from tapestry.replay import job as messages
from tapestry.replay.client import Replayer
from tapestry.replay.engine import Engine
from tapestry.storage.blobs import BlobStore
from tests.replay import cases

pytestmark = pytest.mark.long

POINTS = ["replay.shard.written", "replay.shard.written:3", "replay.state.written"]


@pytest.fixture
def replayer(store: BlobStore) -> Iterator[Replayer]:
    with Replayer(store.root) as replayer:
        yield replayer


def test_the_client_loads_no_torch() -> None:
    code = "import sys, tapestry.replay.client; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_merge_and_screen_through_the_worker(store: BlobStore, replayer: Replayer) -> None:
    job = cases.make_case(store, durable=True)
    result = replayer.merge(job)
    assert result.state == Engine(store).merge(job).state
    assert State.from_bytes(store.read(result.state)).base == result.base
    assert result.input_bytes > 0 and result.seconds > 0
    pid = replayer.pid
    replayer.screen(job.contributions[0].delta, job.layout)
    assert replayer.merge(job).state == result.state
    assert replayer.pid == pid, "the worker is resident"


def test_errors_keep_their_type_and_the_worker_lives_on(store: BlobStore, replayer: Replayer) -> None:
    layout = cases.layout_of()
    job = cases.make_case(store, layout)
    values = cases.random_values(layout, 1)
    values["a.scalar"] = np.full((), np.nan, dtype=np.float32)
    evil = cases.put_artifact(store, layout, "delta", values)
    with pytest.raises(ArtifactError, match="shard 0 holds NaN"):
        replayer.screen(evil, layout.digest)
    pid = replayer.pid
    with pytest.raises(NotFound, match="0000"):
        replayer.screen("0" * 64, layout.digest)
    with pytest.raises(FormatError):
        replayer.screen(job.state, layout.digest)
    store.delete(job.contributions[1].delta)
    with pytest.raises(NotFound, match="delta of node node01") as caught:
        replayer.merge(job)
    assert type(caught.value) is NotFound
    assert replayer.pid == pid


def test_no_blob_folder_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Replayer(tmp_path / "file" / "blobs", log_path=tmp_path / "log") as replayer:
        for _ in range(2):
            with pytest.raises(Exception) as caught:
                replayer.screen("0" * 64, "0" * 64)
            assert caught.type is not ProcessDied and hasattr(caught.value, "code")
            assert replayer.pid is None


def test_a_killed_worker_is_started_again(store: BlobStore, replayer: Replayer) -> None:
    job = cases.make_case(store)
    first = replayer.merge(job)
    assert replayer.pid is not None
    os.kill(replayer.pid, signal.SIGKILL)
    assert replayer.merge(job).state == first.state


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_failpoint_and_repeated(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Dies once in the middle; the client repeats by itself, and the bytes are those of a calm merge."""
    job = cases.make_case(store)
    calm = BlobStore.open(tmp_path / "calm" / "blobs")
    expected = Engine(calm).merge(cases.make_case(calm))
    once = tmp_path / "once"
    monkeypatch.setenv(failpoints.VARIABLE, point)
    monkeypatch.setenv(failpoints.ONCE_VARIABLE, str(once))
    with Replayer(store.root) as replayer:
        result = replayer.merge(job)
    assert once.exists(), "it did die"
    assert (result.state, result.base, result.outer) == (expected.state, expected.base, expected.outer)
    assert cases.all_blobs(store) == cases.all_blobs(calm)


def test_a_worker_that_always_dies_is_given_up(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = cases.make_case(store)
    monkeypatch.setenv(failpoints.VARIABLE, "replay.state.written")
    with Replayer(store.root) as replayer, pytest.raises(ProcessDied, match=r"5 times.*signal 9"):
        replayer.merge(job)
    monkeypatch.delenv(failpoints.VARIABLE)
    with Replayer(store.root) as replayer:
        assert replayer.merge(job).state == Engine(store).merge(job).state


def test_the_state_is_the_last_thing_written(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = cases.make_case(store)
    result = Engine(store).merge(job)
    for sha in (result.state, result.base, result.outer):
        assert sha is not None
        store.delete(sha)
    monkeypatch.setenv(failpoints.VARIABLE, "replay.shard.written")
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    with Replayer(store.root) as replayer, pytest.raises(ProcessDied):
        replayer.merge(job)
    assert not store.has(result.state) and not store.has(result.base)


def test_requests_of_several_threads(store: BlobStore, replayer: Replayer) -> None:
    job = cases.make_case(store)
    expected = Engine(store).merge(job).state
    states: list[str] = []

    def ask() -> None:
        for _ in range(3):
            replayer.screen(job.contributions[0].delta, job.layout)
            states.append(replayer.merge(job).state)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == [expected] * 12


def test_the_worker_outlives_the_thread_that_started_it(store: BlobStore, replayer: Replayer) -> None:
    thread = threading.Thread(target=replayer.start)
    thread.start()
    thread.join()
    pid = replayer.pid
    job = cases.make_case(store)
    replayer.merge(job)
    assert replayer.pid == pid


def test_close_ends_the_worker_and_a_request_in_flight(store: BlobStore) -> None:
    layout = cases.layout_of({"a": (40_000, 100)}, shard_bytes=4096)
    job = cases.make_case(store, layout, count=1)
    replayer = Replayer(store.root)
    replayer.start()
    pid = replayer.pid
    assert pid is not None
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            replayer.merge(job)
        except ProcessDied as e:
            errors.append(e)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    replayer.close()
    thread.join(20)
    assert len(errors) == 1 and "closed" in str(errors[0])
    assert not processes.pid_alive(pid)
    with pytest.raises(ProcessDied, match="closed"):
        replayer.screen("0" * 64, "0" * 64)
    replayer.close()


# -- the worker as a program ---------------------------------------------------------------------------


def start_worker(store: BlobStore) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tapestry.replay", str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_the_worker_ends_with_its_input_and_has_no_network(store: BlobStore) -> None:
    with start_worker(store) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        ready = messages.Ready.from_bytes(worker.stdout.readline()[:-1])
        mine, its = (Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", worker.pid))
        assert (mine != its) == (ready.isolation == "netns")
        for line in (b"", b"[]", b'{"format":"x"}', b"{", b'{"format":"tapestry.merge-job"}'):
            worker.stdin.write(line + b"\n")
            worker.stdin.flush()
            failure = messages.Failure.from_bytes(worker.stdout.readline()[:-1])
            assert failure.code in ("format", "version")
        worker.stdin.close()
        assert worker.wait(20) == 0


def test_the_worker_dies_with_its_parent(store: BlobStore, tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from tapestry.replay.client import Replayer\n"
        "r = Replayer(sys.argv[1]); r.start(); print(r.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while processes.pid_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes.pid_alive(pid)


def test_memory_is_bounded(store: BlobStore) -> None:
    """300 MB of model and 8 contributions of as much: below 600 MB of the worker's own memory."""
    layout = cases.layout_of({f"layer{i}": (1024, 1024, 3) for i in range(25)}, shard_bytes=8 << 20)
    rng = np.random.default_rng(0)

    def values() -> cases.Values:
        return {t.name: rng.standard_normal(t.shape, dtype=np.float32) for t in layout.tensors}

    state = cases.put_state(store, layout, values())
    deltas = [cases.put_artifact(store, layout, "delta", values()) for _ in range(2)] * 4
    job = cases.job_of(store, layout, state, deltas)
    with Replayer(store.root) as replayer:
        replayer.start()
        assert replayer.pid is not None
        idle = peak = processes.anonymous_bytes(replayer.pid)
        done = threading.Event()

        def watch(pid: int) -> None:
            nonlocal peak
            while not done.wait(0.005):
                peak = max(peak, processes.anonymous_bytes(pid))

        watcher = threading.Thread(target=watch, args=(replayer.pid,))
        watcher.start()
        try:
            replayer.merge(job)
        finally:
            done.set()
            watcher.join()
    assert peak < 600e6
    assert peak - idle > 4 * (8 << 20), "the buffers were counted"
