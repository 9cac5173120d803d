"""The command `tapestry run watch`: a run in the terminal, live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.options import Json, RunName
from tapestry.cli.output import emit_json, emit_line

if TYPE_CHECKING:
    from tapestry.cli.watching import Watcher


def watch(
    core: Annotated[Path | None, typer.Option("--core", metavar="HOME", help="Folder of the core.")] = None,
    node: Annotated[Path | None, typer.Option("--node", metavar="HOME", help="Folder of a node.")] = None,
    run: RunName = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="With --json: a line for every change, until the run is finished."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Watch a run: who trains, submits, waits or is late, loss of each base, bytes, time left.

    With a core's folder, on its machine; with a node's, from the ledger that it has verified itself. Goes on
    while the core is gone, and says so. Ends with the run, or with Ctrl-C. Where there is no terminal it
    prints a line for each change. With --json one snapshot, and no more.

    Examples: tapestry run watch --core ./core

    tapestry run watch --node ./node --json --follow
    """
    from tapestry.cli import display, watching

    with opened(core, node, run) as watcher:
        name = watcher.course.run
        if as_json and not follow:
            emit_json(watching.as_json(name, watcher.look()))
            return
        if as_json:
            last = None
            while last is None or not last.finished:
                found = watcher.look()
                if not watching.same(last, found):
                    emit_line(watching.json_line(watching.as_json(name, found)))
                last = found
                _pause(last.finished)
            return
        with display.choose(data=True) as shown:
            while not (found := watcher.look()).finished:
                shown.update(found)
                _pause(False)
            shown.update(found)
            shown.say(f"run {name} is finished: {found.merges} merges; {display.traffic(found)}")


@contextmanager
def opened(core: Path | None, node: Path | None, run: str | None) -> Iterator[Watcher]:
    """A run to be watched. Raises `InputError` unless exactly one folder is given."""
    from tapestry.cli.runhome import one_home
    from tapestry.cli.watching import OfCore, OfNode, Watcher

    one_home(core, node)
    with ExitStack() as stack:
        if core is not None:
            from tapestry.core.service import Core

            yield Watcher.of(OfCore(stack.enter_context(Core.open(core))), run, core)
        elif node is not None:
            source = OfNode(node)
            stack.callback(source.close)
            yield Watcher.of(source, run, node)


def _pause(finished: bool) -> None:
    from tapestry.cli.watching import poll_s

    if not finished:
        time.sleep(poll_s())
