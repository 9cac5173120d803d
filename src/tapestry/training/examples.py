"""Examples that a model is tuned on: one JSON object a line, without a `text` of its own.

{"prompt": "…", "completion": "…"}                    an answer to give
{"messages": [{"role": "user", "content": "…"}, …]}   a talk; every turn of the assistant is an answer to give
{"prompt": "…", "chosen": "…", "rejected": "…"}       of two answers, the one to prefer

`prompt` may also be a list of messages. Other fields of a line are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from tapestry.protocol import canonical

Kind = Literal["answer", "pair"]
Role = Literal["system", "user", "assistant"]
ROLES: Final = ("system", "user", "assistant")
SHAPES: Final = (
    'write {"prompt": "…", "completion": "…"}, {"messages": […]} or {"prompt": "…", "chosen": "…", '
    '"rejected": "…"}'
)


class NotAnExample(ValueError):
    """What is wrong with a line, in words."""


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """What is asked, and one answer or, of a pair, two.

    Args:
        turns: all messages before the last answer.
        answers: the answer; of a pair the one to prefer, then the other.
    """

    turns: tuple[Turn, ...]
    answers: tuple[str, ...]
    fields: dict[str, Any]
    """Of the line, those that an example has."""

    @property
    def kind(self) -> Kind:
        return "pair" if len(self.answers) == 2 else "answer"

    @property
    def text(self) -> str:
        """All that it says, a line for each message."""
        return "\n".join((*(turn.content for turn in self.turns), *self.answers))

    @property
    def document(self) -> str:
        """What a card hashes as its text: canonical JSON of its fields."""
        return canonical.encode(self.fields).decode()


def is_example(value: Any) -> bool:
    """Whether a line means to be one."""
    return isinstance(value, dict) and "text" not in value and ("prompt" in value or "messages" in value)


def parse(value: Any) -> Example:
    """Raises `NotAnExample`, naming the field."""
    if not is_example(value):
        raise NotAnExample("neither `prompt` nor `messages`")
    if "messages" in value:
        turns = _turns(value["messages"], "messages")
        if turns[-1].role != "assistant":
            raise NotAnExample("`messages` does not end with a message of the assistant")
        if len(turns) < 2:
            raise NotAnExample("`messages` has an answer and nothing that is asked")
        return Example(turns[:-1], (turns[-1].content,), {"messages": value["messages"]})
    prompt = value["prompt"]
    turns = (Turn("user", _said(prompt, "prompt")),) if isinstance(prompt, str) else _turns(prompt, "prompt")
    if turns[-1].role == "assistant":
        raise NotAnExample("`prompt` ends with a message of the assistant")
    names = ("completion",) if "completion" in value else ("chosen", "rejected")
    if missing := [name for name in names if name not in value]:
        raise NotAnExample(f"no field `{missing[0]}`")
    answers = tuple(_said(value[name], name) for name in names)
    if len(set(answers)) != len(answers):
        raise NotAnExample("`chosen` and `rejected` are the same")
    return Example(turns, answers, {name: value[name] for name in ("prompt", *names)})


def _turns(value: Any, field: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise NotAnExample(f"`{field}` is no list of messages")
    found = []
    for number, each in enumerate(value):
        where = f"{field}[{number}]"
        if not isinstance(each, dict) or set(each) != {"role", "content"}:
            raise NotAnExample(f"`{where}` has not just `role` and `content`")
        if each["role"] not in ROLES:
            raise NotAnExample(f"`{where}` has a role that is none of {', '.join(ROLES)}")
        found.append(Turn(each["role"], _said(each["content"], where)))
    return tuple(found)


def _said(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise NotAnExample(f"`{field}` is no string with something in it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotAnExample(f"`{field}` holds half a surrogate pair") from None
    return value
