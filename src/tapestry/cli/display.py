"""What a run looks like while it goes on, in the demo and in `tapestry run watch`: a live table on a
terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from tapestry.cli.output import human_bytes, human_seconds, messages, note

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Number = TypeVar("Number", int, float)

SPARKS: Final = "▁▂▃▄▅▆▇█"
BAR_WIDTH: Final = 16
WIDE: Final = 118
"""Columns of a terminal that has room for all."""
REFRESH_PER_S: Final = 4
QUIET_S: Final = 20.0
"""Without a terminal, say something at least this often."""


@dataclass(kw_only=True)
class MemberView:
    """One member as it stands now."""

    name: str
    about: str = ""
    phase: str = "starting"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    bytes_sent: int = 0
    bytes_received: int | None = None
    """None where only the node itself knows."""
    trouble: bool = False
    """Whether `phase` says that something is not as it should be."""
    scores: dict[int, float] = field(default_factory=dict)
    """Merges → bits per byte of that shared base on this member's valid text."""


@dataclass(kw_only=True)
class Snapshot:
    """A whole run as it stands now."""

    phase: str
    merges: int
    rounds: int
    parameters: int
    members: list[MemberView]
    waiting_for: str | None = None
    finished: bool = False
    sent_bytes: int = 0
    """Of all updates so far."""
    synchronous_bytes: float = 0.0
    """What synchronous training would have sent for as many steps."""
    left_s: float | None = None
    notes: tuple[str, ...] = ()
    """What else a person should know, such as that the core is gone."""


class Display(Protocol):
    """Takes snapshots and says things."""

    def update(self, snapshot: Snapshot) -> None: ...
    def say(self, text: str) -> None: ...


