"""The command `tapestry demo`; the work is in `tapestry.cli.demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from tapestry.protocol.algorithms import AlgorithmName

Json = Annotated[bool, typer.Option("--json", help="Exactly one JSON object on stdout, at the end.")]


def demo(
    nodes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Members, each with one node. [dim]Default: 3[/dim]")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Merges. [dim]Default: 48[/dim]")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help="Optimizer steps of a node in a round. [dim]Default: 20[/dim]",
        ),
    ] = None,
    corpora: Annotated[
        Path | None,
        typer.Option(
            help="Folder with one sub-folder a member, each with train.* and valid.* (.txt, .jsonl, …)."
        ),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help=f"How nodes train and what they send: {', '.join(get_args(AlgorithmName))}. "
            "[dim]Default: Muon inside, Nesterov momentum, 32 bits[/dim]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("tapestry-demo"),
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also train each member alone, and all text pooled in one place."),
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, max=2**53 - 1, help="Weights and batches.")] = None,
    web: Annotated[
        bool | None,
        typer.Option(
            "--web/--no-web",
            help="Show it in a browser while it trains. [dim]Default: yes, unless --json is given[/dim]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train one shared base on this machine: a core and N nodes, over real HTTP.

    Each member has text of its own (fields of Python's standard library unless --corpora says
    otherwise) that only its own trainer reads, and the trainer has no network. Called again with the
    same --out, an unfinished run goes on and a finished one shows its result.

    Examples: tapestry demo

    tapestry demo --nodes 4 --rounds 20 --out /tmp/demo --compare

    tapestry demo --corpora ./corpora --json > result.json

    tapestry demo --algorithm sparseloco --out /tmp/sparse
    """
    from tapestry.cli.demo.run import demo as run_demo
    from tapestry.cli.demo.settings import choose

    settings = choose(
        nodes=nodes,
        rounds=rounds,
        steps=steps,
        corpora=corpora,
        algorithm=algorithm,
        compare=compare,
        seed=seed,
        out=out,
    )
    run_demo(settings, out, as_json=as_json, web=not as_json if web is None else web)
