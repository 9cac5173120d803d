"""`tapestry catalog`: which text there is, under which rights. Cards are at home; text is never sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapestry.cli.catalog_revoke import revoke
from tapestry.cli.catalog_tables import facts, print_rows, tell_rights, text
from tapestry.cli.options import Json
from tapestry.cli.output import (
    counted,
    emit_json,
    emit_line,
    emit_pairs,
    emit_table,
    human_bytes,
    note,
)

if TYPE_CHECKING:
    from tapestry.catalog.overview import Row
    from tapestry.training.shelf import Shelf

app = typer.Typer(
    help="Datasets: what there is, under which rights, and whether it is still what its card says.",
    no_args_is_help=True,
)

NodeFolder = Annotated[
    Path | None, typer.Option("--home", metavar="NODE_DIR", help="Node whose cards they are, in its cards/.")
]
CatalogFolder = Annotated[
    Path, typer.Option("--catalog", metavar="FOLDER", help="Folder of cards, where no --home is given.")
]
CoreUrl = Annotated[
    str | None,
    typer.Option(
        "--core", metavar="URL", help="Ask this core what all members publish, as the node of --home."
    ),
]
DEFAULT = Path("catalog")


def shelf(home: Path | None, catalog: Path) -> Shelf:
    """Where the cards are. Raises `SettingsError` where --home is no node's."""
    from tapestry.node.home import Home
    from tapestry.training.shelf import Shelf

    if home is None:
        return Shelf(catalog)
    Home(home).check()
    return Shelf.of_node(home)


def rows(home: Path | None, catalog: Path, core: str | None) -> list[Row]:
    """Own cards, or what members publish. Raises `InputError`, and what the core answers."""
    from tapestry.catalog import overview

    if core is None:
        return [overview.of_card(each.card) for each in shelf(home, catalog).all()]
    from tapestry.errors import InputError
    from tapestry.node.home import Home
    from tapestry.node.listing import listed

    if home is None:
        raise InputError(
            "--core needs --home: a core answers members only", hint="name a node that has joined"
        )
    every = [overview.of_entry(entry) for entry in listed(Home(home), core_url=core)]
    return [row for row in every if row is not None]