def spark(values: list[float], width: int = BAR_WIDTH) -> str:
    """A small curve of at most `width` signs; lower is better, so it should fall."""
    if not values:
        return ""
    if len(values) > width:
        values = [values[place * (len(values) - 1) // (width - 1)] for place in range(width)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in values)


def bar(done: int, total: int, width: int = BAR_WIDTH) -> str:
    """━━━━────; also fits a console without colour."""
    filled = min(width, width * done // total) if total else 0
    return "━" * filled + "╌" * (width - filled)


def member_mean(members: list[MemberView], merges: int) -> float | None:
    values = [m.scores[merges] for m in members if merges in m.scores]
    return sum(values) / len(values) if values and len(values) == len(members) else None


def render(snapshot: Snapshot, *, elapsed_s: float, tick: int = 0, width: int = WIDE) -> RenderableType:
    """The live view; on a narrow terminal with fewer columns, so that the rest can be read."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[tick % 10]
    finished = snapshot.finished or snapshot.merges >= snapshot.rounds
    left = "" if snapshot.left_s is None or finished else f"   {human_seconds(snapshot.left_s)} left"
    head = Text.assemble(
        (f"{'✓' if finished else spinner} ", "green"),
        ("round ", "dim"),
        (f"{min(snapshot.merges + 1, snapshot.rounds)}/{snapshot.rounds} ", "bold"),
        (bar(snapshot.merges, snapshot.rounds, 24) + "  ", "green"),
        (snapshot.phase, "cyan"),
        (f"   {snapshot.parameters / 1e6:.2f} M parameters   {human_seconds(elapsed_s)}{left}", "dim"),
    )
    wide = width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=not wide, header_style="dim")
    table.add_column("member", style="bold", no_wrap=True)
    table.add_column("now", no_wrap=True)
    received = wide and any(member.bytes_received is not None for member in snapshot.members)
    more = (*(["tokens/s"] if wide else []), "sent", *(["received"] if received else []))
    for title in ("step", "loss", *more):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("bits per byte", no_wrap=True)
    for member in snapshot.members:
        curve = [member.scores[key] for key in sorted(member.scores)]
        table.add_row(
            member.name,
            Text.assemble(
                (bar(member.step, member.steps, 10 if wide else 4), "blue"),
                (f" {member.phase}", "yellow" if member.trouble else ""),
            ),
            f"{member.step}/{member.steps}" if member.steps else "-",
            _figure(member.loss, "{:.3f}".format),
            *([_figure(member.tokens_per_s, "{:,.0f}".format)] if wide else []),
            human_bytes(member.bytes_sent),
            *([_figure(member.bytes_received, human_bytes)] if received else []),
            Text.assemble(
                (spark(curve, BAR_WIDTH if wide else 6), "magenta"), f" {curve[-1]:.3f}" if curve else ""
            ),
        )
    parts: list[RenderableType] = [head, table]
    if snapshot.synchronous_bytes:
        parts.append(Text(traffic(snapshot), style="dim"))
    if snapshot.waiting_for:
        parts.append(Text(f"waiting: {snapshot.waiting_for}", style="yellow"))
    parts += [Text(text, style="yellow") for text in snapshot.notes]
    return Group(*parts)


def _figure(value: Number | None, told: Callable[[Number], str]) -> str:
    """In words; what is not known is no zero."""
    return "-" if value is None else told(value)


def traffic(snapshot: Snapshot) -> str:
    """Bytes against synchronous training, in words."""
    sent, other = snapshot.sent_bytes, snapshot.synchronous_bytes
    less = f", {other / sent:,.0f} times as much" if sent and other > sent else ""
    return f"updates sent: {human_bytes(sent)}; synchronous training: {human_bytes(other)}{less}"


class LiveDisplay:
    """Redraws in place."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._began = time.monotonic()
        self._tick = 0
        self._snapshot: Snapshot | None = None
        self._live = Live(
            console=console,
            refresh_per_second=REFRESH_PER_S,
            get_renderable=self._render,
            transient=False,
            vertical_overflow="crop",
        )

    def _render(self) -> RenderableType:
        self._tick += 1
        if self._snapshot is None:
            return ""
        elapsed_s, width = time.monotonic() - self._began, self._live.console.width
        return render(self._snapshot, elapsed_s=elapsed_s, tick=self._tick, width=width)

    def update(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class PlainDisplay:
    """One line per merge, and a sign of life in between.

    Args:
        out: where lines go.
    """

    def __init__(self, out: Callable[[str], None] = note) -> None:
        self._out = out
        self._troubles: dict[str, str] = {}
        self._began = time.monotonic()
        self._said = time.monotonic()
        self._merges = -1
        self._scored: set[int] = set()
        self._told: tuple[str, ...] = ()

    def update(self, snapshot: Snapshot) -> None:
        for text in snapshot.notes:
            if text not in self._told:
                self.say(text)
        self._told = snapshot.notes
        if snapshot.merges > self._merges:
            self._merges = snapshot.merges
            if snapshot.merges:
                left = f", {human_seconds(snapshot.left_s)} left" if snapshot.left_s else ""
                self.say(f"round {snapshot.merges} of {snapshot.rounds} merged{left}")
        for merges in sorted({m for member in snapshot.members for m in member.scores} - self._scored):
            # A node that does not publish its scores is not waited for.
            if member_mean(snapshot.members, merges) is not None or merges < snapshot.merges - 1:
                self._scored.add(merges)
                scored = (m for m in snapshot.members if merges in m.scores)
                scores = ", ".join(f"{m.name} {m.scores[merges]:.3f}" for m in scored)
                self.say(f"  base after {merges} merges: {scores} bits per byte")
        troubles = {m.name: m.phase for m in snapshot.members if m.trouble}
        for name, phase in troubles.items():
            if self._troubles.get(name) != phase:
                self.say(f"  {name}: {phase}")
        self._troubles = troubles
        if time.monotonic() - self._said > QUIET_S:
            steps = ", ".join(f"{m.name} {m.step}/{m.steps} {m.phase}" for m in snapshot.members)
            waits = f"; waiting: {snapshot.waiting_for}" if snapshot.waiting_for else ""
            self.say(f"  {snapshot.phase}: {steps}{waits}")

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        self._out(f"[{time.monotonic() - self._began:6.1f} s] {text}")


@contextmanager
def choose(*, data: bool = False) -> Iterator[Display]:
    """Live on a terminal, plain lines otherwise; on stderr, or on stdout where this is what was asked for."""
    from tapestry.cli import output

    console = output.console() if data else messages()
    if console.is_terminal and not console.is_dumb_terminal and os.environ.get("CI") is None:
        with LiveDisplay(console) as live:
            yield live
    else:
        yield PlainDisplay(output.emit_line if data else note)
