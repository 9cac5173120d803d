"""The command `tapestry rehearse`; the work is in `tapestry.cli.rehearsal`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Exactly one JSON object on stdout, at the end.")]


def rehearse(
    out: Annotated[
        Path, typer.Option(help="Folder for everything, new or empty; it is kept, to be looked at.")
    ] = Path("tapestry-rehearsal"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller model, and one hostile update in the place of three.")
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Rehearse only this one; again for more. [dim]Default: all six[/dim]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rehearse what can go wrong, on this machine: five members, six faults, a report for a board.

    A core and five nodes train a tiny model. The core is killed, a link is cut, a core lies, a node turns
    hostile, a dataset is revoked, a member leaves: all of it really, and each time it is checked that it was
    noticed and that nothing was lost. The report says what was seen and where it is recorded: report.html,
    report.md, report.json. Ends with exit code 3 where a fault was not detected or not recovered from.

    Examples: tapestry rehearse

    tapestry rehearse --quick --out /tmp/rehearsal --json

    tapestry rehearse --fault lying-core --fault leaving --out /tmp/two-faults
    """
    from tapestry.cli.output import emit_json
    from tapestry.cli.rehearsal.pages import HTML, print_report
    from tapestry.cli.rehearsal.run import chosen
    from tapestry.cli.rehearsal.run import rehearse as run
    from tapestry.cli.rehearsal.telling import good
    from tapestry.errors import IntegrityError

    report = run(out, quick=quick, faults=chosen(fault or ()))
    if as_json:
        emit_json(report.model_dump(mode="json"))
    else:
        print_report(report, out)
    if not report.passed:
        failed = [each.title for each in report.chapters if not good(each)]
        raise IntegrityError(
            f"not detected or not recovered from: {'; '.join(failed)}",
            hint=f"see {out / HTML}; logs are in {out / 'logs'} and in each node's folder",
        )
