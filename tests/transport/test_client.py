from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import (
    AuthError,
    Conflict,
    FormatError,
    NotFound,
    PeerError,
    SettingsError,
    TooLarge,
    Unreachable,
    VersionError,
)
from tapestry.protocol import canonical
from tapestry.transport.client import CoreClient
from tapestry.transport.core_time import CoreClock
from tapestry.transport.patience import Pauses, patiently
from tests.transport.stub import CONSORTIUM, KEY, TIME, StubCore, proof_of

# -- signatures and time ------------------------------------------------------------------------


def test_each_request_is_signed_over_what_is_sent(core: StubCore, client: CoreClient) -> None:
    core.answers["/v1/members"] = lambda: (200, {}, b'{"members":[]}')
    assert client.members() == {"members": []}
    client.missing(["0" * 64])
    signed = [(m, t, proof_of(h)) for m, t, h in core.requests if "authorization" in h]
    assert [(p.method, p.target) for _, _, p in signed] == [(m, t) for m, t, _ in signed]
    assert [p.consortium for *_, p in signed] == [CONSORTIUM] * 2
    assert signed[0][2].body == canonical.sha256(b"")
    assert signed[1][2].body == canonical.sha256(canonical.encode({"blobs": ["0" * 64]}))


def test_the_target_is_signed_as_it_is_sent(core: StubCore, client: CoreClient) -> None:
    with pytest.raises(NotFound):
        client.run("a/../b?c d", after=3, wait_s=0.5)
    method, _, headers = core.requests[-1]
    assert method == "GET"
    assert proof_of(headers).target == "/v1/runs/a%2F..%2Fb%3Fc%20d?after=3&wait_s=0.5"


@pytest.mark.parametrize("wrong_s", [-3e8, 0, 3e8])
def test_a_wrong_local_clock_changes_nothing(
    core: StubCore, client: CoreClient, monkeypatch: pytest.MonkeyPatch, wrong_s: float
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + wrong_s)
    core.answers["/v1/members"] = lambda: (200, {}, b"{}")
    client.members()
    at = proof_of(core.requests[-1][2]).at
    assert TIME <= at < "2026-05-01T12:00:05.000Z"


def test_time_goes_on_between_answers() -> None:
    now = [100.0]
    clock = CoreClock(lambda: now[0])
    with pytest.raises(Unreachable):
        clock.now()
    clock.set("2026-05-01T12:00:00.000Z")
    now[0] += 61.5
    assert clock.now() == "2026-05-01T12:01:01.500Z"
    clock.set("yesterday")
    assert clock.now() == "2026-05-01T12:01:01.500Z"


def test_a_request_refused_for_its_time_is_signed_anew(core: StubCore, client: CoreClient) -> None:
    client.hello()
    core.time = "2026-05-02T12:00:00.000Z"
    seen: list[str] = []

    def answer() -> Any:
        seen.append(proof_of(core.requests[-1][2]).at)
        if seen[-1] < core.time:
            error = {"error": {"code": "signature", "hint": None, "message": "wrong time"}}
            return 401, {}, canonical.encode(error)
        return 200, {}, b"{}"

    core.answers["/v1/members"] = answer
    assert client.members() == {}
    assert len(seen) == 2


def test_without_a_key_nothing_signed_is_sent(core: StubCore) -> None:
    with CoreClient(core.url, None, None) as client:
        assert client.hello().consortium == CONSORTIUM
        with pytest.raises(SettingsError, match="key"):
            client.members()
    assert [t for _, t, _ in core.requests] == ["/v1/hello"] * len(core.requests)


def test_another_consortium_is_found_out(core: StubCore) -> None:
    with CoreClient(core.url, "e" * 64, KEY) as client, pytest.raises(AuthError, match="consortium"):
        client.members()


# -- answers ------------------------------------------------------------------------------------


def test_errors_are_typed(core: StubCore, client: CoreClient) -> None:
    for status, code, kind in (
        (409, "conflict", Conflict),
        (400, "version", VersionError),
        (401, "key", AuthError),
        (418, "unheard-of", PeerError),
        (503, "disk-full", Unreachable),
        (500, "error", Unreachable),
    ):
        body = canonical.encode({"error": {"code": code, "hint": "do this", "message": "it is so"}})
        core.answers["/v1/members"] = lambda status=status, body=body: (status, {}, body)
        with pytest.raises(kind, match="it is so") as caught:
            client.members()
        assert caught.value.hint == "do this"
    core.answers["/v1/members"] = lambda: (502, {}, b"<html>bad gateway</html>")
    with pytest.raises(Unreachable, match="502"):
        client.members()


def test_what_is_no_message_is_refused(core: StubCore, client: CoreClient) -> None:
    for body in (b"{", b'{"a":1, "b":2}', b'{"a":NaN}', b"\xff"):
        core.answers["/v1/members"] = lambda body=body: (200, {}, body)
        with pytest.raises(FormatError):
            client.members()
    core.answers["/v1/runs/r"] = lambda: (200, {}, b'{"format":"tapestry.run-view","version":7}')
    with pytest.raises(VersionError):
        client.run("r")


