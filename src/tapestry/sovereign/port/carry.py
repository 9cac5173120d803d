"""`tapestry build port`: a derivative onto another base, whole or not at all; owner and lineage go along."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry import __version__
from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import Conflict, InputError, ModelError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.protocol.clock import time_text
from tapestry.sovereign import gates, models
from tapestry.sovereign import recipe as recipes
from tapestry.sovereign.card import model_card
from tapestry.sovereign.directory import ADAPTER, WEIGHTS, Tensors, files_beside, weights_digest
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Base, Lineage, Parent, Stage
from tapestry.sovereign.places import Catalog, require_kept
from tapestry.sovereign.port import adapter as lora
from tapestry.sovereign.port import arithmetic
from tapestry.sovereign.port.arithmetic import Tables
from tapestry.sovereign.port.moved import moved
from tapestry.sovereign.port.rows import Rows, matched
from tapestry.training.architectures import Architecture
from tapestry.training.model import CONFIG, LEFT_OUT, configured
from tapestry.training.withdrawals import Withdrawals

if TYPE_CHECKING:
    from torch import Tensor

PARENTS: Final = "parents"
"""Folder of a build with the lineage of each derivative it was carried over from, by digest."""
_MAX_JSON: Final = 64 << 20
_FREE: Final = LEFT_OUT | {"vocab_size", "dtype", "pad_token_id", "bos_token_id", "eos_token_id", "use_cache"}
"""Keys of a configuration in which two bases of one architecture may differ."""
_CHAT: Final = "chat_template.jinja"
_GENERATION: Final = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class Ported:
    """What was made."""

    home: BuildHome
    lineage: Lineage
    old_base: Base
    method: str
    """`lora` where the adapter was put on the new base, `full` where weights were summed."""
    tokens_added: int
    """That the new base has and the derivative did not have."""
    base_moved: float | None
    """How far the base has gone meanwhile, of its own length; None where the old one is not at hand."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A derivative on the disk: a build's folder, or a model that was exported with its lineage."""

    root: Path
    model: Path
    adapter: Path | None
    lineage: Lineage

    @classmethod
    def open(cls, root: Path, *, full: bool = False) -> Source:
        """Raises `InputError` where it is none, or unfinished. `full`: merged weights, also of an adapter."""
        home = BuildHome(root)
        lineage = Lineage.load(home.lineage)
        model = home.model if home.model.is_dir() else root
        places = () if full else (home.adapter, root)
        adapter = next((each for each in places if (each / ADAPTER).is_file()), None)
        if lineage.weights is None:
            raise InputError(
                f"the build in {root} is not finished", hint=f"go on with it: tapestry build resume {root}"
            )
        if adapter is None and not (model / CONFIG).is_file():
            raise ModelError(f"{root} has no model", hint="give the folder of a finished build")
        return cls(root=root, model=model, adapter=adapter, lineage=lineage)

    def require_kept(self, node: Path | None = None) -> None:
        """Raise `RightsRefused` where a dataset that it or one before it was trained on was withdrawn since.

        Asked is the node that its recipe names, and `node`. Raises `RecipeError` where that of the recipe is
        not there to be asked. A model that has left its build has no recipe; it was asked when it left.
        """
        home = BuildHome(self.root)
        marks: tuple[Withdrawn, ...] = ()
        if home.recipe.is_file():
            marks = Catalog(self.root, recipes.read(home.recipe)[0]).marks()
        if node is not None:
            marks += Withdrawals(node).marks()
        require_kept(marks, self.lineage, home.ancestors(self.lineage))

    def require_gates(self) -> None:
        """Raise `GateNotMet` where its recipe has release gates that its evaluation does not meet.

        A model that has left its build has no recipe with it; it was asked when it left.
        """
        home = BuildHome(self.root)
        if not home.recipe.is_file():
            return
        stated = recipes.read(home.recipe)[0].gates
        if stated.model_fields_set - {"cautious"}:
            gates.require(stated, self.model, home.evaluation / "report.json")


