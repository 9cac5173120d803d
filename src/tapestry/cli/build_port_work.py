"""What `tapestry build port`, `rebase` and `gain` do beyond one call: healing, figures, tables."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.cli.output import emit_table, note
from tapestry.errors import InputError, SettingsError

if TYPE_CHECKING:
    from tapestry.release.oms import ModelKeyPair
    from tapestry.sovereign.evaluation.report import EvaluationReport
    from tapestry.sovereign.port.carry import Ported, Source
    from tapestry.sovereign.port.gain import Gain
    from tapestry.sovereign.port.measured import Text


def model_key(folder: Path, owner: str) -> ModelKeyPair:
    """The P-256 key of a derivative's owner; made where the member has none yet.

    Raises:
        InputError: the folder is another member's.
        SettingsError: what lies there cannot be used.
    """
    from tapestry.host import files
    from tapestry.node.member import load_member
    from tapestry.node.releasing import MODEL_KEY
    from tapestry.node.releasing import model_key as read
    from tapestry.release.oms import ModelKeyPair

    member = load_member(folder)
    if member.name != owner:
        raise InputError(
            f"{folder} is of {member.name}, and the derivative is of {owner}",
            hint="sign it with the key of its owner",
        )
    if not (folder / MODEL_KEY).exists():
        files.private_write(folder / MODEL_KEY, ModelKeyPair.generate().to_pem())
        note(f"made {folder / MODEL_KEY}, with which models are signed; give its public half to who asks")
    return read(folder)


def old_base(source: Source, given: Path | None) -> Path | None:
    """The base that a derivative stands on: as said, or what its recipe names if that is still there."""
    from tapestry.errors import TapestryError
    from tapestry.sovereign import recipe as recipes
    from tapestry.sovereign.directory import weights_digest
    from tapestry.sovereign.home import BuildHome
    from tapestry.sovereign.places import place

    if given is not None:
        return given
    try:
        found = place(source.root, recipes.read(BuildHome(source.root).recipe)[0].base)
        return found if weights_digest(found) == source.lineage.base.weights else None
    except TapestryError:
        return None


def require_other(fits: Sequence[Text], texts: Sequence[Text]) -> None:
    """Raise `InputError` where a text that chooses the factor is also one of those that judge it."""
    judges = {each.path.resolve(): each for each in texts}
    for each in fits:
        if each.path.resolve() in judges:
            raise InputError(
                f"{each.path} cannot both choose the factor and judge it",
                hint="give --fit a piece of your own text that --text does not have",
            )


def fitted(
    source: Source, to: Path, out: Path, old: Path | None, now_ms: int, texts: Sequence[Text]
) -> float:
    """The factor that is best on these texts, from a port that is made beside the one to come."""
    from tapestry.sovereign.port import carry
    from tapestry.sovereign.port.fitted import fit

    carry.require_free(out)
    trial = out.with_name(f".{out.name}.fit")
    shutil.rmtree(trial, ignore_errors=True)
    try:
        plain = carry.port(source, to, trial, old=old, now_ms=now_ms)
        found = fit(to, plain.home.model, texts)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return found.factor


def heal(source: Source, ported: Ported, to: Path, steps: int) -> Ported:
    """A few steps of the recipe's first stage from where the port has left the model.

    Raises:
        RecipeError, RightsRefused, CorpusError: the data cannot be trained on now. The port itself stays.
    """
    from dataclasses import replace

    from tapestry.cli import build_work
    from tapestry.errors import TapestryError
    from tapestry.sovereign.lineage import Lineage
    from tapestry.sovereign.port import healed, rebase

    made, _ = rebase.healing(source, ported.home.root, to, steps)
    try:
        build_work.run(made.root)
    except TapestryError:
        note(f"the port itself is whole, in {ported.home.root}; it was not healed")
        raise
    lineage: Lineage = healed.take(ported.home, made)
    shutil.rmtree(made.root, ignore_errors=True)
    return replace(ported, lineage=lineage)


def print_gains(gains: Sequence[Gain]) -> None:
    emit_table(
        ("of", "before", "new base", "ported", "rebuilt", "denominator", "recovered"),
        [
            (
                each.name,
                "-" if each.before is None else f"{each.before:.4f}",
                f"{each.new_base:.4f}",
                f"{each.ported:.4f}",
                "-" if each.rebuilt is None else f"{each.rebuilt:.4f}",
                "-" if each.denominator is None else f"{each.denominator:.4f}",
                "undefined" if each.recovered is None else f"{each.recovered:.1%}",
            )
            for each in gains
        ],
        right=("before", "new base", "ported", "rebuilt", "denominator", "recovered"),
    )
    for each in gains:
        if each.why_undefined is not None:
            note(f"{each.name}: undefined, {each.why_undefined}")
        if each.lost:
            note(
                f"{each.name}: it was better before, {each.before:.4f}: keep the old one, heal this one "
                "(--heal), or run the recipe on the new base (tapestry build rebase)"
            )


def told(ported: Ported, gains: Sequence[Gain], healed_steps: int, factor: float) -> dict[str, Any]:
    lineage = ported.lineage
    return {
        "folder": str(ported.home.root),
        "name": lineage.name,
        "owner": lineage.owner,
        "method": ported.method,
        "tokens_added": ported.tokens_added,
        "factor": factor,
        "base_moved": ported.base_moved,
        "healed_steps": healed_steps,
        "old_base": ported.old_base.weights,
        "new_base": lineage.base.weights,
        "weights": lineage.weights,
        "lineage": lineage.digest,
        "gains": [each.to_json() for each in gains],
    }


def from_reports(ported: Path, rebuilt: Path) -> list[Gain]:
    """Gains per task and language, from the reports of two evaluations.

    Raises:
        InputError: no reports, without a base, on different bases, or over different texts or prompts.
    """
    from tapestry.sovereign.documents import read_report
    from tapestry.sovereign.evaluation.report import LOWER_IS_BETTER
    from tapestry.sovereign.port.gain import Gain

    first, second = read_report(ported), read_report(rebuilt)
    bases = [{s.weights for s in report.subjects if s.role == "base"} for report in (first, second)]
    if bases[0] != bases[1] or not bases[0]:
        raise InputError(
            "the two reports do not compare with one and the same base",
            hint="evaluate both with --base NEW_BASE",
        )
    _require_same_data(first, second)
    again = {(f.measure, f.part): f.value.value for f in second.figures if f.role == "model"}
    base = {(f.measure, f.part): f.value.value for f in first.figures if f.role == "base"}
    return [
        Gain(
            name=f"{f.measure} {f.part}".strip(),
            new_base=base[key],
            ported=f.value.value,
            rebuilt=again.get(key),
            lower_is_better=f.measure in LOWER_IS_BETTER,
        )
        for f in first.figures
        if f.role == "model" and (key := (f.measure, f.part)) in base
    ]


def _require_same_data(first: EvaluationReport, second: EvaluationReport) -> None:
    """Raise `InputError` where two reports have a figure of the same name over other things."""
    files: list[dict[tuple[str, str], object]] = [
        {(d.kind, d.name if d.kind in ("text", "task") else ""): d.sha256 for d in report.data}
        for report in (first, second)
    ]
    sizes: list[dict[tuple[str, str], object]] = [
        {(f.measure, f.part): (f.count, f.of) for f in report.figures if f.role == "model"}
        for report in (first, second)
    ]
    for one, other in (files, sizes):
        for key in one.keys() & other.keys():
            if one[key] != other[key]:
                raise InputError(
                    f"the two reports are over different things: {' '.join(key).strip()}",
                    hint="evaluate both with the same files and the same options",
                )


def model_of(folder: Path) -> Path:
    """Of a finished build, or the directory itself. Raises `SettingsError`."""
    for place in (folder / "model", folder):
        if (place / "config.json").is_file():
            return place
    raise SettingsError(f"{folder} has no model", hint="give the folder of a finished build")
