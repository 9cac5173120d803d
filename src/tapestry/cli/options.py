"""Arguments and options that several commands have, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CoreHome = Annotated[Path, typer.Argument(metavar="HOME", help="Folder of the core.")]
NodeHome = Annotated[Path, typer.Argument(metavar="HOME", help="Folder of the node.")]
MemberFolder = Annotated[Path, typer.Option("--member", help="Folder of the member, with its root key.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
RunName = Annotated[
    str | None, typer.Option("--run", help="Name of the run; may be left out where there is one.")
]
