"""`tapestry web`: the dashboard."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli import web_login
from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, note
from tapestry.cli.web_node import building

if TYPE_CHECKING:
    from tapestry.transport.connection import Connection

app = typer.Typer(help="The dashboard: a consortium to look at, in a browser.")
app.command("login")(web_login.login)
PORT = 8471
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.callback(invoke_without_command=True)
def web(
    context: typer.Context,
    core: Annotated[str | None, typer.Option("--core", metavar="URL", help="Where the core listens.")] = None,
    member: Annotated[
        Path | None,
        typer.Option(
            "--as",
            metavar="FOLDER",
            help="A member's folder with its vote key, or a node's home: reads as that member does. Without "
            "it, what the charter makes public.",
        ),
    ] = None,
    opened: Annotated[
        str,
        typer.Option(
            "--open-to",
            help="Who sees what members see without signing in: 'public', nobody, or 'member', whoever "
            "reaches this address.",
        ),
    ] = "public",
    node: Annotated[
        Path | None,
        typer.Option("--node", metavar="HOME", help="A node on this machine: also shows what left it."),
    ] = None,
    releases: Annotated[
        list[str] | None,
        typer.Option("--releases", metavar="WHERE", help="Folder or address of a release repository."),
    ] = None,
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = PORT,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Name that browsers may call it by; others are refused."),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Address under which members sign in, with https. Default: this machine's own names.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Where a proxy is that says whom it speaks for, in X-Forwarded-For. Default: this machine.",
        ),
    ] = None,
    compared: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="result.json of `tapestry demo --compare`: shows each member beside training alone.",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keeps the verified ledger between starts. Default: nothing is kept."
        ),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file of the authority of the core's certificate.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a consortium in a browser: runs as they go, members, data, decisions, the ledger, releases.

    It reads the core's public API alone, verifies the ledger as a node does, and loads nothing from
    elsewhere. Stop with Ctrl-C.

    Examples: tapestry web --core http://127.0.0.1:8470

    tapestry web --as ./ada --open-to member

    tapestry web --core https://core.example.org:8470 --listen 0.0.0.0 --name tapestry.example.org
    """
    if context.invoked_subcommand is not None:
        return
    from tapestry.errors import SettingsError
    from tapestry.identity.logins import origin_of
    from tapestry.web.serve import serve
    from tapestry.web.settings import PROXIES, WebSettings

    if opened not in ("public", "member"):
        raise SettingsError(
            f"--open-to {opened} is neither public nor member",
            hint="public shows anybody what the charter makes public; member shows what your member may read",
        )
    if core is None and member is None and node is None:
        raise SettingsError(
            "nothing to show", hint="name a core, --core URL, or a member's folder, --as FOLDER"
        )
    if opened == "member" and member is None:
        raise SettingsError(
            "--open-to member needs a member whose key reads", hint="name its folder: --as FOLDER"
        )
    if opened == "member" and listen not in LOOPBACK and not name:
        raise SettingsError(
            "--open-to member beyond this machine needs the name that browsers call it by",
            hint="give it: --name HOST; else any page, in a browser that reaches it, could read it",
        )
    if node is not None:
        building(node)  # says so where it is no node's home
        if listen not in LOOPBACK:
            raise SettingsError(
                "a node's own page is for its own machine alone", hint="leave out --listen, or --node"
            )
    settings = WebSettings(
        core_url=core,
        listen=listen,
        port=port,
        names=tuple(name or ()),
        opened="member" if opened == "member" else "public",
        state=state,
        node=node,
        ca=ca,
        releases=tuple(releases or ()),
        alone=_alone(compared) if compared is not None else {},
        origins=tuple(map(origin_of, origin or ())),
        proxies=tuple(map(_network, proxy)) if proxy else PROXIES,
    )
    connection = connect(core, member, ca)

    def ready(url: str, own: str | None) -> None:
        emit_json({"url": url, "node": own}) if as_json else emit_line(f"dashboard on {url}")
        if own is not None:
            note(f"what left the node, for its owner: {own}")
        if member is not None and opened == "public":
            note("whoever reaches it sees what the charter makes public; members sign in")
        if not settings.loopback:
            note("it speaks HTTP: put a proxy with TLS before it, see docs/guides/dashboard.md")

    try:
        serve(settings, connection, ready=ready, building=None if node is None else partial(building, node))
    except KeyboardInterrupt:
        note("stopped")


def _network(text: str) -> str:
    """Of proxies. Raises `SettingsError`."""
    from ipaddress import ip_network

    from tapestry.errors import SettingsError

    try:
        return str(ip_network(text))
    except ValueError as e:
        raise SettingsError(f"--proxy {text} is no network: {e}", hint="as 10.1.0.0/16, or an address") from e


def _alone(path: Path) -> dict[str, dict[str, float]]:
    """By run and member: bits per byte after training alone. Raises `SettingsError`."""
    from tapestry.errors import SettingsError
    from tapestry.host import files

    try:
        value = json.loads(files.read_limited(path, 1 << 20))
        found = {each["name"]: each.get("bits_per_byte_alone") for each in value["members"]}
        return {str(value["run"]): {name: float(bits) for name, bits in found.items() if bits is not None}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise SettingsError(
            f"{path} is no result of a comparison: {e}", hint="make one: tapestry demo --compare"
        ) from e


def connect(core: str | None, member: Path | None, ca: Path | None) -> Connection | None:
    """To the core, as a member or as anybody; None where neither is named. Raises `SettingsError`."""
    from tapestry.transport.connection import Connection

    if member is None:
        return None if core is None else Connection(core, None, None, ca=ca, connections=4)
    from tapestry.node import setup
    from tapestry.node.council import Council
    from tapestry.node.home import Home

    if (member / "node.toml").is_file():
        return setup.connect(Home(member), core_url=core).connection
    return Council(member, core).client.connection
