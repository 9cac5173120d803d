"""`tapestry chat`: talk to a model in the terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.serve import Adapter, DeviceName, Model, PrecisionName, offline

if TYPE_CHECKING:
    from tapestry.sovereign.serve.engine import Engine

QUIT = ("/quit", "/exit")
NEW = "/new"


def chat(
    model: Model,
    adapter: Adapter = None,
    prompt: Annotated[str | None, typer.Option(help="Answer this and end.")] = None,
    system: Annotated[
        str | None, typer.Option(help="What a model with a chat template is told first.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer; else what the context holds.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 takes the likeliest token always.")
    ] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Draw among the likeliest so far.")] = 0.95,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same answers again, on the same machine.")
    ] = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout; with --prompt.")
    ] = False,
) -> None:
    """Talk to a model in the terminal, or let it answer one prompt. Needs no network.

    A model with a chat template is talked to; a base without one continues what you write. Ctrl-C stops an
    answer, again it ends the program; /new forgets what was said, /quit ends.

    Example: tapestry chat tapestry-demo/model --prompt "The " --max-tokens 100

    tapestry chat ./base --adapter ./build/adapter --system "Answer in Frisian."
    """
    from tapestry.errors import InputError

    if as_json and prompt is None:
        raise InputError(
            "--json needs --prompt", hint='one answer as JSON: tapestry chat MODEL --prompt "…" --json'
        )
    offline()
    from tapestry.sovereign.serve import loading
    from tapestry.sovereign.serve.engine import Engine

    engine = Engine(loading.load(model, adapter, device=device, precision=precision))
    if system is not None and not engine.served.chat:
        raise InputError(
            f"{engine.served.name} has no chat template, so that nothing can be said to it as a system",
            hint="leave --system out: it continues the prompt",
        )
    talk = Talk(engine, system, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    if prompt is not None:
        _once(talk, prompt, as_json=as_json)
    else:
        _repl(talk)


class Talk:
    """A conversation with one model; of a base without a template, single continuations."""

    def __init__(self, engine: Engine, system: str | None, *, max_tokens: int | None, **drawing: Any) -> None:
        self.engine = engine
        self._head = [{"role": "system", "content": system}] if system is not None else []
        self._turns: list[dict[str, str]] = []
        self._max_tokens = max_tokens
        self._drawing = drawing
        self.forgotten = 0
        """Messages that were left out of the newest prompt, as the context does not hold them."""
        self.numbers: dict[str, Any] = {}
        """Of the newest answer."""

    def forget(self) -> None:
        self._turns = []

    def say(self, text: str, cancelled: Callable[[], bool]) -> Iterator[str]:
        """The answer as it comes. Raises `InputError` where the text alone is too long."""
        from tapestry.sovereign.serve.engine import Wanted

        chats = self.engine.served.chat
        prompt = self._encoded(text) if chats else self.engine.encode(text)
        room = self.engine.room(prompt, None)
        wanted = Wanted(
            prompt=prompt,
            max_tokens=min(room, self._max_tokens or room),
            drop_blank=chats,
            **self._drawing,
        )
        made: list[str] = []
        count, finish = 0, None
        for piece in self.engine.answer(wanted, cancelled):
            count += piece.tokens
            finish = piece.finish
            made.append(piece.text)
            yield piece.text
        if chats:
            said = {"role": "assistant", "content": "".join(made)}
            self._turns += [{"role": "user", "content": text}, said]
        self.numbers = {
            "prompt_tokens": len(prompt),
            "completion_tokens": count,
            "finish_reason": finish or "interrupted",
        }

    def _encoded(self, text: str) -> tuple[int, ...]:
        """The conversation with a new message; its oldest turns are forgotten where the context is full."""
        from tapestry.sovereign.serve.engine import TooLong

        self.forgotten = 0
        while True:
            messages = [*self._head, *self._turns, {"role": "user", "content": text}]
            try:
                prompt = self.engine.encode_chat(messages)
                self.engine.room(prompt, None)
                return prompt
            except TooLong:
                if not self._turns:
                    raise
                self._turns = self._turns[2:]
                self.forgotten += 2


def _once(talk: Talk, prompt: str, *, as_json: bool) -> None:
    from tapestry.cli.output import emit_json

    pieces = []
    for text in talk.say(prompt, lambda: False):
        pieces.append(text)
        if not as_json:
            _write(text)
    served = talk.engine.served
    if as_json:
        emit_json(
            {
                "model": served.name,
                "chat": served.chat,
                "prompt": prompt,
                "answer": "".join(pieces),
                **talk.numbers,
            }
        )
    else:
        _write("\n")


def _repl(talk: Talk) -> None:
    from tapestry.cli.failures import print_error
    from tapestry.cli.output import messages, note
    from tapestry.errors import InputError

    served = talk.engine.served
    out = messages()
    out.print(
        f"{served.name}: {served.parameters:,} parameters, {served.context} tokens of context", style="bold"
    )
    if not served.chat:
        note("this model has no chat template: it is a base, and continues what you write")
    note("Ctrl-C stops an answer, again it ends; /new forgets what was said, /quit ends")
    while (text := _read()) is not None:
        if text.strip() in QUIT:
            return
        if text.strip() == NEW:
            talk.forget()
            note("forgotten")
        elif text:
            try:
                with _interruptible() as cancelled:
                    for piece in talk.say(text, cancelled):
                        _write(piece)
            except InputError as error:
                print_error(error.message, error.hint)
                continue
            _write("\n")
            if talk.forgotten:
                note(f"({talk.forgotten} older messages did not fit into the context and were left out)")
            if talk.numbers["finish_reason"] == "interrupted":
                note("(stopped)")


def _read() -> str | None:
    """A line from stdin; None at its end."""
    if sys.stdin.isatty():
        try:
            return input("> ")
        except EOFError:
            return None
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """While it lasts the first Ctrl-C only makes what is given true; the second is as anywhere."""
    interrupted = False

    def note_it(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    before = signal.signal(signal.SIGINT, note_it)
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _write(text: str) -> None:
    """What a model says, at once; a control character is shown, not obeyed by the terminal."""
    shown = text
    if sys.stdout.isatty():
        shown = "".join(
            char if char in "\n\t" or char.isprintable() else f"\\x{ord(char):02x}" for char in text
        )
    sys.stdout.write(shown)
    sys.stdout.flush()
