"""`tapestry web login`: sign in to a dashboard with a member's key, which stays on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, human_seconds, note


def login(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The dashboard, as in the browser's address line.")
    ],
    member: Annotated[
        Path, typer.Option("--member", metavar="FOLDER", help="Folder of the member, with its vote key.")
    ],
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of the authority of its certificate.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign in to a dashboard: printed is a link for your browser, good once.

    The dashboard gives a challenge, which is signed here with the member's vote key: for this dashboard, and
    for nothing else. Votes and proposals are never signed by a dashboard; it shows the command to run here.

    Example: tapestry web login http://127.0.0.1:8471 --member ./acme
    """
    from tapestry.node.council import Council
    from tapestry.web.entering import sign_in

    with Council(member) as council:
        entered = sign_in(url, council.sign_in, ca=ca)
        name = council.name
    if as_json:
        emit_json({"link": entered.link, "member": name, "seconds": entered.seconds})
        return
    emit_line(entered.link)
    note(f"open it in your browser within {human_seconds(entered.seconds)}; it signs in {name}, once")
