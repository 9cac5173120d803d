"""Requests as OpenAI's API has them: bounded before they are parsed, closed, and strict.

What this endpoint does not do is refused by name; nothing is ignored that would change an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry.errors import InputError, TooLarge

MAX_BODY_BYTES: Final = 1 << 20
MAX_VALUES: Final = 1 << 16
"""Commas and brackets outside of strings: two bytes of JSON can stand for a hundred in memory."""
MAX_DEPTH: Final = 8
MAX_MESSAGES: Final = 512
MAX_PARTS: Final = 64
MAX_PROMPTS: Final = 8
MAX_ANSWERS: Final = 8
"""Of one request: prompts times n."""
MAX_STOPS: Final = 4
MAX_STOP_CHARACTERS: Final = 256
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[{]|[\]}]")


class BadRequest(InputError):
    """A request that is wrong in itself; `param` is the field."""

    code = "bad-request"

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


# -- JSON ---------------------------------------------------------------------------------------------


def read_json(data: bytes) -> dict[str, Any]:
    """The object in a body. Raises `TooLarge`, `BadRequest`."""
    if len(data) > MAX_BODY_BYTES:
        raise TooLarge(f"the body has {len(data)} bytes; at most {MAX_BODY_BYTES} are allowed")
    _check_shape(_STRING.sub(b'""', data))
    try:
        value = _DECODE(data.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise BadRequest("the body is not UTF-8") from e
    except json.JSONDecodeError as e:
        raise BadRequest(f"the body is not JSON: {e.msg} at character {e.pos}") from e
    except (ValueError, RecursionError) as e:
        raise BadRequest("the body holds a number that is too long") from e
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def _check_shape(bare: bytes) -> None:
    """Args: a body whose strings are empty."""
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > MAX_VALUES:
        raise BadRequest(f"the body holds more than the {MAX_VALUES} values allowed")
    depth = 0
    for match in _BRACKET.finditer(bare):
        depth += 1 if match[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise BadRequest("an object in the body names a key twice")
    return value


def _constant(name: str) -> Any:
    raise BadRequest(f"the body holds {name}, which is not a number")


_DECODE: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant).decode

# -- fields -------------------------------------------------------------------------------------------

Count = Annotated[int, Field(ge=1, le=1 << 24)]
Flag = Annotated[bool, Field(strict=True)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Closed):
    include_usage: Flag = False
    include_obfuscation: Flag = False


class TextFormat(_Closed):
    type: Literal["text"]


class Part(_Closed):
    type: Literal["text"]
    text: str


class Message(_Closed):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
    name: Annotated[str, Field(max_length=64)] | None = None
    refusal: None = None

    def plain(self) -> dict[str, str]:
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class _Drawing(_Closed):
    """What both kinds of request have. Fields whose only value is the neutral one are there for clients that
    send it."""

    model: Annotated[str, Field(max_length=200)]
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def usage_in_stream(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Drawing):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    echo: Literal[False] | None = None
    suffix: None = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt


class ChatRequest(_Drawing):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    store: Literal[False] | None = None


_R = TypeVar("_R", CompletionRequest, ChatRequest)


def parse(data: bytes, kind: type[_R]) -> _R:
    """Raises `TooLarge`, `BadRequest`."""
    value = read_json(data)
    try:
        found = kind.model_validate(value)
    except ValidationError as e:
        raise _explained(e) from e
    except RecursionError as e:
        raise BadRequest("the body is nested too deep") from e
    _check_together(found)
    return found


def _check_together(found: CompletionRequest | ChatRequest) -> None:
    if found.stream_options is not None and not found.stream:
        raise BadRequest("stream_options is for streamed answers only", param="stream_options")
    if isinstance(found, CompletionRequest):
        if len(found.prompts) * (found.n or 1) > MAX_ANSWERS:
            raise BadRequest(f"prompts times n may be {MAX_ANSWERS} at most", param="n")
    else:
        if found.top_logprobs is not None and not found.logprobs:
            raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        if None not in (found.max_tokens, found.max_completion_tokens):
            raise BadRequest("give max_completion_tokens or max_tokens, not both", param="max_tokens")


def _explained(error: ValidationError) -> BadRequest:
    """The first fault, without what was sent."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = [str(each) for each in fault["loc"]]
    # Of a union pydantic names the member that was tried; only places and fields are the sender's.
    plain = [each for each in where if re.fullmatch(r"[a-z_]{1,40}|\d{1,6}", each) and each not in _TYPES]
    param = ".".join(plain) or None
    top = where[0][:64] if where else ""
    if fault["type"] == "extra_forbidden" and len(where) == 1:
        return BadRequest(
            f"this endpoint has no parameter {top!a}",
            hint="leave it out; a server for load, such as vLLM, has more",
            param=param,
        )
    if fault["type"] == "missing":
        return BadRequest(f"{param} is missing", param=param)
    return BadRequest(f"{param or 'the body'}: {fault['msg'].lower()}"[:300], param=param)


_TYPES: Final = frozenset({"str", "int", "float", "list", "constrained"})