def require_free(out: Path) -> None:
    """Raise `InputError` where something is in a folder that is to be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty", hint="name a folder that does not exist yet with --out")


def port(
    source: Source, to: Path, out: Path, *, old: Path | None, now_ms: int, factor: float = 1.0
) -> Ported:
    """Carry a derivative over.

    Args:
        source: the derivative.
        to: directory of the new base.
        out: folder that is made; must not exist, or be empty.
        old: directory of the base it stands on; not needed for an adapter.
        now_ms: the time, for the lineage.
        factor: how many times what was changed is added.

    Raises:
        ModelError: not the base it stands on; or the new one is of another architecture, shape or tokenizer.
        InputError: something is in `out`.
    """
    began = time_text(now_ms)
    require_free(out)
    base = models.base_of(to)
    if base.weights == source.lineage.base.weights:
        raise ModelError(f"the derivative stands on {to} already", hint="name the next base with --to")
    rows = _compatible(source, old, to)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with files.full_disk(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            made = BuildHome(temporary)
            made.model.mkdir(parents=True)
            far = _sum(source, old, to, made, rows, factor)
            _beside(source, to, made.model, rows)
            lineage = _lineage(source, base, made, (began, time_text(now_ms)), factor)
            _record(source, lineage, made, to)
        files.publish_dir(temporary, out)
    except Conflict as e:
        raise InputError(f"{out} is not empty", hint="name a folder that does not exist yet") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    method = "full" if source.adapter is None else "lora"
    return Ported(
        home=BuildHome(out),
        lineage=lineage,
        old_base=source.lineage.base,
        method=method,
        tokens_added=rows.added,
        base_moved=far,
    )


def _compatible(source: Source, old: Path | None, to: Path) -> Rows:
    """Which rows are which. Raises `ModelError`."""
    stands_on = source.lineage.base
    if old is not None and weights_digest(old) != stands_on.weights:
        raise ModelError(
            f"{old} is not the base that the derivative stands on: weights {stands_on.weights[:12]}",
            hint="name the directory of that base with --from",
        )
    if old is None and source.adapter is None:
        raise ModelError(
            "the base that the derivative stands on is needed, to know what was changed",
            hint="name its directory with --from",
        )
    like = source.model if (source.model / CONFIG).is_file() else old
    if like is None:
        raise ModelError(
            "the base that the adapter stands on is needed", hint="name its directory with --from"
        )
    before, after = _config(like), _config(to)
    for key in sorted((set(before) | set(after)) - _FREE):
        if before.get(key) != after.get(key):
            what = f"{key} is {after.get(key)!r}, and {before.get(key)!r} in {like}"[:300]
            raise ModelError(f"{to} is another architecture: {what}", hint=arithmetic.HINT)
    return matched(like, to, old)


def _sum(
    source: Source, old: Path | None, to: Path, made: BuildHome, rows: Rows, factor: float
) -> float | None:
    """Write what is made; returns how far the base has gone."""
    with ExitStack() as stack:
        new = stack.enter_context(Tensors(to))
        tables = Tables(_tables(to, new), rows)
        if source.adapter is None:
            assert old is not None  # noqa: S101 - `_compatible` has asked for it
            before, after = stack.enter_context(Tensors(old)), stack.enter_context(Tensors(source.model))
            arithmetic.check_shapes(before, new, tables)
            arithmetic.check_shapes(before, after, tables)
            change = arithmetic.difference(before, after, new, tables, factor)
        else:
            opened = lora.Adapter.open(source.adapter)
            pieces = stack.enter_context(Tensors(source.adapter))
            opened.check(pieces, new, tables)
            change = opened.change(pieces, new, tables, factor)
            made.adapter.mkdir()
            moved = opened.moved(pieces, new, tables)
            shapes = {n: tuple(moved[n].shape) if n in moved else pieces.shape(n) for n in pieces.names}
            times = opened.times(pieces, factor)

            def make(name: str) -> Tensor:
                values = moved[name] if name in moved else pieces.read(name)
                return values if times.get(name, 1.0) == 1.0 else values.float() * times[name]

            arithmetic.rewritten(pieces, make, shapes, made.adapter / ADAPTER)
            (made.adapter / lora.CONFIG).write_bytes(opened.config_for(""))
        arithmetic.carry(new, change, made.model / WEIGHTS)
        return None if old is None else arithmetic.moved(stack.enter_context(Tensors(old)), new, tables)


def _tables(folder: Path, tensors: Tensors) -> frozenset[str]:
    """Names of the input embedding and of the output head."""
    meta: Any = Architecture.of(_config(folder)).without_values(_settings(folder))
    parts = [meta.get_input_embeddings().weight, meta.get_output_embeddings().weight]
    names = {n for n, p in meta.named_parameters(remove_duplicate=False) if any(p is each for each in parts)}
    return frozenset(name for name in names if name in tensors)


def _settings(folder: Path) -> Any:
    given = {key: value for key, value in _raw(folder).items() if key not in LEFT_OUT}
    return configured(Architecture.of(given), given)


def _config(folder: Path) -> dict[str, Any]:
    """With the architecture's defaults for what the file leaves out."""
    values: dict[str, Any] = _settings(folder).to_dict()
    return {**values, "model_type": _raw(folder).get("model_type", "llama")}


