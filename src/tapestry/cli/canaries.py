"""`tapestry node canaries`: marked lines for a node's text, and the search for them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapestry.cli.options import Json, NodeHome
from tapestry.cli.output import emit_json, emit_line, emit_table, note

app = typer.Typer(
    help="Marked lines in the text, and the search for them in what left.", no_args_is_help=True
)


@app.command()
def plant(
    home: NodeHome,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A new file, .jsonl or .txt, to add to the text.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many lines.")] = 100,
    as_json: Json = False,
) -> None:
    """Write canaries to a file for the corpus. From then on the gate searches all that leaves for them.

    Example: tapestry node canaries plant ./node --count 1000 --out ./text/train-canaries.jsonl
    """
    from tapestry.node import canaries
    from tapestry.node.home import Home

    planted = canaries.plant(Home(home), count, out).planted
    if as_json:
        emit_json({"file": str(out), "count": count, "planted": planted})
        return
    emit_line(str(out))
    note(
        f"{planted} in all; the file belongs into the corpus folder, named train…; then make the folder's "
        "card anew: tapestry catalog add"
    )


@app.command()
def search(
    home: NodeHome,
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: a capture, a core's disk.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="tokenizer.json, to look for the ids that it gives as well."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for the node's canaries in files and their names, in all encodings the gate looks for.

    Ends with exit code 3 where there is one.

    Example: tapestry node canaries search ./node /mnt/core-disk capture.pcap
    """
    from tapestry.errors import InputError, Leak
    from tapestry.node import canaries, leaks
    from tapestry.node.home import Home

    at = Home(home)
    at.check()
    planted = canaries.load(at)
    if planted is None:
        raise InputError(
            f"no canary was planted at {home}",
            hint="plant some: tapestry node canaries plant HOME --out FILE",
        )
    ids = _ids(tokenizer, planted.marker) if tokenizer is not None else ()
    searcher = leaks.Searcher(planted.marker, ids)
    hits: list[leaks.Hit] = []
    for path in paths:
        try:
            hits += leaks.search(searcher, path, skip=at.canaries)
        except OSError as e:
            raise InputError(
                f"{e.filename or path} cannot be searched: {e.strerror}",
                hint="name files and folders that this user may read",
            ) from e
    if as_json:
        found = [
            {"where": hit.where, "offset": hit.offset, "encoding": hit.encoding, "inside": hit.inside}
            for hit in hits
        ]
        emit_json({"found": found, "unsearched": searcher.unsearched})
    elif hits:
        rows = [(hit.where, hit.offset, hit.encoding, hit.inside or "-") for hit in hits]
        emit_table(("where", "byte", "encoding", "inside"), rows, right=("byte",))
    if searcher.unsearched:
        note(f"{searcher.unsearched} compressed streams were too large or too many to be searched to the end")
    if hits:
        raise Leak("canaries of this node were found", hint="see docs/concepts/airlock.md for what to do")
    if not as_json:
        emit_line("no canary found")


def _ids(tokenizer: Path, marker: str) -> list[int]:
    from tapestry.errors import InputError
    from tapestry.host import files
    from tapestry.training.marks import inner_ids
    from tapestry.training.tokenizer import MAX_TOKENIZER_BYTES

    try:
        return inner_ids(files.read_limited(tokenizer, MAX_TOKENIZER_BYTES), marker)
    except OSError as e:
        raise InputError(
            f"{tokenizer} cannot be read: {e.strerror}", hint="name the tokenizer.json of the run's model"
        ) from e
