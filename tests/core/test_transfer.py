"""Blobs over HTTP: parts, resumption, limits, damage, speed of long polls, memory."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from tapestry.core.api import GATHER_S
from tapestry.host.processes import anonymous_bytes
from tapestry.protocol import canonical
from tapestry.protocol.views import RunView
from tapestry.storage.blobs import BlobStore
from tests.core.support import CoreUnderTest, code, make_plan

MIB = 1 << 20


def test_parts_offsets_and_ranges(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    data = os.urandom(3 * MIB)
    sha = canonical.sha256(data)
    target = f"/v1/blobs/{sha}?bytes={len(data)}&offset="
    assert ada.ask("POST", "/v1/blobs/missing", canonical.encode({"blobs": [sha]})).json() == {
        "missing": {sha: 0}
    }
    part = ada.ask("PUT", target + "0", data[:MIB], proof_of=sha)
    assert part.json() == {"bytes": 3 * MIB, "offset": MIB, "sha256": sha}
    assert code(ada.ask("GET", f"/v1/blobs/{sha}")) == "not-found"
    wrong = ada.ask("PUT", target + "0", data, proof_of=sha)
    assert (wrong.status_code, code(wrong), wrong.json()["offset"]) == (409, "conflict", MIB)
    assert ada.ask("POST", "/v1/blobs/missing", canonical.encode({"blobs": [sha]})).json() == {
        "missing": {sha: MIB}
    }
    assert ada.ask("PUT", target + str(MIB), data[MIB:], proof_of=sha).json()["offset"] == 3 * MIB
    assert ada.ask("PUT", target + "0", data, proof_of=sha).json()["offset"] == 3 * MIB
    assert ada.ask("POST", "/v1/blobs/missing", canonical.encode({"blobs": [sha]})).json() == {"missing": {}}
    whole = ada.ask("GET", f"/v1/blobs/{sha}")
    assert whole.content == data and whole.headers["content-length"] == str(len(data))
    for given, expected in (("5-", data[5:]), ("5-9", data[5:10]), ("0-99999999", data)):
        answer = ada.ask("GET", f"/v1/blobs/{sha}", headers={"Range": f"bytes={given}"})
        assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["content-range"] == f"bytes 0-{len(data) - 1}/{len(data)}"
    assert ada.ask("GET", f"/v1/blobs/{sha}", headers={"Range": f"bytes={len(data)}-"}).status_code == 416
    empty = canonical.sha256(b"")
    assert ada.put(b"").status_code == 200
    assert ada.ask("GET", f"/v1/blobs/{empty}").content == b""


def test_altered_and_oversize_bytes(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    data = os.urandom(MIB)
    sha = canonical.sha256(data)
    altered = ada.put(data[:-1] + b"?" if data[-1:] != b"?" else data[:-1] + b"!", sha=sha)
    assert (altered.status_code, code(altered)) == (400, "hash-mismatch")
    assert ada.ask("POST", "/v1/blobs/missing", canonical.encode({"blobs": [sha]})).json() == {
        "missing": {sha: 0}
    }
    more = ada.put(data + b"more", sha=sha, size=len(data))
    assert (more.status_code, code(more)) == (413, "too-large")
    target = f"/v1/blobs/{sha}?bytes={len(data)}&offset=0"
    proof = ada.proof("PUT", target, sha)
    chunked = ada.http.put(ada.url + target, content=iter([data, data]), headers={"Authorization": proof})
    assert (chunked.status_code, code(chunked)) == (413, "too-large")
    big = ada.ask("PUT", f"/v1/blobs/{sha}?bytes={65 * MIB}&offset=0", b"x", proof_of=sha)
    assert code(big) == "too-large"
    kept = ada.put(data).json()["offset"]  # what came up to the cap is kept
    assert ada.put(data, offset=kept).json()["offset"] == len(data)
    for target in (f"/v1/blobs/{sha}", f"/v1/blobs/{sha}?bytes=x", "/v1/blobs/xyz?bytes=1"):
        assert code(ada.ask("PUT", target, b"x", proof_of=sha)) in ("format", "not-found")
    stranger = serving.member("stranger", join=False)
    assert code(stranger.put(b"junk")) == "unknown-member"


def test_a_json_body_over_its_cap_is_not_read(serving: CoreUnderTest) -> None:
    host, port = serving.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        assert b" 413 " in sock.recv(200)
    ada = serving.member("ada")
    before = anonymous_bytes(serving.process.pid)  # type: ignore[union-attr]
    answer = ada.http.post(ada.url + "/v1/join", content=(b"x" * MIB for _ in range(3)))
    assert answer.status_code == 413
    assert anonymous_bytes(serving.process.pid) < before + 8 * MIB  # type: ignore[union-attr]


def test_a_broken_upload_goes_on(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    data = os.urandom(4 * MIB)
    sha = canonical.sha256(data)
    target = f"/v1/blobs/{sha}?bytes={len(data)}&offset=0"
    host, port = serving.url.removeprefix("http://").split(":")
    head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    head += f"Authorization: {ada.proof('PUT', target, sha)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode() + data[: 2 * MIB + 77])
        time.sleep(0.3)
    missing = canonical.encode({"blobs": [sha]})
    deadline = time.monotonic() + 10
    while (offset := ada.ask("POST", "/v1/blobs/missing", missing).json()["missing"][sha]) < 2 * MIB + 77:
        assert time.monotonic() < deadline, offset
        time.sleep(0.05)
    assert offset == 2 * MIB + 77
    assert ada.put(data, offset=offset).json()["offset"] == len(data)
    # a connection that hangs does not keep its successor out
    other = os.urandom(MIB)
    sha = canonical.sha256(other)
    target = f"/v1/blobs/{sha}?bytes={len(other)}&offset=0"
    head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(other)}\r\n"
    head += f"Authorization: {ada.proof('PUT', target, sha)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode() + other[: MIB // 2])
        time.sleep(0.3)
        answer = ada.put(other)
        if answer.status_code == 409:
            answer = ada.put(other, offset=answer.json()["offset"])
        assert answer.status_code == 200


def test_many_send_the_same_blob_at_once(serving: CoreUnderTest) -> None:
    members = [serving.member(f"m{i}") for i in range(4)]
    data = os.urandom(2 * MIB)
    sha = canonical.sha256(data)
    codes: list[int] = []

    def send(i: int) -> None:
        for _ in range(50):
            missing = (
                members[i]
                .ask("POST", "/v1/blobs/missing", canonical.encode({"blobs": [sha]}))
                .json()["missing"]
            )
            if not missing:
                return
            codes.append(members[i].put(data, offset=missing[sha]).status_code)
            time.sleep(0.01 * i)

    threads = [threading.Thread(target=send, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {200, 400, 409, 503}
    assert members[0].ask("GET", f"/v1/blobs/{sha}").content == data


def test_a_damaged_blob_is_not_sent(serving: CoreUnderTest) -> None:
    ada = serving.member("ada")
    data = os.urandom(MIB)
    ada.put(data)
    sha = canonical.sha256(data)
    serving.stop()
    path = BlobStore.open(serving.root / "blobs").path(sha)
    path.write_bytes(b"?" + data[1:])
    serving.start()
    assert code(ada.ask("GET", f"/v1/blobs/{sha}")) == "not-found"
    assert not path.exists()
    assert ada.put(data).status_code == 200


def test_what_a_node_leaves_unused_is_capped(tmp_path: Path) -> None:
    core = CoreUnderTest(tmp_path / "small", pending_bytes=2 * MIB).start()
    try:
        ada = core.member("ada")
        assert ada.put(os.urandom(MIB)).status_code == 200
        answer = ada.put(os.urandom(MIB))
        assert (answer.status_code, code(answer)) == (422, "refused")
        assert core.member("bob").put(os.urandom(MIB)).status_code == 200
    finally:
        core.close()


def test_long_polls(serving: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made")
    (ada,) = serving.running(plan, tmp_path / "made", "ada")
    seen = ada.view().sequence
    began = time.monotonic()
    assert ada.view(after=seen, wait_s=0.5).sequence == seen
    assert 0.45 < time.monotonic() - began < 3
    views: list[RunView] = []
    waiting = threading.Thread(target=lambda: views.append(ada.view(after=seen, wait_s=20)))
    waiting.start()
    time.sleep(0.3)
    began = time.monotonic()
    bob = serving.member("bob")
    bob.enrol(plan)
    waiting.join(5)
    assert views and views[0].sequence > seen
    assert time.monotonic() - began < 3
    poll = threading.Thread(target=lambda: views.append(ada.view(after=views[0].sequence, wait_s=20)))
    poll.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert serving.stop() == 0
    assert time.monotonic() - began < 5  # nobody waits for the end of a poll
    poll.join(5)
    assert len(views) == 2


def test_a_poll_with_a_gist_gathers_what_does_not_press(serving: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made")
    ada, bob = serving.running(plan, tmp_path / "made", "ada", "bob")
    seen = ada.wait(lambda view: view.current is not None)
    answers: list[tuple[RunView, float]] = []

    def poll(gist: int) -> None:
        answers.append((ada.view(after=seen.sequence, wait_s=20, gist=gist), time.monotonic()))

    waiting = threading.Thread(target=poll, args=(seen.gist_for(ada.node),))
    waiting.start()
    time.sleep(0.2)
    began = time.monotonic()
    bob.hand_in(plan, 1.0)  # of no concern to ada yet
    waiting.join(5)
    told, at = answers.pop()
    assert told.sequence > seen.sequence and at - began > GATHER_S * 0.9  # one answer for all of it
    began = time.monotonic()
    poll(seen.gist_for(ada.node) + 1)
    assert answers.pop()[1] - began < GATHER_S * 0.9  # positive control: another gist is told at once


@pytest.mark.timeout(120)
def test_memory_of_the_core_stays_small(serving: CoreUnderTest, tmp_path: Path) -> None:
    members = [serving.member(f"m{i}") for i in range(4)]
    data = [os.urandom(8 * MIB) for _ in range(4)]

    def work(i: int) -> None:
        for blob in data:
            own = blob[:-8] + i.to_bytes(8, "little")
            assert members[i].put(own).status_code == 200
            assert members[i].ask("GET", f"/v1/blobs/{canonical.sha256(own)}").content == own

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, anonymous_bytes(serving.process.pid))  # type: ignore[union-attr]
        time.sleep(0.02)
    print(f"anonymous memory of the core at most {most / MIB:.0f} MiB")
    assert most < 150_000_000
