"""What `tapestry build publish` and `tree` make of a build's folder and of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.errors import InputError, ModelError, TapestryError
from tapestry.protocol.derivative import (
    FIELDS,
    DerivativeRecord,
    ShownBase,
    ShownDerivative,
    ShownFigure,
)

if TYPE_CHECKING:
    from tapestry.sovereign.lineage import Lineage
    from tapestry.sovereign.tree import Made, Node

LEVELS = ("public", "consortium", "private")
_MAX_CERTIFICATE = 64 << 20


def name(folder: Path) -> str:
    """Of the derivative in a folder, or the word itself. Raises `InputError`."""
    from tapestry.protocol.canonical import is_name
    from tapestry.sovereign.home import BuildHome
    from tapestry.sovereign.lineage import Lineage

    if BuildHome(folder).lineage.is_file():
        return Lineage.load(BuildHome(folder).lineage).name
    if not is_name(str(folder)):
        raise InputError(
            f"{folder} is neither a build nor a derivative's name",
            hint="name the folder of a finished build, or see the names with: tapestry build list",
        )
    return str(folder)


def shown(
    folder: Path,
    visibility: Sequence[str],
    figures: Sequence[str],
    description: str,
    entitlement: Path | None,
    node: Path | None = None,
) -> tuple[str, str, ShownDerivative, tuple[str, ...]]:
    """Name, owner, what is shown of a finished build, and which of it is public.

    Raises:
        InputError: unfinished, an unknown field or level, figures that there are not.
        ModelError: the model is not the one that its lineage is of.
        RightsRefused: a dataset that it was trained on was withdrawn since, by its recipe's node or `node`.
        GateNotMet: its recipe has release gates, and its evaluation does not meet them.
    """
    from pydantic import ValidationError

    from tapestry.protocol.message import explain
    from tapestry.sovereign.directory import require_beside, weights_digest
    from tapestry.sovereign.port.carry import Source

    source = Source.open(folder, full=True)
    lineage = source.lineage
    if weights_digest(source.model) != lineage.weights:
        raise ModelError(
            f"the model in {source.model} is not the one its lineage is of",
            hint="build it again, or bring the files back",
        )
    require_beside(source.model, lineage.files)
    source.require_kept(node)
    source.require_gates()
    levels = _levels(visibility)
    values: dict[str, Any] = {
        "description": description or None,
        "base": _base(lineage),
        "weights": lineage.weights,
        "lineage": lineage.digest,
        "parent": lineage.parent.lineage if lineage.parent is not None else None,
        "stages": tuple(stage.kind for stage in lineage.stages),
        "licence": lineage.licence,
        "level": lineage.level,
        "languages": lineage.languages,
        "figures": _figures(source.root, lineage, figures) if figures else None,
        "entitlement": _digest(entitlement) if entitlement is not None else None,
    }
    kept = {key: None if levels.get(key) == "private" else value for key, value in values.items()}
    public = tuple(sorted(key for key in kept if levels.get(key) == "public" and kept[key] is not None))
    try:
        return lineage.name, lineage.owner, ShownDerivative(**kept), public
    except ValidationError as e:
        raise InputError(
            f"the derivative cannot be shown: {explain(e)}",
            hint="keep that field private: --visibility FIELD=private",
        ) from e


def _base(lineage: Lineage) -> ShownBase:
    base = lineage.base
    return ShownBase(weights=base.weights, state=base.state, run=base.run, round=base.round)


def _levels(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in given:
        field, _, level = each.partition("=")
        if field not in FIELDS or level not in LEVELS:
            raise InputError(
                f"--visibility {each!r} is not FIELD=LEVEL",
                hint=f"fields: {', '.join(FIELDS)}; levels: {', '.join(LEVELS)}",
            )
        found[field] = level
    return found


def _figures(root: Path, lineage: Lineage, wanted: Sequence[str]) -> tuple[ShownFigure, ...]:
    from tapestry.sovereign import documents

    report = documents.report_of(root, lineage)
    if report is None:
        raise InputError(
            f"there is no evaluation of this model in {root / 'eval'}", hint="make one with: tapestry eval"
        )
    found = tuple(
        ShownFigure(
            measure=f.measure, part=f.part, value=f.value.value, base=None if b is None else b.value.value
        )
        for f, b in documents.pairs(report)
        if "all" in wanted or f.measure in wanted
    )
    there = sorted({f.measure for f, _ in documents.pairs(report)})
    if missing := [each for each in wanted if each != "all" and each not in there]:
        raise InputError(f"the evaluation has no figure {missing[0]}", hint=f"it has {', '.join(there)}")
    return found


def _digest(path: Path) -> str:
    from tapestry.host import files
    from tapestry.protocol.canonical import sha256

    try:
        return sha256(files.read_limited(path, _MAX_CERTIFICATE))
    except (OSError, TapestryError) as e:
        raise InputError(f"{path} cannot be read: {e}", hint="give the file of a certificate") from e


def made(records: Iterable[DerivativeRecord]) -> list[Made]:
    """As places of a tree."""
    from tapestry.sovereign.tree import Made, base_name

    found = []
    for record in records:
        said = record.shown
        if said is None:
            continue
        base = said.base
        found.append(
            Made(
                key=said.lineage or record.digest,
                name=record.derivative,
                owner=record.member,
                level=said.level,
                base=None if base is None else base.weights,
                base_name=base_name(None, None, None)
                if base is None
                else base_name(base.run, base.round, base.weights),
                parent=said.parent,
                stages=tuple(said.stages or ()),
            )
        )
    return found


def as_json(node: Node) -> dict[str, Any]:
    return {
        "name": node.label,
        "note": node.note,
        "level": node.level,
        "below": [as_json(each) for each in node.below],
    }
