"""`tapestry`: the commands. Only this package exits; everything below it raises.

Each module of `tapestry.cli` that holds commands imports what it needs inside the command, so that
`tapestry --help` loads neither torch nor HTTP nor SQL.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from tapestry import __version__
from tapestry.cli import (
    account,
    build,
    bundle,
    catalog,
    charter,
    chat,
    constitution,
    core,
    curate,
    demo_command,
    doctor,
    entitlement,
    eval_command,
    failures,
    ledger,
    member,
    node,
    phase,
    pledge,
    proposal,
    rehearse_command,
    release,
    run,
    serve,
    web,
)

INTERRUPTED = 130
ClickException: type[Exception] = typer.BadParameter.__mro__[2]
"""Base of the usage errors of typer; not exported under a name of its own."""

_SHORT = {code: what.partition(":")[0].partition(";")[0] for code, what in failures.EXIT_CODES.items()}
EXITS = "Exit codes: " + "; ".join(f"{code} {what}" for code, what in _SHORT.items()) + "."
SHELL = "Completion of words: tapestry --install-completion. Without colour: NO_COLOR=1."

app = typer.Typer(
    name="tapestry",
    epilog=f"{EXITS}\n\n{SHELL}",
    help="Train one open foundation model together, without pooling data.\n\n"
    "Start with: tapestry demo\n\nExample: tapestry core init ./core",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo_command.demo)
app.command("rehearse")(rehearse_command.rehearse)
app.add_typer(core.app, name="core")
app.add_typer(member.app, name="member")
app.add_typer(node.app, name="node")
app.add_typer(run.app, name="run")
app.add_typer(ledger.app, name="ledger")
app.add_typer(catalog.app, name="catalog")
app.add_typer(charter.app, name="charter")
app.add_typer(account.app, name="account")
app.add_typer(entitlement.app, name="entitlement")
catalog.app.command("curate")(curate.curate)
app.add_typer(build.app, name="build")
app.add_typer(bundle.app, name="bundle")
app.add_typer(proposal.app, name="proposal")
app.add_typer(pledge.app, name="pledge")
app.add_typer(phase.app, name="phase")
app.command("vote")(proposal.vote)
app.add_typer(release.app, name="release")
build.app.add_typer(constitution.app, name="constitution")
app.command("eval")(eval_command.evaluate)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.add_typer(web.app, name="web")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"tapestry {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _usage(error: Exception) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "tapestry"
    failures.print_error(message[:1].lower() + message[1:].rstrip("."), f"see {command} --help")
    return 2


def call(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = app(
            args=list(sys.argv[1:] if argv is None else argv), prog_name="tapestry", standalone_mode=False
        )
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except ClickException as error:
        return _usage(error) if str(error) or hasattr(error, "param") else 2
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback on the terminal
        return failures.report(error)
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """The console script."""
    sys.exit(call())


if __name__ == "__main__":
    main()
