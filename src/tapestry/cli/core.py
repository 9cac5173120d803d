"""`tapestry core`: the place where updates meet. Run on the core's own machine, by its operator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli.options import CoreHome, Json
from tapestry.cli.output import counted, emit_json, emit_line, note, short

if TYPE_CHECKING:
    from tapestry.core.settings import CoreSettings

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Certificate = Annotated[Path | None, typer.Option(help="PEM file of the core's certificate chain.")]
CertificateKey = Annotated[Path | None, typer.Option(help="PEM file of its key.")]
Database = Annotated[str, typer.Option(help="File, or postgresql://USER@HOST/DATABASE without a password.")]

app = typer.Typer(help="The core: admits members, takes updates, has them merged.", no_args_is_help=True)


def _settings(
    host: str, port: int, certificate: Path | None, key: Path | None, database: str
) -> CoreSettings:
    """As the options say. Raises `SettingsError`."""
    from tapestry.core import settings
    from tapestry.errors import SettingsError

    if (certificate is None) != (key is None):
        raise SettingsError(
            "a certificate needs its key, and a key its certificate",
            hint="give --tls-certificate and --tls-key",
        )
    tls = None
    if certificate is not None and key is not None:
        tls = {"certificate": str(certificate.absolute()), "key": str(key.absolute())}
    return settings.make(host=host, port=port, tls=tls, database=database)


@app.command()
def init(
    home: CoreHome,
    title: Annotated[str, typer.Option(help="Name of the consortium, for people.")] = "",
    host: Host = "127.0.0.1",
    port: Port = 8440,
    tls_certificate: Certificate = None,
    tls_key: CertificateKey = None,
    database: Database = "core.sqlite",
    as_json: Json = False,
) -> None:
    """Found a consortium: a core's home with its key, settings and event log.

    Without a certificate the core speaks plain HTTP, which is for loopback only.

    Example: tapestry core init ./core --title "First consortium"
    """
    from tapestry.core import operator

    made = _settings(host, port, tls_certificate, tls_key, database)
    consortium = operator.init(home, made, title=title)
    if as_json:
        emit_json({"home": str(home), "consortium": consortium})
        return
    emit_line(consortium)
    note(f"consortium {short(consortium)} founded in {home}; next: tapestry core serve {home}")


@app.command()
def serve(home: CoreHome) -> None:
    """Listen to nodes, and have rounds merged. Stop with Ctrl-C; start again any time.

    Example: tapestry core serve ./core
    """
    from tapestry.core.serve import serve as run_core

    run_core(home)


@app.command()
def backup(
    home: CoreHome,
    target: Annotated[Path, typer.Argument(help="Folder of the backup: new, or of an earlier one.")],
    as_json: Json = False,
) -> None:
    """Copy all of a core, which may serve meanwhile. Into the same folder again, only new blobs are copied.

    The folder then holds the core's keys: keep it as safe as those.

    Example: tapestry core backup ./core /backup/core
    """
    from tapestry.core import backup as backups

    with counted("blobs copied") as progress:
        done = backups.backup(home, target, progress=progress)
    if as_json:
        emit_json({"backup": str(target), **done})
        return
    emit_line(str(target))
    note(f"{done['events']} events and {done['blobs']} blobs, {done['copied']} of them new")
    if done["lacking"]:
        note(f"warning: {done['lacking']} blobs that the event log names are lost at the core")


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="Folder of a backup.")],
    home: CoreHome,
    database: Annotated[
        str | None,
        typer.Option(help="Another database than before: file, or postgresql://USER@HOST/DATABASE."),
    ] = None,
    blobs: Annotated[str | None, typer.Option(help="Another place for blobs than before.")] = None,
    as_json: Json = False,
) -> None:
    """Set up a core from a backup, on the same database and store of blobs or on others.

    Nodes that have seen more of the ledger than the backup holds wait until `core recover` brings it forward.

    Example: tapestry core restore /backup/core ./core --database postgresql://tapestry@db.example.org/tapestry
    """
    from tapestry.core import backup as backups
    from tapestry.core import settings
    from tapestry.core.home import Home

    other = {name: value for name, value in (("database", database), ("blobs", blobs)) if value is not None}
    with counted("blobs copied") as progress:
        made = settings.load(Home(source)).model_copy(update=other)
        done = backups.restore(source, home, settings=made, progress=progress)
    if as_json:
        emit_json({"home": str(home), **done})
        return
    emit_line(str(home))
    note(f"{done['events']} events and {done['blobs']} blobs restored; next: tapestry core serve {home}")


@app.command()
def recover(
    home: CoreHome,
    source: Annotated[
        list[Path],
        typer.Option("--from", help="Home of a node, or a copy of it, without its keys too; once for each."),
    ],
    endorsement: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What a member has signed for the new key; once for each."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8440,
    tls_certificate: Certificate = None,
    tls_key: CertificateKey = None,
    database: Database = "core.sqlite",
    as_json: Json = False,
) -> None:
    """Set up a core that was lost, or bring forward one that was restored, from what its nodes have.

    Every copy of the ledger is verified from its first byte. A core whose key is lost gets a new one, for
    which more than half of all members sign: named nodes do where their keys are there. Else this fails and
    leaves in the folder `succession` what members need for `tapestry node endorse`; call it again with what
    they have signed. Take the address of before.

    Examples: tapestry core recover ./core --from node-a --from node-b --from node-c

    tapestry core recover ./core --from copy-a --endorsement acme.json --endorsement birch.json
    """
    from tapestry.cli import replicas
    from tapestry.core import recover as recovery

    made = _settings(host, port, tls_certificate, tls_key, database)
    nodes = [replicas.of_node(each) for each in source]
    signed = {str(each): replicas.endorsement(each) for each in endorsement or ()}
    with counted("blobs looked for") as progress:
        done = recovery.recover(home, nodes, made, endorsements=signed, progress=progress)
    if as_json:
        emit_json({"home": str(home), **done})
        return
    emit_line(str(home))
    note(
        f"{done['events']} events, {done['adopted']} of them from the nodes, {done['blobs']} blobs, "
        f"{done['repeated']} merges repeated; next: tapestry core serve {home}"
    )
    if done["lacking"]:
        note(f"warning: {done['lacking']} blobs that the ledger names are at none of these nodes")


@app.command()
def invite(
    home: CoreHome,
    member: Annotated[str, typer.Argument(help="Name of the member who may join.")],
    days: Annotated[float, typer.Option(min=0.001, max=3650, help="Days until it expires.")] = 7.0,
    as_json: Json = False,
) -> None:
    """Make an invitation: a secret that admits one member, once. Hand it over by a safe way.

    Example: tapestry core invite ./core acme
    """
    from tapestry.core import operator

    token = operator.invite(home, member, days=days)
    if as_json:
        emit_json({"member": member, "invitation": token})
        return
    emit_line(token)
    note(f"good for {days:g} days and one use, by member {member}; it is not shown again")


@app.command()
def status(home: CoreHome, as_json: Json = False) -> None:
    """The consortium, its members, its runs, and whether the core serves.

    Example: tapestry core status ./core
    """
    from tapestry.cli import core_status
    from tapestry.core import operator

    value = operator.status(home)
    if as_json:
        emit_json(value)
        return
    core_status.print_core(value)
