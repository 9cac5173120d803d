"""Models and adapters of a build: opened from Hugging Face directories without running code that comes with
them, merged, and written so that plain transformers opens them."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.errors import ModelError, RecipeError, TapestryError
from tapestry.host import files
from tapestry.protocol.canonical import is_name, is_sha256, sha256
from tapestry.sovereign import directory
from tapestry.sovereign.lineage import Base, Lineage
from tapestry.sovereign.recipe import Lora

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

CONFIG: Final = directory.CONFIG
TOKENIZER: Final = "tokenizer.json"
ADAPTER_CONFIG: Final = directory.ADAPTER_CONFIG
CARD: Final = "README.md"
LINEAGE: Final = "lineage.json"
MAX_JSON: Final = 64 << 20
SHARD: Final = "4GB"
_ROW: Final = re.compile(r"^\| (run|round|state \(SHA-256\)|licence) \| `?([^|`]*?)`? \|$", re.MULTILINE)


def require_base(folder: Path) -> None:
    """Raise `RecipeError` unless a folder looks like a model's."""
    if not folder.is_dir():
        raise RecipeError(
            f"base: there is no model in {folder}",
            hint="give a Hugging Face directory: one of tapestry run export, or an open model you have",
        )
    for name in (CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            raise RecipeError(
                f"base: {folder} has no {name}", hint="give the directory of a model with its tokenizer"
            )
    try:
        directory.weight_files(folder)
        directory.require_alone(folder)
    except ModelError as e:
        raise RecipeError(f"base: {e.message}", hint=e.hint) from e


def base_of(folder: Path) -> Base:
    """What a model's folder is, and what its card says of where it is from."""
    require_base(folder)
    said: dict[str, str] = {}
    try:
        card = files.read_limited(folder / CARD, 4 << 20).decode("utf-8", "replace")
        said = {name: value.strip() for name, value in _ROW.findall(card)}
        if front := re.match(r"---\n(.*?)\n---", card, re.DOTALL):
            named = re.search(r"^license: *(\S+)$", front[1], re.MULTILINE)
            said.setdefault("licence", named[1] if named else "unknown")
    except (OSError, TapestryError):
        said = {}
    state, run, number = said.get("state (SHA-256)", ""), said.get("run", ""), said.get("round", "")
    return Base(
        weights=directory.weights_digest(folder),
        tokenizer=sha256(files.read_limited(folder / TOKENIZER, MAX_JSON)),
        licence=said.get("licence", "unknown")[:200],
        state=state if is_sha256(state) else None,
        run=run if is_name(run) else None,
        round=int(number) if number.isdecimal() and len(number) < 16 else None,
    )


def open_tokenizer(folder: Path) -> Any:
    """Raises `ModelError`."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as e:  # transformers raises anything
        raise ModelError(f"the tokenizer in {folder} cannot be opened: {_line(e)}") from e
    if not found.is_fast:
        raise ModelError(f"the tokenizer in {folder} is not one of tokenizer.json")
    return found


def open_model(folder: Path) -> Any:
    """A causal language model in fp32, on the CPU, without dropout of its own. Raises `ModelError`."""
    import torch
    from transformers import AutoModelForCausalLM

    directory.require_alone(folder)
    try:
        with quiet():
            return AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
            )
    except Exception as e:
        raise ModelError(
            f"the model in {folder} cannot be opened: {_line(e)}",
            hint="a build starts from a causal language model that this transformers has, with safetensors",
        ) from e


def with_new_adapter(model: Any, lora: Lora) -> Any:
    """The model with a LoRA adapter that changes nothing yet; its values are drawn. Raises `RecipeError`."""
    from peft import LoraConfig, get_peft_model

    values: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets) or "all-linear",
        "task_type": "CAUSAL_LM",
    }
    try:
        with quiet():
            return get_peft_model(model, LoraConfig(**values))
    except ValueError as e:
        raise RecipeError(
            f"lora: no adapter fits the model: {_line(e)}",
            hint="leave targets out, or name linear layers of the model, like q_proj",
        ) from e


def with_adapter(model: Any, folder: Path, *, trainable: bool) -> Any:
    """The model with an adapter from a folder. Raises `ModelError`."""
    from peft import PeftModel

    try:
        with quiet():
            return PeftModel.from_pretrained(model, folder, is_trainable=trainable, local_files_only=True)
    except Exception as e:
        raise ModelError(
            f"the adapter in {folder} does not fit the base: {_line(e)}",
            hint="start from the base that it was made on, or from no adapter",
        ) from e


_BESIDE_LORA: Final = ("modules_to_save", "trainable_token_indices", "megatron_config", "layer_replication")
"""Of an adapter's configuration: what is more than LoRA, which a stage would not keep."""


def require_adapter(folder: Path, base: Base) -> None:
    """Raise `RecipeError` for what is no LoRA adapter, or one that was made on another base.

    An adapter of a build says by its lineage which base it is on; of another one only the shapes are known,
    which are held against the base when it is opened.
    """
    for name in (ADAPTER_CONFIG, directory.ADAPTER):
        if not (folder / name).is_file():
            raise RecipeError(
                f"adapter: {folder} has no {name}", hint="give a LoRA directory: adapter/ of a build"
            )
    try:
        config = json.loads(files.read_limited(folder / ADAPTER_CONFIG, MAX_JSON))
        odd = [config["peft_type"]] if config["peft_type"] != "LORA" else []
    except (OSError, TapestryError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise RecipeError(
            f"adapter: {folder / ADAPTER_CONFIG} cannot be read", hint="give a LoRA directory"
        ) from e
    odd += [key for key in _BESIDE_LORA if config.get(key)]
    odd += ["bias"] if config.get("bias", "none") != "none" else []
    if odd:
        raise RecipeError(
            f"adapter: {folder} is no plain LoRA adapter, but has {str(odd[0])[:40]}",
            hint="merge it into its base, and start from that",
        )
    if not (folder / LINEAGE).is_file():
        return
    made = Lineage.load(folder / LINEAGE)
    if made.base.weights != base.weights:
        raise RecipeError(
            f"adapter: {folder} was made on another base ({made.base.weights[:12]}), not on this one "
            f"({base.weights[:12]})",
            hint="start from the base it was made on, or carry the derivative over to this one",
        )


def parent_of(base: Base, folders: Sequence[Path]) -> Lineage | None:
    """The derivative that a build goes on from, where it starts from one's adapter or model and that has its
    lineage beside it; the last such folder counts."""
    for folder in reversed(folders):
        if (folder / LINEAGE).is_file():
            found = Lineage.load(folder / LINEAGE)
            if found.weights is not None and base.weights in (found.base.weights, found.weights):
                return found
    return None


def merged(model_folder: Path, adapter: Path) -> Any:
    """The model with an adapter's changes in its weights. Raises `ModelError`."""
    with quiet():
        return with_adapter(open_model(model_folder), adapter, trainable=False).merge_and_unload()


def write_model(
    model: Any, tokenizer: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Configuration, weights (its own, if None) and tokenizer into a folder that is there."""
    with files.full_disk(folder), quiet():
        state = dict(weights) if weights is not None else None
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)


def write_adapter(model: Any, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """A LoRA directory, which names no path of this machine."""
    with files.full_disk(folder), quiet():
        state = dict(weights) if weights is not None else None
        model.save_pretrained(folder, state_dict=state, selected_adapters=["default"])
    (folder / CARD).unlink(missing_ok=True)
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = ""
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def fresh(folder: Path) -> Path:
    """A temporary folder beside `folder`, empty."""
    made = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    with files.full_disk(made):
        made.mkdir(parents=True)
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Without bars and remarks of the libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
