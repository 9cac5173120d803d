"""`tapestry build export`: a derivative in the formats that other programs open, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tapestry.errors import Conflict, InputError, ModelError
from tapestry.host import files
from tapestry.release.oms import ModelKeyPair
from tapestry.sovereign import documents, models
from tapestry.sovereign.directory import ADAPTER, require_beside, weight_files, weights_digest
from tapestry.sovereign.evaluation.report import EvaluationReport
from tapestry.sovereign.gguf.check import Compared
from tapestry.sovereign.port.carry import Source

Format = Literal["hf", "lora", "gguf"]
FORMATS: Final = ("hf", "lora", "gguf")
_KEPT: Final = (".json", ".txt", ".jinja", ".model", ".safetensors")
"""Files of a model directory; no code, no pickle."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Args:
        folder: that holds it.
        weights: path of the weights below it; the first of several.
        compared: of GGUF: what loading it back has shown.
        signed: whether it has the owner's signature.
    """

    folder: Path
    weights: str
    compared: Compared | None
    signed: bool


def export(
    source: Source, kind: Format, out: Path, *, key: ModelKeyPair | None, report: Path | None
) -> Exported:
    """Write a derivative, with card, lineage and bill of materials beside it.

    Args:
        source: a finished build, or a model that left one.
        kind: `hf`, a Hugging Face directory; `lora`, an adapter directory of peft; `gguf`, one file.
        out: folder to make; must not exist, or be empty.
        key: of the owner, for a signature of all files; None for none.
        report: of an evaluation, for the card; the build's own where it has one, if None.

    Raises:
        InputError: something is in `out`, or the report is of another model.
        ModelError: the derivative is not what its lineage says, or has no such form.
        RightsRefused: a dataset that it was trained on was withdrawn since.
        RecipeError: the node that its recipe names, and which would know, is not there.
        GateNotMet: its recipe has release gates, and its evaluation does not meet them.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty", hint="name a folder that does not exist yet with --out")
    _require_unchanged(source, kind)
    source.require_kept()
    source.require_gates()
    found = _report(source, report)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with files.full_disk(out):
            temporary.mkdir(parents=True)
            weights, compared = _WRITERS[kind](source, temporary)
            _documents(source, kind, temporary, weights, found)
            if key is not None:
                documents.sign(temporary, source.lineage, key)
        files.publish_dir(temporary, out)
    except Conflict as e:
        raise InputError(f"{out} is not empty", hint="name a folder that does not exist yet") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(folder=out, weights=weights, compared=compared, signed=key is not None)


def _require_unchanged(source: Source, kind: Format) -> None:
    """Raise `ModelError` for weights, or files beside them, that are not those of the lineage, which goes out
    with them.

    Of an adapter the lineage tells the weights where it is what the last stage came to; one that was carried
    over is known by its merged model alone.
    """
    last = source.lineage.stages[-1]
    for folder, wanted in (
        (source.model if kind != "lora" else None, source.lineage.weights),
        (source.adapter if kind == "lora" and last.method == "lora" else None, last.result),
    ):
        if folder is not None and weights_digest(folder) != wanted:
            raise ModelError(
                f"the model in {folder} is not the one its lineage is of: its weights were changed",
                hint="build it again, or bring the files back",
            )
    if kind != "lora":
        require_beside(source.model, source.lineage.files)
    elif source.adapter is not None:
        require_beside(source.adapter, source.lineage.adapter_files)


def _report(source: Source, given: Path | None) -> EvaluationReport | None:
    """Figures for the card. Raises `InputError` for those of another model."""
    if given is None:
        return documents.report_of(source.root, source.lineage)
    found = documents.read_report(given)
    if all(each.role != "model" or each.weights != source.lineage.weights for each in found.subjects):
        raise InputError(
            f"{given} is an evaluation of another model",
            hint="evaluate this one: tapestry eval MODEL --out DIR",
        )
    return found


def _hf(source: Source, to: Path) -> tuple[str, Compared | None]:
    _copy(source.model, to)
    return weight_files(to)[0].name, None


def _lora(source: Source, to: Path) -> tuple[str, Compared | None]:
    if source.adapter is None:
        raise ModelError(
            f"the build in {source.root} has no adapter: it trained full weights, or merged one",
            hint="take --format hf or gguf",
        )
    _copy(source.adapter, to)
    return ADAPTER, None


def _gguf(source: Source, to: Path) -> tuple[str, Compared | None]:
    from tapestry.sovereign.gguf import check, write

    lineage = source.lineage
    file = to / f"{lineage.name}.gguf"
    said = write.Said(
        name=f"{lineage.owner}/{lineage.name}",
        owner=lineage.owner,
        licence=lineage.licence,
        languages=lineage.languages,
    )
    write.write(source.model, file, said)
    return file.name, check.compare(source.model, file)


_WRITERS: Final[dict[str, Callable[[Source, Path], tuple[str, Compared | None]]]] = {
    "hf": _hf,
    "lora": _lora,
    "gguf": _gguf,
}
_OPENING: Final = {
    "lora": "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
    'base = AutoModelForCausalLM.from_pretrained("FOLDER OF THE BASE")\n'
    'model = PeftModel.from_pretrained(base, ".")\n```\n\nThe base is the one whose hash stands above.',
    "gguf": "```\nllama-cli -m {weights} -p 'Once'\n```\n\n"
    "The weights are fp32; `llama-quantize` makes smaller ones.",
}


def _copy(folder: Path, to: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _KEPT:
            shutil.copyfile(path, to / path.name)


def _documents(source: Source, kind: Format, to: Path, weights: str, report: EvaluationReport | None) -> None:
    lineage = source.lineage
    opening = _OPENING.get(kind)
    text = documents.card(lineage, report, None if opening is None else opening.format(weights=weights))
    lineage.save(to / models.LINEAGE)
    (to / models.CARD).write_text(text, encoding="utf-8")
    (to / documents.BOM).write_bytes(documents.bom(lineage, report, documents.digests(to), weights))
