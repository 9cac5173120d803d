"""The endpoint's routes: models, completions, chat completions. No other page, no cookie, no CORS."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from tapestry.errors import NotFound, TapestryError
from tapestry.sovereign.serve import answers, turns
from tapestry.sovereign.serve.answers import JSON, Reply, encoded, failure
from tapestry.sovereign.serve.engine import Engine, Piece, Wanted
from tapestry.sovereign.serve.requests import (
    MAX_BODY_BYTES,
    BadRequest,
    ChatRequest,
    CompletionRequest,
    parse,
)
from tapestry.sovereign.serve.turns import Turns
from tapestry.transport.server import read_body

Tell = Callable[[str, Mapping[str, Any]], None]
"""Told of an event and of numbers that go with it; never of text."""
DEFAULT_TOKENS = 16
"""Of a completion that asks for no number, as OpenAI has it; a chat's answer may fill the context."""
DEFAULT_TEMPERATURE = 1.0


class Endpoint:
    """One served model behind HTTP."""

    def __init__(self, engine: Engine, line: Turns, tell: Tell) -> None:
        self._engine = engine
        self._line = line
        self._tell = tell
        self._began = int(time.time())

    def app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        app.add_exception_handler(TapestryError, _typed)
        app.add_exception_handler(HTTPException, _unrouted)
        app.add_api_route("/v1/models", self.models, methods=["GET"], response_model=None)
        app.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"], response_model=None)
        app.add_api_route("/v1/completions", self.completions, methods=["POST"], response_model=None)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        return app

    async def models(self) -> Response:
        return _json({"object": "list", "data": [self._described()]})

    async def model(self, name: str) -> Response:
        self._check_model(name)
        return _json(self._described())

    async def completions(self, request: Request) -> Response:
        asked = await _asked(request, CompletionRequest)
        self._check_model(asked.model)
        prompts = await asyncio.to_thread(self._prompts, asked.prompts)
        tokens = asked.max_tokens or DEFAULT_TOKENS
        all_wanted = [self._wanted(asked, prompt, tokens, asked.logprobs) for prompt in prompts]
        return self._answer(request, asked, all_wanted, "completion", asked.logprobs is not None)

    async def chat(self, request: Request) -> Response:
        asked = await _asked(request, ChatRequest)
        self._check_model(asked.model)
        messages = [message.plain() for message in asked.messages]
        prompt = await asyncio.to_thread(self._engine.encode_chat, messages)
        told = (asked.top_logprobs or 0) if asked.logprobs else None
        wanted = self._wanted(asked, prompt, asked.max_completion_tokens or asked.max_tokens, told)
        return self._answer(request, asked, [replace(wanted, drop_blank=True)], "chat", bool(asked.logprobs))

    def _prompts(self, prompts: Sequence[str | list[int]]) -> list[tuple[int, ...]]:
        engine = self._engine
        return [engine.encode(p) if isinstance(p, str) else engine.check_tokens(p) for p in prompts]

    def _wanted(
        self,
        asked: ChatRequest | CompletionRequest,
        prompt: tuple[int, ...],
        tokens: int | None,
        told: int | None,
    ) -> Wanted:
        return Wanted(
            prompt=prompt,
            max_tokens=self._engine.room(prompt, tokens),
            temperature=DEFAULT_TEMPERATURE if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=asked.seed,
            stops=asked.stops,
            top_logprobs=told,
        )

    def _answer(
        self,
        request: Request,
        asked: ChatRequest | CompletionRequest,
        wanted: list[Wanted],
        kind: answers.Kind,
        logprobs: bool,
    ) -> Response:
        served = self._engine.served
        reply = Reply(kind=kind, model=served.name, vocabulary=served.vocabulary, logprobs=logprobs)
        return Generated(
            reply,
            self._line,
            wanted,
            asked.n or 1,
            streamed=bool(asked.stream),
            usage=asked.usage_in_stream,
            tell=self._tell,
        )

    def _check_model(self, name: str) -> None:
        if name != self._engine.served.name:
            raise NoModel(f"there is no such model here; this endpoint serves {self._engine.served.name!r}")

    def _described(self) -> dict[str, Any]:
        served = self._engine.served
        return {
            "id": served.name,
            "object": "model",
            "created": self._began,
            "owned_by": "tapestry",
            "max_model_len": served.context,
        }