@app.command()
def add(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with train.* and valid.*, as a node reads it.")
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset: a-z, 0-9, '.', '_' and '-'.")],
    licence: Annotated[
        str,
        typer.Option("--license", metavar="SPDX", help="SPDX expression, or LicenseRef-NAME for own terms."),
    ],
    language: Annotated[
        list[str], typer.Option(metavar="CODE", help="BCP 47, such as de or pt-BR. Repeatable.")
    ],
    residency: Annotated[
        list[str],
        typer.Option(metavar="CC", help="Country where it may be processed, ISO 3166-1. Repeatable."),
    ],
    category: Annotated[str, typer.Option(help="One of open, unique-open, controlled, sovereign, private.")],
    stage: Annotated[
        list[str],
        typer.Option(help="Of base, contributed-cpt, private-cpt, sft, preference, evaluation. Repeatable."),
    ],
    consent_basis: Annotated[
        str | None, typer.Option(metavar="TEXT", help="On what ground it may be used.")
    ] = None,
    consent_until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Last day of that consent, YYYY-MM-DD.")
    ] = None,
    retain_until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Last day on which it may be kept, YYYY-MM-DD.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Whose it is; the node's member if left out.")
    ] = None,
    domain: Annotated[str, typer.Option(help="What it is about, as one name.")] = "general",
    description: Annotated[str, typer.Option(metavar="TEXT", help="In a sentence or two.")] = "",
    provenance: Annotated[str, typer.Option(metavar="TEXT", help="Where the text is from.")] = "",
    visibility: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=LEVEL", help="Who may know a field: public, consortium, private. Repeatable."
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Only files of such paths below DIR: others have a card too. Repeatable."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make the card of that name anew.")] = False,
    home: NodeFolder = None,
    catalog: CatalogFolder = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a card for a folder of text: read it, hash it, count it, and state its rights. Nothing leaves.

    Example:
    tapestry catalog add ./t --name t --license MIT --language de --residency CH --category open --stage base
    """
    from tapestry.training.holding import hold, lineage_of
    from tapestry.training.rights import today

    place = shelf(home, catalog)
    described: dict[str, Any] = {
        "name": name, "description": description, "owner": owner or _member(home), "languages": language,
        "domain": domain, "licence": licence, "made": today(), "provenance": provenance,
        "consent_basis": consent_basis, "consent_until": consent_until, "residency": residency,
        "category": category, "stages": stage, "retention": retain_until, "visibility": _levels(visibility),
    }  # fmt: skip
    place.check(described, replace=replace, day=today())
    with counted(f"hashing {folder}") as tell:
        holding = hold(folder, tell, only=_named(file))
    if not holding.files:
        from tapestry.errors import CorpusError

        raise CorpusError(
            f"no text in {folder} is called {' or '.join(file or ())}", hint="--file 'letters/*', say"
        )
    described["lineage"] = None if file else lineage_of(folder, holding)
    made = place.put(holding.values(folder, **described), replace=replace)
    if as_json:
        emit_json({"card": str(place.path(name)), "digest": made.digest, **facts(made.card)})
        return
    emit_line(made.card.content.root)
    content = made.card.content
    note(f"card {place.path(name)}: {content.documents} documents, {human_bytes(content.bytes)} of text")
    tell_rights(made.card, home)


@app.command("list")
def list_(
    home: NodeFolder = None,
    catalog: CatalogFolder = DEFAULT,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """All datasets: own cards, or with --core what every member publishes.

    Example: tapestry catalog list --home ./node
    """
    print_rows(rows(home, catalog, core), as_json)


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORD...", help="Each must occur in some field.")],
    home: NodeFolder = None,
    catalog: CatalogFolder = DEFAULT,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """Datasets in which every word occurs: in name, description, owner, languages, licence, stages and so on.

    Example: tapestry catalog search de law --home ./node --core https://core.example.org:8440
    """
    from tapestry.catalog import overview

    print_rows(overview.search(rows(home, catalog, core), words), as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.")],
    home: NodeFolder = None,
    catalog: CatalogFolder = DEFAULT,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """One card. With --json the whole of it, as Croissant; with --core what members publish under that name.

    Example: tapestry catalog show letters --home ./node
    """
    if core is not None:
        from tapestry.errors import NotFound

        found = [row for row in rows(home, catalog, core) if row.name == name]
        if not found:
            raise NotFound(
                f"no member publishes a dataset {name}", hint="see: tapestry catalog list --core URL"
            )
        if as_json:
            emit_json({"datasets": [row.to_json() for row in found]})
            return
        for row in found:
            emit_pairs((key, text(value)) for key, value in row.to_json().items())
        return
    card = shelf(home, catalog).read(name)
    if as_json:
        emit_json(card.document())
        return
    known = {**facts(card.card), "digest": card.digest}
    emit_pairs((key, text(value)) for key, value in known.items())


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Datasets; all if left out.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where the text lies now, for one dataset.")
    ] = None,
    home: NodeFolder = None,
    catalog: CatalogFolder = DEFAULT,
    as_json: Json = False,
) -> None:
    """Hash the text again and name what changed; with --home also say which stages each may enter there.

    Example: tapestry catalog check letters --home ./node
    """
    from tapestry.cli.catalog_check import check_all, print_checked
    from tapestry.errors import CardError

    checked = check_all(shelf(home, catalog), names or [], folder, home)
    if as_json:
        emit_json({"datasets": [each.to_json() for each in checked]})
    else:
        print_checked(checked)
    if wrong := [each.name for each in checked if not each.whole]:
        raise CardError(
            f"not what their cards describe: {', '.join(wrong)}",
            hint="bring the files back, or make the card anew: tapestry catalog add ... --replace",
        )


@app.command()
def coverage(
    want: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="A language that ought to be there. Repeatable.")
    ] = None,
    home: NodeFolder = None,
    catalog: CatalogFolder = DEFAULT,
    core: CoreUrl = None,
    as_json: Json = False,
) -> None:
    """What there is of each language, and for which stages there is nothing.

    Example: tapestry catalog coverage --want rm --home ./node
    """
    from tapestry.catalog import overview

    found = overview.coverage(rows(home, catalog, core), want or [])
    if as_json:
        emit_json({"languages": [each.to_json() for each in found]})
        return
    emit_table(
        (
            "language",
            "datasets",
            "documents",
            "text",
            "tokens",
            "in mixed ones",
            "size unknown",
            "nothing for",
        ),
        [
            (
                each.language,
                each.datasets,
                each.documents,
                human_bytes(each.bytes),
                each.tokens,
                human_bytes(each.mixed_bytes),
                each.unstated,
                ", ".join(each.missing) or "-",
            )
            for each in found
        ],
        right=("datasets", "documents", "text", "tokens", "in mixed ones", "size unknown"),
    )


@app.command()
def publish(
    home: Annotated[
        Path, typer.Option("--home", metavar="NODE_DIR", help="Node whose cards, and whose key.")
    ],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Datasets; all if left out.")
    ] = None,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Show these datasets to nobody any more; they must be named.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")
    ] = False,
    core: Annotated[
        str | None,
        typer.Option("--core", metavar="URL", help="Where the core listens, if elsewhere than joined."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell the consortium what the cards show: fields that are public or for the consortium, never text.

    Examples: tapestry catalog publish --home ./node --dry-run

    tapestry catalog publish letters --home ./node
    """
    from tapestry.catalog.listing import shown
    from tapestry.errors import InputError
    from tapestry.node import listing
    from tapestry.node.home import Home

    if take_back and not names:
        raise InputError(
            "--take-back needs the names of datasets", hint="see them with: tapestry catalog list"
        )
    place = shelf(home, DEFAULT)
    cards = [] if take_back else [place.read(name).card for name in names or place.names()]
    if dry_run:
        sent: list[dict[str, Any]] = [
            {"dataset": card.name, **shown(card)[0].model_dump(mode="json", exclude_none=True)}
            for card in cards
        ]
        emit_json(
            {"would_send": sent + [{"dataset": name, "card": None} for name in names or [] if take_back]}
        )
        return
    made = listing.publish(Home(home), cards, take_back=(names or []) if take_back else (), core_url=core)
    if as_json:
        emit_json({"published": [entry.model_dump(mode="json") for entry in made]})
        return
    for entry in made:
        emit_line(entry.dataset)
    note(f"{len(made)} datasets {'taken back' if take_back else 'published'}; text and files stay here")


app.command()(revoke)


def _member(home: Path | None) -> str:
    if home is None:
        return "unstated"
    from tapestry.node import settings
    from tapestry.node.home import Home

    return settings.load(Home(home)).node.member


def _named(globs: list[str] | None) -> Callable[[str], bool]:
    """Whether a file is one of those; any where none is named. `*` is any letters, also `/`."""
    from fnmatch import fnmatchcase

    return lambda path: not globs or any(fnmatchcase(path, glob) for glob in globs)


def _levels(given: list[str] | None) -> dict[str, str]:
    from tapestry.errors import InputError

    found = {}
    for each in given or []:
        field, equals, level = each.partition("=")
        if not equals:
            raise InputError(f"--visibility {each!r} is not FIELD=LEVEL", hint="for example: root=private")
        found[field] = level
    return found
