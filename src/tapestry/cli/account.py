"""`tapestry account`: what each member gave, as the ledger has it, and what a member says against that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.ledgers import Ledger, Verify, lines_of, tell
from tapestry.cli.options import Json
from tapestry.cli.output import (
    emit_json,
    emit_line,
    emit_pairs,
    emit_table,
    human_bytes,
    human_seconds,
    note,
)

if TYPE_CHECKING:
    from tapestry.audit.account import Disputed
    from tapestry.governance.accounting import Account, Row, Sums

app = typer.Typer(help="What each member gave: accounts, statements, disputes.", no_args_is_help=True)

OfRun = Annotated[str | None, typer.Option("--run", help="One run; without it all, and their total.")]
Csv = Annotated[bool, typer.Option("--csv", help="Comma-separated values on stdout.")]
Rounds = Annotated[bool, typer.Option("--rounds", help="A row for each member and round.")]
NO_MONEY = (
    "nothing here is a token or a currency: it says who gave what, by signed entries that anybody can check"
)


@app.command()
def show(
    ledger: Ledger,
    run: OfRun = None,
    rounds: Rounds = False,
    csv: Csv = False,
    verify: Verify = True,
    as_json: Json = False,
) -> None:
    """What each member gave: rounds, tokens, steps, time, bytes, weight in merges, refusals.

    Time is what nodes say, by ranks, and what of it their own throughput bears out. With --rounds there is a
    row for each member and round.

    Examples: tapestry account show ./node

    tapestry account show ledger.jsonl --run first --rounds --csv
    """
    from tapestry.cli import account_tables as tables

    account, rows = _read(ledger, run, rounds=rounds, verify=verify)
    if csv:
        tables.write_csv(tables.of_rows(account, rows) if rounds else tables.of_runs(account, run))
    elif as_json:
        emit_json(tables.as_json(account, run, rows if rounds else None))
    else:
        tables.show_rows(account, rows) if rounds else tables.show_runs(account, run)
        note(NO_MONEY)


@app.command()
def statement(
    ledger: Ledger,
    member: Annotated[str, typer.Option("--member", help="Whose.")],
    run: OfRun = None,
    csv: Csv = False,
    verify: Verify = True,
    as_json: Json = False,
) -> None:
    """One member's account, with every refusal, and everything that was ever said against it.

    Example: tapestry account statement ./node --member acme
    """
    from tapestry.audit.account import disputes
    from tapestry.cli import account_tables as tables
    from tapestry.errors import NotFound

    account, rows = _read(ledger, run, rounds=True, verify=verify, member=member)
    said = [each for each in disputes(account) if each.said.about == member and run in (None, each.said.run)]
    if not said and not any(member in each.members for each in account.runs.values()):
        raise NotFound(
            f"{member} took part in no run of this ledger", hint="see who did: tapestry account show LEDGER"
        )
    if csv:
        tables.write_csv(tables.of_rows(account, rows))
        if said:
            note(f"it was disputed, {len(said)} times: leave out --csv to see what was said")
        return
    if as_json:
        emit_json({**tables.as_json(account, run, rows, member), "disputes": [*map(_as_json, said)]})
        return
    for each in account.runs.values():
        if (sums := each.members.get(member)) is not None and run in (None, each.run):
            emit_line(f"run {each.run}: {each.rounds} rounds, {each.merges} merges")
            emit_pairs(_pairs(sums, str(tables.percent(each.share(member)))))
            emit_line("")
    refused = [row for row in rows if row.refused]
    if refused:
        emit_table(
            ("run", "round", "refused because"),
            [(row.run, row.round, ", ".join(row.refused)) for row in refused],
            right=("round",),
        )
    for one in said:
        emit_line(_told(one))
    if not said:
        note(f"nobody has disputed it; {member} can: tapestry account dispute")


@app.command()
def dispute(
    member: Annotated[Path, typer.Option("--member", metavar="FOLDER", help="Folder of the member.")],
    run: Annotated[str, typer.Option("--run", help="In which run.")],
    what: Annotated[
        str,
        typer.Option(
            help="tokens, steps, time, bytes, availability, weight, refusal or other.",
        ),
    ],
    claim: Annotated[str, typer.Option(help="What it should say instead; one line.")],
    reason: Annotated[str, typer.Option(help="Why; every member can read it.")],
    round_: Annotated[
        int | None, typer.Option("--round", min=1, help="In which round; without it, the whole run.")
    ] = None,
    about: Annotated[
        str | None, typer.Option("--about", metavar="MEMBER", help="Whose account, if not the own.")
    ] = None,
    core: Annotated[
        str | None, typer.Option("--core", metavar="URL", help="Where the core listens, if elsewhere by now.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say, signed by the member's vote key, that the account is wrong.

    It is recorded for ever, and changes no number.

    Example: tapestry account dispute --member ./acme --run first --round 3 --what refusal
    --claim accepted --reason "our update was finite; its bytes are at our node"
    """
    from typing import get_args

    from pydantic import ValidationError

    from tapestry.errors import InputError
    from tapestry.governance.disputes import What
    from tapestry.node.council import Council
    from tapestry.protocol.message import explain

    if what not in get_args(What):
        raise InputError(
            f"{what!r} is nothing that can be disputed", hint=f"one of: {', '.join(get_args(What))}"
        )
    with Council(member, core) as council:
        try:
            answer = council.dispute(
                run=run,
                round=round_,
                about=about or council.name,
                what=what,  # type: ignore[arg-type]
                claim=claim,
                reason=reason,
            )
        except ValidationError as e:
            raise InputError(
                f"that cannot be disputed: {explain(e)}",
                hint="names are as tapestry account show writes them; a claim is one line of at most 200 "
                "characters, a reason has at most 2,000",
            ) from e
    if as_json:
        emit_json(answer)
        return
    emit_line(str(answer["dispute"]))
    note("recorded; it stands beside the statement: tapestry account statement")


