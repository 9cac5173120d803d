"""What the endpoint keeps away: too many requests, other sites, other machines; and what it does not tell."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tapestry.errors import InputError, PortInUse
from tapestry.host import files
from tapestry.sovereign.serve import gate
from tapestry.sovereign.serve.engine import Engine
from tapestry.sovereign.serve.server import Where, serve
from tests.sovereign.served import Running, client_of, running

# -- the line -----------------------------------------------------------------------------------------


@contextmanager
def held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Steps of the engine wait until the event is set."""
    go = threading.Event()
    step = engine._step

    def slow(*arguments: Any) -> Any:
        go.wait(30)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_step", slow)
        try:
            yield go
        finally:
            go.set()


def until(said: Any, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begin(up: Running, **more: Any) -> socket.socket:
    """Send a request for a completion, and do not read its answer."""
    where = urlsplit(up.url)
    sock = socket.create_connection((where.hostname, where.port))
    body = json.dumps({"model": "small", "prompt": "The ", "max_tokens": 200, **more}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return sock


def test_beyond_the_line_clients_are_told_when_to_come_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(engine, waiting=1) as up, held(engine, monkeypatch) as go, client_of(up) as client:
        first, second = begin(up), begin(up)
        until(lambda: refused(client))
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="small", prompt="x")
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        go.set()
        for sock in (first, second):
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert answer.status == 200
            assert json.loads(answer.read())["choices"][0]["text"]
            sock.close()
        assert client.completions.create(model="small", prompt="x").choices


def refused(client: openai.OpenAI) -> bool:
    try:
        client.with_options(timeout=0.5).completions.create(model="small", prompt="x", max_tokens=1)
    except openai.RateLimitError:
        return True
    except openai.APITimeoutError:
        pass
    return False


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_made_for_a_client_that_is_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    steps = []
    step = engine._step

    def counted(*arguments: Any) -> Any:
        steps.append(1)
        time.sleep(0.02)
        return step(*arguments)

    with running(engine) as up:
        monkeypatch.setattr(engine, "_step", counted)
        monkeypatch.setattr("tapestry.sovereign.serve.engine.draw", lambda *_: ord("a"))
        sock = begin(up, stream=stream)
        until(lambda: len(steps) > 2)
        sock.close()
        until(lambda: any(event == "answer" for event, _ in up.told))
        done = len(steps)
        time.sleep(0.2)
        assert len(steps) == done < 150
        assert up.told[-1][1]["outcome"] == "client gone"


def test_told_to_stop_it_ends_what_it_has_begun(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(engine) as up, held(engine, monkeypatch) as go:
        sock = begin(up, max_tokens=5)
        until(lambda: engine_works(up))
        up.stop.set()
        time.sleep(0.1)
        go.set()
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert (answer.status, bool(json.loads(answer.read())["choices"])) == (200, True)
        sock.close()


def engine_works(up: Running) -> bool:
    return any(thread.name.startswith("engine") for thread in threading.enumerate())


# -- who may ask --------------------------------------------------------------------------------------

BODY = {"model": "small", "prompt": "x", "max_tokens": 1}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:8000"},
        {"Host": "localhost.attacker.example"},
        {"Host": "127.0.0.1@attacker.example"},
        {"Host": "0.0.0.0"},
        {"Host": ""},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_a_page_of_another_site_gets_nothing(
    up: Running, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = httpx.post(f"{up.url}/v1/completions", json=BODY, headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert answer.json()["error"]["type"] == "permission_error"
    monkeypatch.setattr(gate.Gate, "_refused", lambda *_: None)
    assert httpx.post(f"{up.url}/v1/completions", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1", "127.0.0.1:8000", "[::1]:9", "LOCALHOST"]
)
def test_this_machine_may_call_it_by_any_name_of_its_own(up: Running, host: str) -> None:
    assert httpx.get(f"{up.url}/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_what_a_page_may_send_without_asking_is_refused(up: Running, kind: str) -> None:
    """Of these types a browser sends a body to any site; JSON it asks about first, and gets no leave."""
    body = json.dumps(BODY).encode()
    answer = httpx.post(f"{up.url}/v1/completions", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    asked = httpx.options(f"{up.url}/v1/completions", headers={"Access-Control-Request-Method": "POST"})
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_a_token_is_asked_for(engine: Engine) -> None:
    token = "0123456789abcdef-token"
    with running(engine, token=token) as up:
        for wrong in ("", "Bearer", f"Basic {token}", f"Bearer {token}x", "Bearer " + token[:-1]):
            answer = httpx.get(f"{up.url}/v1/models", headers={"Authorization": wrong} if wrong else {})
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"
        with client_of(up, api_key=token) as client:
            assert client.models.list().data
        with client_of(up) as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_beyond_loopback_it_listens_with_a_token_only(engine: Engine, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(InputError, match="can be reached from other machines"):
            serve(engine, Where(host=host, port=0), waiting=1, ready=print, tell=print)
    Where(host="0.0.0.0", token="x" * 16).check()
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        gate.read_token(path)
    path.chmod(0o600)
    assert gate.read_token(path) == "0123456789abcdef"
    path.write_text("short")
    with pytest.raises(InputError, match="at least 16"):
        gate.read_token(path)
    with pytest.raises(InputError, match="cannot read"):
        gate.read_token(tmp_path / "none")


def test_a_port_in_use_is_named(engine: Engine, up: Running) -> None:
    port = urlsplit(up.url).port
    assert port is not None
    with pytest.raises(PortInUse, match=str(port)):
        serve(engine, Where(port=port), waiting=1, ready=print, tell=print)


def test_it_has_no_other_pages(up: Running) -> None:
    for path in ("/", "/docs", "/redoc", "/openapi.json", "/v1", "/metrics", "/v1/embeddings", "/v1/files"):
        answer = httpx.get(up.url + path)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "html" not in answer.headers["content-type"]


# -- what is told -------------------------------------------------------------------------------------

MARK = "Ravelry-7731"


def test_no_prompt_and_no_answer_is_told(
    up: Running, client: openai.OpenAI, engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    up.told.clear()
    said = client.completions.create(model="small", prompt=MARK, temperature=0, max_tokens=30)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="small", prompt=MARK, extra_body={MARK: MARK})

    def fails(*_: Any) -> Any:
        raise RuntimeError(f"cannot do {MARK}")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_step", fails)
        for stream in (True, False):
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model="small", prompt=MARK, stream=stream)
            assert MARK not in str(caught.value)
    files.wait_for(lambda: len(up.told) >= 5, timeout_s=20)  # told of an answer that was sent
    text = repr(up.told) + "".join(capfd.readouterr())
    assert [event for event, _ in up.told] == ["answer", "unexpected", "answer", "unexpected", "answer"]
    assert Path(__file__).name in text
    assert MARK not in text
    assert said.choices[0].text not in text


def test_a_fault_in_the_middle_of_a_stream_is_an_event(
    client: openai.OpenAI, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(3))
    step = engine._step

    def fails(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise RuntimeError("no more")
        return step(*arguments)

    monkeypatch.setattr(engine, "_step", fails)
    monkeypatch.setattr("tapestry.sovereign.serve.engine.draw", lambda *_: ord("a"))
    texts = []
    with pytest.raises(openai.APIError, match="the endpoint failed"):
        for event in client.completions.create(model="small", prompt="x", stream=True, max_tokens=9):
            texts.append(event.choices[0].text)
    assert texts == ["a", "a", "a"]
