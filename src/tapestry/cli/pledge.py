"""`tapestry pledge`: what members bring, and whether others have looked at it."""

from __future__ import annotations

from typing import Annotated

import typer

from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_table, note, short
from tapestry.cli.proposal import CoreUrl, Voter

app = typer.Typer(help="Pledges: what members bring to a phase.", no_args_is_help=True)

PhaseOption = Annotated[
    str | None, typer.Option("--phase", help="Name of the phase; may be left out where there is one.")
]


@app.command()
def new(
    resource: Annotated[
        str,
        typer.Argument(
            metavar="RESOURCE",
            help="compute, data.LANG (such as data.fr), storage, bandwidth, people or funds.",
        ),
    ],
    amount: Annotated[
        str,
        typer.Argument(
            metavar="AMOUNT",
            help='With its unit: "2000 accelerator-hours", "3 GB", "10 Gbit/s", "3 full-time", "100000 EUR".',
        ),
    ],
    member: Voter,
    phase: PhaseOption = None,
    dataset: Annotated[
        str | None, typer.Option(help="Of data: which of your datasets, as published in the catalog.")
    ] = None,
    text: Annotated[str, typer.Option(help="From when, on which conditions; every member can read it.")] = "",
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """Pledge what your organisation brings to a phase. A new pledge of a thing replaces the one before.

    An amount of 0 takes it back. Printed is the pledge's name, by which others confirm it.

    Examples: tapestry pledge new compute "2000 accelerator-hours" --member ./acme

    tapestry pledge new data.fr "3 GB" --dataset letters --phase pilot --member ./acme
    """
    from tapestry.node.pledging import Pledging

    with Pledging(member, core) as council:
        answer = council.pledge(resource, amount, phase=phase, dataset=dataset, why=text)
        name = council.name
    if as_json:
        emit_json(answer)
        return
    emit_line(str(answer["pledge"]))
    note(
        f"{name} pledges {answer['amount']} of {resource} to phase {answer['phase']}; "
        f"entry {answer['sequence']} of the ledger"
    )
    note(
        "a steward or auditor of another member confirms it with: "
        f"tapestry pledge confirm {short(str(answer['pledge']))} --member FOLDER"
    )


@app.command("list")
def list_(member: Voter, phase: PhaseOption = None, core: CoreUrl = None, as_json: Json = False) -> None:
    """Pledges in force, with who has confirmed them. Every signature is verified.

    Example: tapestry pledge list --phase pilot --member ./acme
    """
    from tapestry.node.pledging import Pledging

    with Pledging(member, core) as council:
        held, answer = council.pledges()
    found = [each for each in held if phase in (None, each.pledge.phase)]
    if as_json:
        emit_json(
            {
                "charter": answer["charter"],
                "now": answer["now"],
                "pledges": [each.to_json() for each in found],
            }
        )
        return
    rows = [
        (
            short(each.pledge.pledge),
            each.pledge.phase,
            each.pledge.member,
            each.pledge.resource,
            each.pledge.amount,
            each.pledge.dataset,
            ", ".join(word.member for word in each.pledge.words if word.stands) or "nobody",
            each.pledge.at[:10],
            each.text.replace("\n", " "),
        )
        for each in sorted(found, key=lambda one: (one.pledge.phase, one.pledge.resource, one.pledge.member))
    ]
    columns = ("pledge", "phase", "member", "resource", "amount", "dataset", "confirmed by", "of", "says")
    emit_table(columns, rows, right=("amount",))
    if answer["charter"] is None:
        note("this consortium has no charter, and so no phases; see: tapestry charter adopt")


@app.command()
def confirm(
    pledge: Annotated[
        str, typer.Argument(metavar="PLEDGE", help="Its name, or the first digits of it (at least 6).")
    ],
    member: Voter,
    text: Annotated[str, typer.Option(help="What you have looked at; every member can read it.")] = "",
    take_back: Annotated[
        bool, typer.Option("--take-back", help="You do not stand by your earlier word any more.")
    ] = False,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """Say that another member's pledge is real. Stewards and auditors do; nobody confirms its own.

    A new pledge of the same thing has to be confirmed anew.

    Example: tapestry pledge confirm 1a2b3c4d5e6f --text "seen the contract" --member ./acme
    """
    from tapestry.node.pledging import Pledging

    with Pledging(member, core) as council:
        answer = council.confirm(pledge, stands=not take_back, why=text)
        name = council.name
    if as_json:
        emit_json(answer)
        return
    emit_line(str(answer["sequence"]))
    of = answer["of"]
    what = f"{of['amount']} of {of['resource']} by {of['member']} to phase {of['phase']}"
    note(f"{name} {'no longer confirms' if take_back else 'confirms'} {what}")
