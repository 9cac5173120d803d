"""Answers in the shapes of OpenAI's API: whole ones, pieces of a stream, errors."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fastapi import Response

from tapestry.errors import AuthError, Busy, InputError, NotFound, ProtocolError, TapestryError, TooLarge
from tapestry.sovereign.serve.decoding import Vocabulary
from tapestry.sovereign.serve.engine import Choice, Piece, Told, TooLong
from tapestry.sovereign.serve.requests import BadRequest

Kind = Literal["completion", "chat"]
JSON: Final = "application/json"
_OBJECT: Final = {
    "completion": ("cmpl", "text_completion", "text_completion"),
    "chat": ("chatcmpl", "chat.completion", "chat.completion.chunk"),
}


class Closed(ProtocolError):
    """The endpoint takes no more requests: it stops."""

    code = "closed"


class Full(Busy):
    """The line is full; `again_s` is when to try again."""

    code = "full"

    def __init__(self, message: str, *, hint: str | None = None, again_s: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.again_s = again_s


def failure(error: TapestryError, status: int | None = None) -> Response:
    """An error in OpenAI's shape."""
    status = status or _status(error)
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, Full):
        headers["Retry-After"] = str(error.again_s)
    if isinstance(error, Closed):
        headers["Retry-After"] = "5"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(encoded(error_object(error, status)), status, headers, JSON)


def error_object(error: TapestryError, status: int | None = None) -> dict[str, Any]:
    status = status or _status(error)
    message = error.message + (f"; {error.hint}" if error.hint else "")
    return {
        "error": {
            "message": message,
            "type": _type(status),
            "param": error.param if isinstance(error, BadRequest) else None,
            "code": "context_length_exceeded" if isinstance(error, TooLong) else error.code.replace("-", "_"),
        }
    }


def _status(error: TapestryError) -> int:
    for kind, status in (
        (TooLarge, 413),
        (AuthError, 401),
        (NotFound, 404),
        (Full, 429),
        (Closed, 503),
        (Busy, 503),
        (InputError, 400),
    ):
        if isinstance(error, kind):
            return status
    return 500


def _type(status: int) -> str:
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + encoded(value) + b"\n\n"


DONE: Final = b"data: [DONE]\n\n"


@dataclass
class Reply:
    """What all parts of one answer have in common."""

    kind: Kind
    model: str
    vocabulary: Vocabulary
    logprobs: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[list[Piece]], usage: dict[str, int]) -> dict[str, Any]:
        """Args: the pieces of each choice."""
        made = []
        for number, pieces in enumerate(choices):
            text = "".join(piece.text for piece in pieces)
            told = [each for piece in pieces for each in piece.told]
            choice: dict[str, Any] = {"index": number, "finish_reason": pieces[-1].finish}
            choice["logprobs"] = self._logprobs(told, 0) if self.logprobs else None
            if self.kind == "chat":
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            made.append(choice)
        return {**self._head(streamed=False), "choices": made, "usage": usage}

    def begin(self, number: int) -> dict[str, Any] | None:
        """The first event of a choice, where there is one."""
        if self.kind != "chat":
            return None
        delta = {"role": "assistant", "content": ""}
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._head(streamed=True), "choices": [choice]}

    def piece(self, number: int, piece: Piece, offset: int) -> dict[str, Any]:
        """Args: characters of the choice before this piece."""
        choice: dict[str, Any] = {"index": number, "finish_reason": piece.finish}
        choice["logprobs"] = self._logprobs(list(piece.told), offset) if self.logprobs else None
        if self.kind == "chat":
            choice["delta"] = {"content": piece.text} if piece.text else {}
        else:
            choice["text"] = piece.text
        return {**self._head(streamed=True), "choices": [choice]}

    def used(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head(streamed=True), "choices": [], "usage": usage}

    def _head(self, *, streamed: bool) -> dict[str, Any]:
        prefix, whole, chunk = _OBJECT[self.kind]
        return {
            "id": f"{prefix}-{self.id}",
            "object": chunk if streamed else whole,
            "created": self.created,
            "model": self.model,
        }

    # -- probabilities ----------------------------------------------------------------------------

    def _logprobs(self, told: list[Told], offset: int) -> dict[str, Any]:
        if self.kind == "chat":
            content = [
                {**self._one(each.drawn), "top_logprobs": [self._one(like) for like in each.likeliest]}
                for each in told
            ]
            return {"content": content, "refusal": None}
        offsets = []
        for each in told:
            offsets.append(offset)
            offset += len(self._spelled(each.drawn))
        return {
            "tokens": [self._spelled(each.drawn) for each in told],
            "token_logprobs": [each.drawn.logprob for each in told],
            "top_logprobs": [{self._spelled(one): one.logprob for one in each.likeliest} for each in told],
            "text_offset": offsets,
        }

    def _one(self, choice: Choice) -> dict[str, Any]:
        data = self.vocabulary.bytes_of(choice.token)
        return {"token": self._spelled(choice), "logprob": choice.logprob, "bytes": list(data)}

    def _spelled(self, choice: Choice) -> str:
        """A token that is no whole characters is shown by its bytes."""
        data = self.vocabulary.bytes_of(choice.token)
        try:
            return data.decode() if data else f"<{choice.token}>"
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def usage(prompt: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
