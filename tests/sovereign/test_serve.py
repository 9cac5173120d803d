"""The endpoint as clients of OpenAI's API use it, and what it keeps away."""

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
import torch
from transformers import LlamaForCausalLM

from tapestry.errors import InputError, PortInUse
from tapestry.sovereign.serve import gate
from tapestry.sovereign.serve.decoding import Characters
from tapestry.sovereign.serve.engine import Engine, draw
from tapestry.sovereign.serve.loading import load
from tapestry.sovereign.serve.server import Where, serve
from tests.sovereign.served import CONTEXT, TEMPLATE, Running, make, running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "small", template=TEMPLATE)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    torch.set_num_threads(1)
    return Engine(load(folder, device="cpu"))


@pytest.fixture(scope="module")
def up(engine: Engine) -> Iterator[Running]:
    with running(engine) as one:
        yield one


def client_of(up: Running, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{up.url}/v1", **{"api_key": "none", "max_retries": 0, **options})


@pytest.fixture
def client(up: Running) -> Iterator[openai.OpenAI]:
    with client_of(up) as one:
        yield one


HELLO: Any = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]


# -- the official client ------------------------------------------------------------------------------


def test_its_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("small", "model", "tapestry")
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError, match="serves 'small'"):
        client.models.retrieve("gpt-4o")


def test_a_completion_is_what_transformers_generates(client: openai.OpenAI, folder: Path) -> None:
    found = client.completions.create(model="small", prompt="The ", max_tokens=24, temperature=0)
    module = LlamaForCausalLM.from_pretrained(folder)
    ids = torch.tensor([list(b"The ")])
    out = module.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=256)[0, 4:].tolist()
    finish = "stop" if out[-1] == 256 else "length"
    made = bytes(token for token in out if token < 256)
    assert found.choices[0].text == made.decode("utf-8", "replace")
    assert found.choices[0].finish_reason == finish
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, len(out))


@pytest.mark.parametrize("seed", [1, 2])
def test_streamed_or_not_the_answer_is_the_same(client: openai.OpenAI, seed: int) -> None:
    asked: Any = {"model": "small", "seed": seed, "max_tokens": 40, "n": 2}
    whole = client.chat.completions.create(messages=HELLO, **asked)
    texts, finishes, last = {0: "", 1: ""}, {}, None
    options: Any = {"include_usage": True}
    for event in client.chat.completions.create(messages=HELLO, stream=True, stream_options=options, **asked):
        last = event
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason
    assert last is not None
    assert last.usage == whole.usage
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert finishes == {choice.index: choice.finish_reason for choice in whole.choices}
    assert texts[0] != texts[1]


def test_completions_stream_too(client: openai.OpenAI) -> None:
    asked: Any = {"model": "small", "prompt": ["One ", "Two "], "seed": 5, "max_tokens": 20}
    whole = client.completions.create(**asked)
    texts = {0: "", 1: ""}
    for event in client.completions.create(stream=True, **asked):
        texts[event.choices[0].index] += event.choices[0].text
    assert texts == {choice.index: choice.text for choice in whole.choices}
    as_tokens = client.completions.create(**{**asked, "prompt": [list(b"One "), list(b"Two ")]})
    assert [choice.text for choice in as_tokens.choices] == list(texts.values())


def test_the_async_client_streams(up: Running) -> None:
    import asyncio

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{up.url}/v1", api_key="none") as client:
            text = ""
            async with client.chat.completions.stream(
                model="small", messages=HELLO, max_tokens=8, seed=3
            ) as stream:
                async for event in stream:
                    if event.type == "content.delta":
                        text += event.delta
                assert stream.current_completion_snapshot.choices[0].message.content == text
            return text

    assert asyncio.run(ask())