def _raw(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads(files.read_limited(folder / CONFIG, _MAX_JSON))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{folder / CONFIG} cannot be read", hint="give a model's directory") from e
    if not isinstance(value, dict):
        raise ModelError(f"{folder / CONFIG} is not a JSON object")
    return value


def _beside(source: Source, to: Path, model: Path, rows: Rows) -> None:
    """Configuration and tokenizer are the new base's; how to chat is the derivative's."""
    for path in sorted(to.iterdir()):
        if path.suffix in (".json", ".txt", ".model") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, model / path.name)
    (model / models.LINEAGE).unlink(missing_ok=True)
    for name in (_CHAT, _GENERATION):
        for folder in (source.adapter, source.model):
            if folder is not None and (folder / name).is_file():
                shutil.copyfile(folder / name, model / name)
    if (model / _GENERATION).is_file():
        _renumber(model / _GENERATION, dict(zip(rows.of.tolist(), rows.to.tolist(), strict=True)))
    said = source.model / "tokenizer_config.json"
    here = model / "tokenizer_config.json"
    if said.is_file() and here.is_file() and (template := json.loads(said.read_bytes()).get("chat_template")):
        value = {**json.loads(here.read_bytes()), "chat_template": template}
        here.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


def _renumber(path: Path, moved: dict[int, int]) -> None:
    """Tokens that begin and end answers keep being these tokens where they have other numbers now."""
    try:
        value = json.loads(files.read_limited(path, _MAX_JSON))
        for key in [key for key in value if key.endswith("_token_id")]:
            ids = value[key] if isinstance(value[key], list) else [value[key]]
            new = [moved.get(each, each) if type(each) is int else each for each in ids]
            value[key] = new if isinstance(value[key], list) else new[0]
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise ModelError(f"{path.name} of the derivative is no JSON object") from e
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")


def _lineage(source: Source, base: Base, made: BuildHome, times: tuple[str, str], factor: float) -> Lineage:
    was, digest = source.lineage, weights_digest(made.model)
    rule = "new + (derivative - old)" if factor == 1 else f"new + {factor!r} (derivative - old)"
    settings = canonical.encode({"rule": rule, "to": base.weights})
    stage = Stage(
        kind="port", method="arithmetic", datasets=(), withheld=0, settings=canonical.sha256(settings),
        seed=0, steps=0, tokens=0, loss_first=None, loss_last=None, began=times[0], ended=times[1],
        result=digest,
    )  # fmt: skip
    assert was.weights is not None  # noqa: S101 - `Source.open` has asked
    parent = Parent(lineage=was.digest, weights=was.weights, base=was.base.weights)
    new = {
        "base": base, "parent": parent, "stages": (*was.stages, stage), "weights": digest,
        "files": files_beside(made.model),
        "adapter_files": files_beside(made.adapter) if made.adapter.is_dir() else None,
    }  # fmt: skip
    return Lineage.model_validate(
        {**{name: getattr(was, name) for name in Lineage.model_fields}, **new, "release": __version__}
    )


def _record(source: Source, lineage: Lineage, made: BuildHome, to: Path) -> None:
    """Lineage, those of all before it, and the recipe, with which it can be made anew."""
    lineage.save(made.lineage)
    for folder in (made.model, made.adapter):
        if folder.is_dir():
            lineage.save(folder / models.LINEAGE)
    (made.model / models.CARD).write_text(model_card(lineage), encoding="utf-8")
    keep_parents(source, made.root)
    if (recipe := BuildHome(source.root).recipe).is_file():
        text = recipes.read(recipe)[1].decode()
        made.recipe.write_text(moved(text, source.root, to), encoding="utf-8")


def keep_parents(source: Source, root: Path) -> None:
    """Keep a derivative's lineage, and those of all before it, in the folder of the next."""
    parents = root / PARENTS
    parents.mkdir()
    for path in sorted((source.root / PARENTS).glob("*.json")):
        shutil.copyfile(path, parents / path.name)
    (parents / f"{source.lineage.digest}.json").write_bytes(source.lineage.to_bytes())
