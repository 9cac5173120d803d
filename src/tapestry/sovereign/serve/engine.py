"""Tokens, one after the other: prompt into the cache, then draw, feed back, until something ends it.

Drawing happens on the CPU in fp32 from a generator of the answer's own, so that a seed gives the same
answer again on the same machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import torch

from tapestry.errors import Diverged, InputError
from tapestry.sovereign.serve.decoding import Text
from tapestry.sovereign.serve.loading import Served
from tapestry.training.model import first_line

Finish = Literal["stop", "length"]
PREFILL_TOKENS: Final = 512
"""Of a prompt at once: bounds memory, and how long nobody asks whether the answer is still wanted."""
_SEEDS: Final = 1 << 63


class TooLong(InputError):
    """More tokens than the model has places for."""

    code = "context-length"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One answer."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    """0 takes the likeliest token always."""
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """So many likeliest tokens are told of each place; None tells no probabilities."""
    drop_blank: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A token and the natural logarithm of its probability, before temperature."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Told:
    """A token that was drawn, and the likeliest in its place."""

    drawn: Choice
    likeliest: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step adds to an answer."""

    text: str
    tokens: int = 0
    told: tuple[Told, ...] = ()
    finish: Finish | None = None


class Engine:
    """One model. Not for several threads at once."""

    def __init__(self, served: Served) -> None:
        self.served = served

    # -- what is asked, as tokens -----------------------------------------------------------------

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a plain prompt. Raises `TooLong`, `InputError`."""
        self._check_characters(len(prompt))
        try:
            found = self.served.tokenizer(prompt)["input_ids"]
        except Exception as e:
            raise InputError("the tokenizer cannot encode the prompt") from e
        return tuple(found) or (self.served.start,)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Tokens of a conversation, by the model's template; text that spells a control token stays text.

        Raises:
            InputError: there is no template, or it refuses these messages.
            TooLong: see `encode`.
        """
        if not self.served.chat:
            raise InputError(
                f"the model {self.served.name} has no chat template",
                hint="it is a base that continues text: use /v1/completions",
            )
        self._check_characters(sum(len(message["content"]) for message in messages))
        try:
            found = self.served.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, sanitize_control_tokens=True, return_dict=True
            )["input_ids"]
        except Exception as e:
            raise InputError(f"the model's chat template refuses these messages: {_said(e)}") from e
        return tuple(found)

    def room(self, prompt: Sequence[int], max_tokens: int | None) -> int:
        """How many tokens an answer may have. Raises `TooLong`."""
        context = self.served.context
        left = context - len(prompt)
        if left < 1 or (max_tokens is not None and max_tokens > left):
            asked = f" and asks for {max_tokens}" if max_tokens is not None else ""
            raise TooLong(
                f"this model's context length is {context} tokens; the prompt has {len(prompt)}{asked}",
                hint="shorten the prompt, or ask for fewer tokens",
            )
        return left if max_tokens is None else max_tokens

    def check_tokens(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """A prompt given as tokens. Raises `InputError`."""
        size = self.served.module.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if any(not 0 <= token < size for token in prompt):
            raise InputError(f"the prompt holds a token outside of 0 to {size - 1}")
        return tuple(prompt) or (self.served.start,)

    def _check_characters(self, count: int) -> None:
        """No token stands for more characters than the longest; so some text need not be encoded."""
        if count > self.served.context * self._longest:
            context = self.served.context
            raise TooLong(
                f"this model's context length is {context} tokens; the prompt has {count} characters",
                hint="shorten the prompt",
            )

    @cached_property
    def _longest(self) -> int:
        return max((len(token) for token in self.served.tokenizer.get_vocab()), default=1)

    # -- the answer -------------------------------------------------------------------------------

    def answers(
        self, wanted: Wanted, count: int, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Piece]]:
        """`count` answers to one prompt, one after the other, each with its number; the prompt is read once.

        Stops without a word once `cancelled` says so. Raises `Diverged`.
        """
        with torch.inference_mode():
            begun = self._read(wanted.prompt, cancelled)
            if begun is None:
                return
            logits, cache = begun
            for number in range(count):
                own = copy.deepcopy(cache) if number + 1 < count else cache
                for piece in self._answer(wanted, number, logits, own, cancelled):
                    yield number, piece

    def answer(self, wanted: Wanted, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """One answer; see `answers`."""
        for _, piece in self.answers(wanted, 1, cancelled):
            yield piece

    def warm(self) -> None:
        """Let the first answer not pay for what is done once."""
        for _ in self.answer(Wanted(prompt=(self.served.start,), max_tokens=2, temperature=0)):
            pass

    def _read(self, prompt: Sequence[int], cancelled: Callable[[], bool]) -> tuple[torch.Tensor, Any] | None:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.served.module.config)  # type: ignore[arg-type]
        logits = torch.empty(0)
        for start in range(0, len(prompt), PREFILL_TOKENS):
            if cancelled():
                return None
            logits = self._step(prompt[start : start + PREFILL_TOKENS], cache)
        return logits, cache

    def _step(self, tokens: Sequence[int], cache: Any) -> torch.Tensor:
        """Logits, fp32 on the CPU [vocabulary], of what comes after these tokens."""
        ids = torch.tensor([list(tokens)], device=self.served.device)
        out = self.served.module(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = out.logits[0, -1].float().cpu()
        if not bool(torch.isfinite(logits).all()):
            raise Diverged(
                f"the model {self.served.name} gives numbers that are not finite",
                hint="its weights are damaged, or need another --precision",
            )
        return logits

    def _answer(
        self, wanted: Wanted, number: int, logits: torch.Tensor, cache: Any, cancelled: Callable[[], bool]
    ) -> Iterator[Piece]:
        text = Text(wanted.stops, drop_blank=wanted.drop_blank and self.served.vocabulary.blank_first)
        generator = torch.Generator()
        if wanted.seed is None:
            generator.seed()
        else:
            generator.manual_seed((wanted.seed + number) % _SEEDS)
        for made in range(1, wanted.max_tokens + 1):
            if cancelled():
                return
            token = draw(logits, wanted.temperature, wanted.top_p, generator)
            told = () if wanted.top_logprobs is None else (_told(logits, token, wanted.top_logprobs),)
            if token in self.served.ends:
                yield Piece(text.end(), 1, (), "stop")
                return
            given = text.feed(self.served.vocabulary.bytes_of(token))
            if text.stopped:
                yield Piece(given, 1, told, "stop")
                return
            if made == wanted.max_tokens:
                rest = text.end()
                yield Piece(given + rest, 1, told, "stop" if text.stopped else "length")
                return
            yield Piece(given, 1, told)
            logits = self._step((token,), cache)


def draw(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token of [vocabulary].

    Args:
        logits: fp32.
        temperature: 0 takes the likeliest.
        top_p: draw among the likeliest tokens that have this probability together.
        generator: of randomness.
    """
    if temperature <= 0:
        return int(logits.argmax())
    chances = torch.softmax((logits - logits.max()) / temperature, -1)
    if top_p >= 1:
        return int(torch.multinomial(chances, 1, generator=generator))
    ordered, tokens = torch.sort(chances, descending=True, stable=True)
    ordered[torch.cumsum(ordered, -1) - ordered >= top_p] = 0  # the first always stays
    return int(tokens[torch.multinomial(ordered, 1, generator=generator)])


def _told(logits: torch.Tensor, token: int, count: int) -> Told:
    chances = torch.log_softmax(logits, -1)
    best = torch.topk(chances, min(count, chances.numel()))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Told(Choice(token, float(chances[token])), tuple(Choice(each, value) for each, value in likeliest))


def _said(error: Exception) -> str:
    """A template's own words (`raise_exception`); of any other error its kind alone, as it may quote text."""
    return first_line(error) if type(error).__name__ == "TemplateError" else type(error).__name__
