"""`tapestry node`: a member's compute, beside its text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tapestry.cli import bundle, canaries, egress, leakage
from tapestry.cli.options import Json, MemberFolder, NodeHome
from tapestry.cli.output import (
    emit_json,
    emit_line,
    note,
    short,
)

app = typer.Typer(
    help="A node: trains on its member's text, and lets only updates out.", no_args_is_help=True
)

app.add_typer(egress.app, name="egress")
app.add_typer(canaries.app, name="canaries")
app.command("leakage")(leakage.leakage)
app.command("export")(bundle.export)
app.command("leave")(bundle.leave)
app.command("evidence")(bundle.evidence)

PUBLISH = ("all", "scores", "none")


@app.command()
def init(
    home: NodeHome,
    member: MemberFolder,
    name: Annotated[str, typer.Option(help="Name of the node, unique in the consortium.")],
    corpus: Annotated[Path, typer.Option(help="Folder with train.* and valid.* (.txt, .jsonl, .parquet).")],
    publish: Annotated[str, typer.Option(help="What the node tells of itself: all, scores or none.")] = "all",
    runs: Annotated[
        list[str] | None, typer.Option(help="Runs to take part in, as patterns; * is all.")
    ] = None,
    residency: Annotated[
        str | None, typer.Option(metavar="CC", help="Country the node stands in, two letters of ISO 3166-1.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the trainer.")] = None,
    agent_user: Annotated[
        str | None,
        typer.Option(
            metavar="USER", help="Whom the agent runs as: name or number. Takes root, here and at run."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a node's home: settings in node.toml, and keys certified by the member.

    Example: tapestry node init ./node --member ./acme --name acme-1 --corpus ./text
    """
    from tapestry.errors import CorpusError, InputError
    from tapestry.node import setup

    if publish not in PUBLISH:
        raise InputError(
            f"--publish {publish!r} is not one of {', '.join(PUBLISH)}",
            hint="see docs/guides/run-a-node.md for what each tells others",
        )
    if not corpus.is_dir():
        raise CorpusError(f"{corpus} is not a folder", hint="give the folder that has train.* and valid.*")
    made = setup.init(
        home,
        member,
        name,
        corpus,
        publish=publish,  # type: ignore[arg-type]
        runs=tuple(runs or ("*",)),
        threads=threads,
        residency=residency,
        agent_user=agent_user,
    )
    if as_json:
        emit_json({"home": str(made.root), "node": name})
        return
    emit_line(str(made.root))
    note("nothing is trained without a card of the text; see tapestry catalog add --help")
    note(f"next: tapestry node join {home} --member {member} --core URL --invitation TOKEN")


@app.command()
def join(
    home: NodeHome,
    member: MemberFolder,
    core: Annotated[str, typer.Option(metavar="URL", help="Where the core listens.")],
    invitation: Annotated[
        str,
        typer.Option(
            metavar="TOKEN", envvar="TAPESTRY_INVITATION", help="What the core's operator gave you."
        ),
    ],
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Authority of the core's certificate (PEM), if it has its own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring the node into a consortium. May be repeated.

    Example: tapestry node join ./node --member ./acme --core https://core.example.org:8440 --invitation TOKEN
    """
    from tapestry.node import setup

    joined = setup.join(home, core, invitation, ca, member_dir=member)
    if as_json:
        emit_json({"consortium": joined.consortium, "core": joined.core_url, "core_key": joined.core_key})
        return
    emit_line(joined.consortium)
    note(
        f"the node in {home} has joined consortium {short(joined.consortium)}; next: tapestry node run {home}"
    )


@app.command()
def run(
    home: NodeHome,
    once: Annotated[bool, typer.Option("--once", help="End when all its runs are finished.")] = False,
) -> None:
    """Take part: wait for runs, train, send updates, repeat merges. Stop with Ctrl-C; start again any time.

    The trainer reads the text and has no network; the agent has the network and reads no text.

    Example: tapestry node run ./node
    """
    from tapestry.node.supervisor import run_node

    run_node(home, once=once)


@app.command()
def status(home: NodeHome, as_json: Json = False) -> None:
    """What the node's processes do now, and what it has sent and received.

    Example: tapestry node status ./node
    """
    from tapestry.cli.node_status import print_node
    from tapestry.node.status import node_status

    value: Any = node_status(home)
    if as_json:
        emit_json(value)
        return
    print_node(value)


@app.command()
def script(home: NodeHome, as_json: Json = False) -> None:
    """Print the script or manifest that starts the node's ranks, as its node.toml has it. Submits nothing.

    What is printed can be submitted by hand: a node that runs takes up a job of its own that it finds.

    Example: tapestry node script ./node > job.sh
    """
    from tapestry.node import settings
    from tapestry.node.home import Home
    from tapestry.training.clusters.opening import describe

    at = Home(home)
    settings.load(at)
    value = describe(at.root.absolute())
    if as_json:
        emit_json(value)
        return
    emit_line(value["text"].rstrip("\n"))
    note(f"submit it with: {value['submit']}")


@app.command()
def endorse(
    home: NodeHome,
    request: Annotated[Path, typer.Option(metavar="FILE", help="request.json of tapestry core recover.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="What was signed; written anew.")],
    ledger: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The ledger that came with it, where this node has less."),
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Sign although this node has signed for another key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign for the new key of a core that was lost, with this node's witness key.

    Only where the request is about this node's own ledger, or about one that goes on from it and holds. Ask
    who recovers the core, by another way, whether the key is theirs.

    Example: tapestry node endorse ./node --request request.json --ledger ledger.jsonl --out acme.json
    """
    from tapestry.host import files
    from tapestry.node import endorse as endorsing
    from tapestry.node.home import Home

    asked = endorsing.read_request(request)
    signed = endorsing.endorse(Home(home), asked, ledger=ledger, anew=anew)
    files.write_atomic(out, signed.to_bytes())
    if as_json:
        emit_json({"endorsement": str(out), "core_key": asked.core_key, "entries": asked.size})
        return
    emit_line(str(out))
    note(
        f"signed: key {asked.core_key} speaks for the ledger of {asked.size} entries from now on; send {out} "
        "to who recovers the core"
    )
