"""The command `tapestry run tensorboard`: a run's figures as event files, read from its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapestry.cli.options import Json, RunName
from tapestry.cli.output import emit_json, emit_line, note


def tensorboard(
    out: Annotated[Path, typer.Option(help="Folder for event files; those of an earlier call are replaced.")],
    core: Annotated[Path | None, typer.Option("--core", metavar="HOME", help="Folder of the core.")] = None,
    node: Annotated[Path | None, typer.Option("--node", metavar="HOME", help="Folder of a node.")] = None,
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """Write what the ledger says of a run as TensorBoard event files: scores, tokens, bytes of each round.

    Times are the core's, steps are merges. A folder for the run, and one for each node that publishes scores.
    Call it again as often as you like, while the run goes on too.

    Example: tapestry run tensorboard --core ./core --out ./tensorboard
    """
    from tapestry.cli import events
    from tapestry.cli.run_watch import opened

    with opened(core, node, run) as watcher:
        watcher.look()
        written = events.write(watcher.course, out)
    if as_json:
        emit_json({"run": watcher.course.run, "out": str(out), "scalars": written})
        return
    emit_line(str(out))
    figures = sum(written.values())
    note(f"{figures} figures of run {watcher.course.run}; see them with: tensorboard --logdir {out}")
