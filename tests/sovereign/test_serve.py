"""The endpoint as clients of OpenAI's API use it, and what it keeps away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import LlamaForCausalLM

from tapestry.errors import InputError
from tapestry.sovereign.serve.decoding import Characters
from tapestry.sovereign.serve.engine import Engine, draw
from tapestry.sovereign.serve.loading import load
from tests.sovereign.served import CONTEXT, TEMPLATE, Running, client_of, make, running

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
