"""Chat templates: how a talk becomes the tokens a model is tuned on, and which of them it learns to give.

A template is Jinja, rendered by transformers in Jinja's sandbox: it can neither reach the system nor change
what it is given. The text of an example is never taken for a special token of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.errors import CorpusError, RecipeError, TapestryError
from tapestry.host import files
from tapestry.sovereign.recipe import PLAIN
from tapestry.training.examples import Example, Turn

MAX_BYTES: Final = 1 << 20
OWN: Final = """\
{%- for message in messages -%}
{{ '### ' + message['role'] + '\\n' + message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### assistant\\n' }}{%- endif -%}
"""
"""For a base that has none. Roles are words, so that it fits every tokenizer."""
PROBE: Final = (Turn("user", "Quis?"), Turn("assistant", "Ego."), Turn("user", "Ubi?"))
"""A talk that every template has to render."""


@dataclass(frozen=True)
class Told:
    """Tokens of one sequence.

    Args:
        ids: all of them.
        learnt: whether the model is to give that one.
    """

    ids: list[int]
    learnt: list[bool]

    @property
    def prompt(self) -> int:
        """Tokens before the first that is learnt."""
        return self.learnt.index(True) if True in self.learnt else len(self.ids)


class Chat:
    """Renders talks with the template of a build.

    Args:
        tokenizer: of transformers; gets the template, so that what is saved has it.
        template: its text, or None: prompt and answer follow each other with nothing between.
        named: what the template is called in errors.
    """

    def __init__(self, tokenizer: Any, template: str | None, named: str) -> None:
        self._tokenizer, self._named = tokenizer, named
        self.template = template
        self._end = str(tokenizer.eos_token)
        self._special = sorted({str(each) for each in tokenizer.all_special_tokens})
        tokenizer.chat_template = template  # with none, what is saved is not to be asked by the base's
        if template is not None:
            self._check()

    @classmethod
    def of(cls, tokenizer: Any, chosen: str, root: Path) -> Chat:
        """Of a recipe's `template`, counted from its folder. Raises `RecipeError`."""
        if tokenizer.eos_token is None:
            raise RecipeError(
                "the base's tokenizer has no end-of-text token, and answers could not be ended",
                hint="state one as eos_token in its tokenizer_config.json",
            )
        if chosen == PLAIN:
            return cls(tokenizer, None, PLAIN)
        if chosen:
            path = (root / Path(chosen).expanduser()).absolute()
            try:
                text = files.read_limited(path, MAX_BYTES).decode()
            except (OSError, ValueError, TapestryError) as e:
                raise RecipeError(
                    f"template {path} cannot be read: {e}",
                    hint='give a .jinja file, "none", or leave template out',
                ) from e
            return cls(tokenizer, text, str(path))
        own = tokenizer.chat_template
        if isinstance(own, str) and own:
            return cls(tokenizer, own, "of the base")
        return cls(tokenizer, OWN, "of Tapestry")

    def render(self, turns: Sequence[Turn], *, answer: bool = False) -> str:
        """The text of a talk; with `answer` up to where the assistant begins to speak.

        Raises `RecipeError`.
        """
        if self.template is None:
            ends = (self._end if turn.role == "assistant" else "" for turn in turns)
            return "".join(turn.content + end for turn, end in zip(turns, ends, strict=True))
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return str(
                self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
            )
        except Exception as e:
            raise self._unfit(f"cannot render a talk: {' '.join(str(e).split())[:200]}") from e

    def answered(self, example: Example, where: str) -> Told:
        """Of an example with one answer: every turn of the assistant is learnt."""
        return self._told((*example.turns, Turn("assistant", example.answers[0])), where)

    def pair(self, example: Example, where: str) -> tuple[Told, Told]:
        """Of a pair: the answer to prefer, then the other; only they are learnt."""
        first, second = (
            self._told((*example.turns, Turn("assistant", each)), where, last=True)
            for each in example.answers
        )
        return first, second

    def _told(self, turns: Sequence[Turn], where: str, *, last: bool = False) -> Told:
        for spelt in (token for token in self._special for turn in turns if token in turn.content):
            raise CorpusError(
                f"{where} spells {spelt!r}, which the tokenizer would take for its special token",
                hint="leave the line out, or write that otherwise",
            )
        spans = self._spans(turns)
        found = self._tokenizer(
            self.render(turns), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        spans = spans[-1:] if last else spans
        learnt = [any(a <= begin < b for a, b in spans) for begin, _ in found["offset_mapping"]]
        return Told(list(found["input_ids"]), learnt)

    def _spans(self, turns: Sequence[Turn]) -> list[tuple[int, int]]:
        """Where in the rendered text what the assistant gives begins and ends, of each of its turns.

        Raises `RecipeError` where the talk up to an answer is no beginning of the talk with it: the model
        would be tuned on other text than it is asked with.
        """
        whole, found = self.render(turns), []
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            before = self.render(turns[:number], answer=True)
            after = self.render(turns[: number + 1]) if number + 1 < len(turns) else whole
            if not after.startswith(before) or not whole.startswith(after):
                raise self._unfit(
                    "renders the talk before an answer otherwise than the beginning of the whole talk"
                )
            found.append((len(before), len(after)))
        return found

    def _check(self) -> None:
        """Raise `RecipeError` for a template that does not fit."""
        answered = (*PROBE[:1], PROBE[1])
        text = self.render(answered)
        for turn in answered:
            if turn.content not in text:
                raise self._unfit(f"leaves out what the {turn.role} says")
        self._spans(answered)
        if not self.render(PROBE, answer=True).startswith(text):
            raise self._unfit("renders a talk of several turns otherwise than its beginning")
        if self.render(PROBE[:1], answer=True) == self.render(PROBE[:1]):
            raise self._unfit("does not say where the assistant begins to speak (add_generation_prompt)")

    def _unfit(self, why: str) -> RecipeError:
        return RecipeError(
            f"the chat template {self._named} does not fit: it {why}",
            hint='name another .jinja file as template, or template = "none" for none',
        )