def test_a_large_answer_is_refused_before_it_is_read(core: StubCore, client: CoreClient) -> None:
    body = b'"' + b"a" * (2 << 20) + b'"'
    core.answers["/v1/runs/r/progress"] = lambda: (200, {}, body)
    from tapestry.protocol.messages import Progress

    before = client.traffic.received_bytes
    with pytest.raises(TooLarge, match=str(len(body))):
        client.progress("r", Progress(round=1, step=1, steps=1))
    assert client.traffic.received_bytes - before < 10_000


def test_a_compressed_answer_is_refused(core: StubCore, client: CoreClient) -> None:
    core.answers["/v1/members"] = lambda: (200, {"content-encoding": "gzip"}, b"x" * 100)
    with pytest.raises(PeerError, match="compressed"):
        client.members()


def test_a_redirect_is_not_followed(core: StubCore, client: CoreClient) -> None:
    core.answers["/v1/members"] = lambda: (307, {"location": "/v1/hello"}, b"")
    client.hello()
    before = len(core.requests)
    client.members()
    assert len(core.requests) == before + 1


def test_missing_blobs_of_a_contribution(core: StubCore, client: CoreClient) -> None:
    lacking = {"error": {"code": "conflict", "hint": None, "message": "m"}, "missing": ["a" * 64]}
    core.answers["/v1/runs/r/contributions"] = lambda: (409, {}, canonical.encode(lacking))
    answer = client.contribute("r", b"{}")
    assert (answer.receipt, answer.missing) == (None, ("a" * 64,))
    core.answers["/v1/runs/r/contributions"] = lambda: (200, {}, b"receipt")
    assert client.contribute("r", b"{}").receipt == b"receipt"
    lacking.pop("missing")
    core.answers["/v1/runs/r/contributions"] = lambda: (409, {}, canonical.encode(lacking))
    with pytest.raises(Conflict):
        client.contribute("r", b"{}")


# -- a core that is away ------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_nobody_there_is_unreachable() -> None:
    with CoreClient(f"http://127.0.0.1:{free_port()}", CONSORTIUM, KEY) as client:
        with pytest.raises(Unreachable, match="cannot be reached") as caught:
            client.members()
        assert "core serve" in (caught.value.hint or "")


def test_a_reset_connection_is_made_anew_once() -> None:
    """The first connection is reset (RST) in the middle; the second is served."""
    listener = socket.create_server(("127.0.0.1", 0))
    body = b'{"members":[]}'
    reset: list[int] = []

    def serve() -> None:
        for number in range(3):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                if number == 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    reset.append(number)
                    continue
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nTapestry-Time: {TIME}\r\n\r\n"
                connection.sendall(head.encode() + body)
                connection.recv(65536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    clock = CoreClock()
    clock.set(TIME)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with CoreClient(url, CONSORTIUM, KEY, core_clock=clock) as client:
        assert client.members() == {"members": []}
    assert reset == [0]
    listener.close()
    thread.join(10)


@pytest.mark.parametrize(
    "url", ["core.example.org", "ftp://x", "http://", "http://a/path", "http://u:p@h", "http://h:99999"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="address"):
        CoreClient(url, None, None)


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for name in ("ca.pem", "absent.pem"):
        with pytest.raises(SettingsError, match=name):
            CoreClient("https://localhost:1", None, None, ca=tmp_path / name)


def test_patience() -> None:
    waits: list[float] = []
    calls = iter([Unreachable("a"), Unreachable("b"), None])

    def action() -> str:
        error = next(calls)
        if error is not None:
            raise error
        return "there"

    assert patiently(action, waiting=lambda e, s: waits.append(s), sleep=lambda s: None) == "there"
    assert 0.1 <= waits[0] <= 0.2 <= waits[1] <= 0.4

    def away() -> None:
        raise Unreachable("away")

    with pytest.raises(Unreachable):
        patiently(away, give_up_s=0.0, sleep=lambda s: None)
    with pytest.raises(NotFound):
        patiently(lambda: (_ for _ in ()).throw(NotFound("x")))


def test_pauses_double_up_to_the_longest() -> None:
    pauses = Pauses(first_s=1, most_s=4)
    drawn = [pauses.next() for _ in range(5)]
    for pause, most in zip(drawn, (1, 2, 4, 4, 4), strict=True):
        assert most / 2 <= pause <= most
    pauses.reset()
    assert pauses.next() <= 1


# -- pledges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moves", "total"), [(False, 1 << 17), (True, 1 << 10)])
def test_a_list_of_pledges_has_an_end(core: StubCore, client: CoreClient, moves: bool, total: int) -> None:
    """Whatever a core says: too many are none, and a list that changes is asked for anew."""
    asked: list[int] = []

    def page() -> tuple[int, dict[str, str], bytes]:
        asked.append(1)
        if len(asked) > 20:
            return 404, {}, b"{}"
        sequence = len(asked) if moves else 1
        return 200, {}, canonical.encode({"pledges": [{}], "sequence": sequence, "total": total})

    core.answers["/v1/pledges"] = page
    if moves:
        assert client.pledges()[1] is None
    else:
        with pytest.raises(FormatError, match="list of pledges is not one"):
            client.pledges()
    assert len(asked) <= 2