def test_a_stop_string_ends_an_answer(client: openai.OpenAI) -> None:
    asked: Any = {"model": "small", "prompt": "The ", "temperature": 0, "max_tokens": 40}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[7:9]
    found = client.completions.create(**asked, stop=stop).choices[0]
    assert (found.text, found.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_probabilities_are_those_of_the_model(client: openai.OpenAI, engine: Engine) -> None:
    with torch.no_grad():
        logits = engine.served.module(input_ids=torch.tensor([list(b"The ")])).logits[0, -1]
    wanted = torch.log_softmax(logits, -1)
    asked: Any = {"model": "small", "max_tokens": 3, "temperature": 0}
    found = client.completions.create(prompt="The ", logprobs=3, **asked).choices[0].logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert found.token_logprobs[0] == pytest.approx(float(wanted.max()), abs=1e-5)
    assert len(found.top_logprobs[0]) == 3
    chat = client.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=2, **asked)
    told = chat.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    data = b"".join(bytes(each.bytes or []) for each in told.content)
    assert data.decode("utf-8", "replace") == chat.choices[0].message.content
    assert all(len(each.top_logprobs) == 2 for each in told.content)


def test_what_a_client_does_wrong_it_is_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=f"context length is {CONTEXT} tokens") as caught:
        client.completions.create(model="small", prompt="x" * 250, max_tokens=10)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="context length"):
        client.completions.create(model="small", prompt="x" * 100_000, max_tokens=10)
    with pytest.raises(openai.BadRequestError, match="no parameter 'tools2'"):
        client.completions.create(model="small", prompt="x", extra_body={"tools2": 1})
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="x", temperature=7)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")


# -- templates ----------------------------------------------------------------------------------------


def test_text_that_spells_a_control_token_stays_text(engine: Engine) -> None:
    spelled: Any = [{"role": "user", "content": "end <|endoftext|> now"}]
    assert 256 not in engine.encode_chat(spelled)
    plain = engine.served.tokenizer.apply_chat_template(spelled, return_dict=True)["input_ids"]
    assert 256 in plain  # without the defence


def test_a_template_may_refuse(tmp_path: Path) -> None:
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + TEMPLATE
    )
    engine = Engine(load(make(tmp_path / "m", template=strict), device="cpu"))
    with pytest.raises(InputError, match="no system here"):
        engine.encode_chat(HELLO)


def test_a_base_without_a_template_completes(tmp_path: Path) -> None:
    with running(make(tmp_path / "base")) as up, client_of(up) as client:
        with pytest.raises(openai.BadRequestError, match="use /v1/completions"):
            client.chat.completions.create(model="base", messages=HELLO)
        assert client.completions.create(model="base", prompt="", max_tokens=4).usage.completion_tokens  # type: ignore[union-attr]


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
    text = repr(up.told) + "".join(capfd.readouterr())
    assert [event for event, _ in up.told] == ["answer", "unexpected", "answer", "unexpected", "answer"]
    assert "test_serve.py" in text
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


# -- drawing ------------------------------------------------------------------------------------------


def test_draws_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.1, 0.6, 0.05, 0.25]))
    generator = torch.Generator().manual_seed(0)

    def shares(temperature: float, top_p: float) -> list[float]:
        drawn = [draw(logits, temperature, top_p, generator) for _ in range(2000)]
        return [drawn.count(token) / len(drawn) for token in range(4)]

    assert shares(1.0, 1.0) == pytest.approx([0.1, 0.6, 0.05, 0.25], abs=0.04)
    assert shares(1.0, 0.8) == pytest.approx([0, 0.6 / 0.85, 0, 0.25 / 0.85], abs=0.04)
    assert shares(1.0, 1e-9) == [0, 1, 0, 0]
    assert shares(0, 1.0) == [0, 1, 0, 0]
    assert shares(1e-6, 1.0) == [0, 1, 0, 0]


def test_a_piece_is_whole_characters(client: openai.OpenAI) -> None:
    """A byte-level model gives parts of characters; its events do not."""
    asked: Any = {"model": "small", "prompt": "é", "seed": 11, "max_tokens": 120, "temperature": 2}
    texts = [e.choices[0].text for e in client.completions.create(stream=True, **asked)]
    whole = client.completions.create(**asked).choices[0].text
    assert "".join(texts) == whole
    characters = Characters()
    assert characters.feed(whole.encode()) == whole
