"""A ledger that a command is given: a file, a mirror, a core, a node or the demo's folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.output import note

if TYPE_CHECKING:
    from tapestry.audit.file import Line

TELL_EVERY = 5000
Ledger = Annotated[
    str,
    typer.Argument(
        metavar="LEDGER",
        help="A file of `ledger export` or a static mirror, or its address; a core, a node, or the demo's "
        "folder.",
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify",
        help="Hold every entry of runs against the rules; a node has done that with its own copy.",
    ),
]


def lines_of(where: str) -> Iterator[Line]:
    """All lines of a ledger, from the first on."""
    from tapestry.cli.ledger import opened

    with opened(where, None) as (lines, _):
        yield from lines


def tell(done: int) -> None:
    """On stderr, now and then."""
    if done % TELL_EVERY == 0:
        note(f"{done:,} entries hold")
