"""What goes beside a model that leaves a build: card with figures, bill of materials, signature."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tapestry.errors import FormatError, InputError, TapestryError
from tapestry.host import files
from tapestry.release import cyclonedx, oms
from tapestry.release.cyclonedx import Component
from tapestry.release.oms import ModelKeyPair
from tapestry.sovereign.card import KINDS, model_card
from tapestry.sovereign.evaluation.report import EvaluationReport, Figure
from tapestry.sovereign.lineage import Lineage

BOM: Final = "bom.cdx.json"
CARD: Final = "README.md"
LINEAGE: Final = "lineage.json"
_PIECE: Final = 1 << 20


def read_report(path: Path) -> EvaluationReport:
    """Of `tapestry eval`. Raises `InputError`."""
    try:
        return EvaluationReport.from_bytes(files.read_limited(path, EvaluationReport.MAX_BYTES))
    except (OSError, TapestryError) as e:
        raise InputError(
            f"{path} is no report of an evaluation: {e}", hint="make one with: tapestry eval"
        ) from e


def report_of(root: Path, lineage: Lineage) -> EvaluationReport | None:
    """The one in a build, where it is of the finished model. Raises `InputError` for a damaged one."""
    path = root / "eval" / "report.json"
    if not path.exists():
        return None
    report = read_report(path)
    ours = [each for each in report.subjects if each.role == "model"]
    return report if ours and ours[0].weights == lineage.weights else None


def pairs(report: EvaluationReport) -> list[tuple[Figure, Figure | None]]:
    """Figures of the model, each with that of its base."""
    base = {(f.measure, f.part): f for f in report.figures if f.role == "base"}
    return [(f, base.get((f.measure, f.part))) for f in report.figures if f.role == "model"]


def card(lineage: Lineage, report: EvaluationReport | None, opening: str | None = None) -> str:
    """README.md. `opening`: how it is opened, where that is not by transformers alone."""
    text = model_card(lineage)
    if opening is not None:
        text = text[: text.index("```python")] + opening + "\n"
    if report is None:
        return text
    rows = [
        f"| {f.measure} | {f.part} | {_interval(f)} | {'-' if b is None else _interval(b)} |"
        for f, b in pairs(report)
    ]
    head = ["## Evaluation", "", "By the owner; with intervals.", ""]
    table = ["| measure | of | this model | its base |", "|---|---|---|---|", *rows]
    return text + "\n".join(["", *head, *table, *(f"\n{note}" for note in report.notes), ""])


def bom(lineage: Lineage, report: EvaluationReport | None, digests: Mapping[str, str], weights: str) -> bytes:
    """CycloneDX. `weights`: path of the file with the weights, or of the first of them."""
    ended = [stage.ended for stage in lineage.stages]
    base = lineage.base
    ancestor: dict[str, Any] = {
        "type": "machine-learning-model",
        "name": base.run or "base",
        "version": "" if base.round is None else str(base.round),
        "properties": [{"name": "tapestry:weights", "value": base.weights}],
    }
    return cyclonedx.document(
        Component(
            name=f"{lineage.owner}/{lineage.name}",
            version=(lineage.weights or "")[:12],
            description=f"A sovereign model of {lineage.owner}",
            licence=lineage.licence,
            weights=digests[weights],
            card=_model_card(lineage, report),
            properties=_properties(lineage),
            ancestors=(ancestor,),
        ),
        digests,
        identity=lineage.digest,
        at=ended[-1] if ended else "1970-01-01T00:00:00.000Z",
    )


def _model_card(lineage: Lineage, report: EvaluationReport | None) -> dict[str, Any]:
    kinds = {stage.kind for stage in lineage.stages}
    datasets = {dataset.name: dataset for stage in lineage.stages for dataset in stage.datasets}
    return {
        "modelParameters": {
            "approach": {"type": "supervised" if kinds & {"sft", "dpo"} else "self-supervised"},
            "task": "text-generation",
            "datasets": [
                {
                    "type": "dataset",
                    "name": name,
                    "description": f"{each.documents} documents, {each.tokens} tokens; card {each.card}",
                    "governance": {"owners": [{"organization": {"name": lineage.owner}}]},
                }
                for name, each in sorted(datasets.items())
            ],
            "inputs": [{"format": "string"}],
            "outputs": [{"format": "string"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {
                    "type": f.measure,
                    "value": repr(f.value.value),
                    "slice": f.part or "all",
                    "confidenceInterval": {"lowerBound": repr(f.value.low), "upperBound": repr(f.value.high)},
                }
                for f, _ in (pairs(report) if report is not None else ())
            ]
        },
        "considerations": {"technicalLimitations": ["Figures of evaluation are its owner's."]},
    }


def _properties(lineage: Lineage) -> list[dict[str, str]]:
    values = {
        "owner": lineage.owner,
        "level": lineage.level,
        "languages": ", ".join(lineage.languages),
        "lineage": lineage.digest,
        "weights": lineage.weights or "",
        "base": lineage.base.weights,
        "base-state": lineage.base.state or "",
        "parent": lineage.parent.lineage if lineage.parent is not None else "",
        "stages": ", ".join(KINDS[stage.kind] for stage in lineage.stages),
    }
    return [{"name": f"tapestry:{name}", "value": value} for name, value in values.items()]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of all files below a folder but signatures, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and not relative.startswith(f"{oms.SIGNATURES}/"):
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
            found[relative] = digest.hexdigest()
    return found


def sign(folder: Path, lineage: Lineage, key: ModelKeyPair) -> None:
    """Put an OpenSSF signature of all files into `signatures/`, with the public key."""
    beside = folder / oms.SIGNATURES
    beside.mkdir()
    bundle = key.sign(lineage.name, digests(folder))
    (beside / f"{lineage.owner}.sig").write_text(bundle)
    (beside / f"{lineage.owner}.pub").write_text(key.public_pem)


def verify(folder: Path, public_pem: str) -> Lineage:
    """Raise `SignatureError` unless the owner's signature is by this key, over just these files."""
    lineage = Lineage.load(folder / LINEAGE)
    try:
        bundle = files.read_limited(folder / oms.SIGNATURES / f"{lineage.owner}.sig", 16 << 20).decode()
    except (OSError, ValueError) as e:
        raise FormatError(f"{folder} has no signature of {lineage.owner}") from e
    oms.verify(bundle, public_pem, lineage.name, digests(folder))
    return lineage


def _interval(figure: Figure) -> str:
    value = figure.value
    return f"{value.value:.4g} ({value.low:.4g}–{value.high:.4g})"
