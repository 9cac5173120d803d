"""`tapestry build`: a derivative that its member owns, made on its own machine, from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.cli import build_export, build_port, build_registry
from tapestry.cli.options import Json
from tapestry.cli.output import emit_json, emit_line, emit_pairs, note

if TYPE_CHECKING:
    from tapestry.cli.build_work import State

app = typer.Typer(
    help="Sovereign builds: private training, instruction tuning and preferences, on your own machine.",
    no_args_is_help=True,
)

BuildFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the build, with build.toml.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; build.toml goes into it.")],
    base: Annotated[
        Path, typer.Option(metavar="MODEL_DIR", help="Hugging Face directory of the model to start from.")
    ],
    owner: Annotated[str, typer.Option(metavar="MEMBER", help="Member who will own the derivative.")],
    node: Annotated[
        Path | None, typer.Option(metavar="NODE_DIR", help="The owner's node, whose cards and rules hold.")
    ] = None,
    catalog: Annotated[
        Path,
        typer.Option("--catalog", metavar="FOLDER", help="Folder of cards, where no --node is given."),
    ] = Path("catalog"),
    residency: Annotated[
        str | None,
        typer.Option(metavar="CC", help="Country of this machine, ISO 3166-1, where no --node is given."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the derivative; the folder's name if left out.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="BCP 47, such as hsb or pt-BR. Repeatable.")
    ] = None,
    level: Annotated[
        str, typer.Option(help="Whom it is for: global, regional, national or entity.")
    ] = "entity",
    licence: Annotated[
        str, typer.Option("--license", metavar="SPDX", help="Of the derivative.")
    ] = "Apache-2.0",
    text: Annotated[
        Path | None, typer.Option("--text", metavar="DIR", help="Text for private continued pre-training.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option("--examples", metavar="DIR", help="Examples for instruction tuning.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", metavar="DIR", help="Pairs for preference alignment.")
    ] = None,
    constitution: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Constitution that filters what is trained on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a recipe with a stage for each kind of data you name, to be read and changed before it is run.

    Nothing is trained yet, and nothing of a build ever leaves this machine by itself.

    Example: tapestry build init ./hsb --base ./base --owner domowina --node ./node --text ./texts
    """
    from tapestry.cli.build_work import Wanted, write_recipe

    made = write_recipe(
        folder,
        Wanted(
            base=base,
            owner=owner,
            node=node,
            cards=catalog,
            residency=residency,
            name=name or folder.absolute().name.lower(),
            languages=tuple(language or ()),
            level=level,
            licence=licence,
            data={"cpt": text, "sft": examples, "dpo": pairs},
            constitution=constitution,
        ),
    )
    if as_json:
        emit_json({"recipe": str(made.path), "stages": [each.kind for each in made.recipe.stage]})
        return
    emit_line(str(made.path))
    note(f"read it, change it, then: tapestry build run {folder}")


@app.command()
def run(folder: BuildFolder, as_json: Json = False) -> None:
    """Carry out the recipe of a build, in a process without a network, from where it stands to its end.

    Killed or interrupted, it goes on from its last checkpoint when it is run again; on one CPU the result is
    the same to the bit.

    Example: tapestry build run ./hsb
    """
    from tapestry.cli import build_work

    _show(build_work.run(folder), as_json)


@app.command()
def resume(folder: BuildFolder, as_json: Json = False) -> None:
    """Go on with a build that was stopped; one that is finished is shown.

    Example: tapestry build resume ./hsb
    """
    from tapestry.cli import build_work

    _show(build_work.run(folder, again=True), as_json)


@app.command()
def status(folder: BuildFolder, as_json: Json = False) -> None:
    """What a build is doing, or what came of it: stage, step, loss, time left.

    Example: tapestry build status ./hsb
    """
    from tapestry.cli import build_work

    _show(build_work.state(folder), as_json)


def _show(state: State, as_json: bool) -> None:
    if as_json:
        emit_json(state.as_json())
        return
    emit_pairs(state.pairs())
    state.print_stages()
    for each in state.notes():
        note(each)


app.command("export")(build_export.export)
app.command("port")(build_port.port)
app.command("rebase")(build_port.rebase)
app.command("gain")(build_port.gain)
app.command("publish")(build_registry.publish)
app.command("list")(build_registry.list_)
app.command("show")(build_registry.show)
app.command("tree")(build_registry.tree)