class NoModel(NotFound):
    code = "model-not-found"


class Generated(Response):
    """Answers, made while they are sent; ended as soon as the client is gone."""

    def __init__(
        self,
        reply: Reply,
        line: Turns,
        wanted: list[Wanted],
        count: int,
        *,
        streamed: bool,
        usage: bool,
        tell: Tell,
    ) -> None:
        super().__init__()
        self._reply = reply
        self._line = line
        self._wanted = wanted
        self._count = count
        self._streamed = streamed
        self._usage = usage
        self._tell = tell
        self._made = 0
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        outcome = "whole"
        try:
            with self._line.place():
                work = self._stream(send) if self._streamed else self._whole(scope, receive, send)
                await _unless_gone(receive, work)
        except ClientDisconnect:
            outcome = "client gone"
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets it in one shape
            outcome = type(error).__name__
            told = turns.unforeseen(error)
            if told is not error:
                self._tell("unexpected", fault(error))
            if not self._started:
                await failure(told)(scope, receive, send)
            else:
                await _body(send, answers.event(answers.error_object(told)) + answers.DONE, more=False)
        prompt = sum(len(each.prompt) for each in self._wanted)
        numbers = {"kind": self._reply.kind, "outcome": outcome, "prompt_tokens": prompt}
        self._tell("answer", {**numbers, "tokens": self._made, "seconds": round(time.monotonic() - began, 3)})

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece]]:
        """Of all choices of all prompts, numbered throughout."""
        for prompt, wanted in enumerate(self._wanted):
            async with contextlib.aclosing(self._line.answers(wanted, self._count)) as found:
                async for number, piece in found:
                    self._made += piece.tokens
                    yield prompt * self._count + number, piece

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        choices: list[list[Piece]] = [[] for _ in range(len(self._wanted) * self._count)]
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for number, piece in pieces:
                choices[number].append(piece)
        self._started = True
        await _json(self._reply.whole(choices, self._used()))(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        offsets: dict[int, int] = {}
        waiting: dict[int, Piece] = {}
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for number, piece in pieces:
                if not self._started:
                    await self._start(send)
                data = b""
                if number not in offsets:
                    offsets[number] = 0
                    if (first := self._reply.begin(number)) is not None:
                        data += answers.event(first)
                # What shows nothing yet (part of a character) goes with what follows.
                piece = _joined(waiting.pop(number, None), piece)
                if piece.text or piece.finish:
                    data += answers.event(self._reply.piece(number, piece, offsets[number]))
                    offsets[number] += len(piece.text)
                else:
                    waiting[number] = piece
                if data:
                    await _body(send, data)
        last = answers.event(self._reply.used(self._used())) if self._usage else b""
        await _body(send, last + answers.DONE, more=False)

    def _used(self) -> dict[str, int]:
        return answers.usage(sum(len(each.prompt) for each in self._wanted), self._made)

    async def _start(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._started = True


def _joined(before: Piece | None, piece: Piece) -> Piece:
    if before is None:
        return piece
    return Piece(
        before.text + piece.text, before.tokens + piece.tokens, before.told + piece.told, piece.finish
    )


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`; ended where the client leaves first. Raises `ClientDisconnect`."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        await task
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(value: Any) -> Response:
    return Response(encoded(value), 200, {"Cache-Control": "no-store"}, JSON)


async def _asked(request: Request, kind: Any) -> Any:
    """Raises `BadRequest`, `TooLarge`."""
    stated = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if stated != JSON:
        raise BadRequest("the request's Content-Type must be application/json")
    if request.query_params:
        raise BadRequest("this path takes no query parameters")
    return parse(await read_body(request, MAX_BODY_BYTES), kind)


async def _typed(_request: Request, error: Exception) -> Response:
    return failure(turns.unforeseen(error))


async def _unrouted(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        answer = failure(BadRequest(f"{request.method[:16]} is not possible on this path"), 405)
        answer.headers.update(error.headers or {})
        return answer
    return failure(
        NotFound(
            "there is nothing at this path",
            hint="this endpoint has /v1/models, /v1/completions and /v1/chat/completions",
        )
    )


def fault(error: BaseException) -> dict[str, Any]:
    """Kind and places of a fault, without its words, which may quote a prompt."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('site-packages/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return {"error": type(error).__name__, "at": places[-12:]}