def _read(
    ledger: str, run: str | None, *, rounds: bool, verify: bool, member: str | None = None
) -> tuple[Account, list[Row]]:
    """The account, and rows where they are asked for."""
    from tapestry.audit import account
    from tapestry.errors import NotFound

    rows: list[Row] = []

    def keep(row: Row) -> None:
        if rounds and member in (None, row.member):
            rows.append(row)

    found = account.read(lines_of(ledger), on_row=keep, only=run, verify=verify, told=tell)
    if run is not None and run not in found.runs:
        raise NotFound(f"there is no run {run} in this ledger", hint="leave out --run to see all")
    return found, rows


def _pairs(sums: Sums, part: str) -> list[tuple[str, Any]]:
    told = sums.accepted - sums.untimed
    time = "not told" if not told else f"{_hours(sums.claimed_ms)} by ranks, of {told} contributions"
    sized = sums.accepted - sums.unsized
    return [
        ("rounds with something accepted", f"{sums.rounds} ({sums.answered} of {sums.expected} expected)"),
        ("in merges", f"{sums.merged}, {part} of all weight"),
        ("tokens, steps", f"{sums.tokens:,}, {sums.steps:,}"),
        ("training time, as told", time),
        ("plausible by own throughput", _hours(sums.plausible_ms) if told else None),
        ("as the run's middle node", _hours(sums.typical_ms) if told else None),
        ("bytes, as told", human_bytes(sums.bytes) if sized else "not told"),
        ("merges repeated and signed", sums.attested),
        ("refused", ", ".join(f"{count} {why}" for why, count in sorted(sums.refused.items())) or "none"),
    ]


def _hours(ms: int) -> str:
    return human_seconds(ms / 1000)


def _as_json(one: Disputed) -> dict[str, Any]:
    said = one.said.model_dump(mode="json", exclude={"format", "version", "consortium"})
    return {"sequence": one.sequence, "at": one.at, **said}


def _told(one: Disputed) -> str:
    said = one.said
    where = f"round {said.round} of run {said.run}" if said.round is not None else f"run {said.run}"
    reason = said.reason.replace("\n", " ")  # or it could go on with lines that look like the statement's
    return (
        f"disputed by {said.member} (entry {one.sequence}, {one.at}): {said.what} in {where} should be: "
        f"{said.claim}. {reason}"
    )
