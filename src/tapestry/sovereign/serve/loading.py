"""A model directory, and an adapter for it, brought into memory: no network, no pickle, no foreign code."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tapestry.errors import InputError, ModelError, ResourceError
from tapestry.host import files
from tapestry.sovereign.directory import ADAPTER, require_alone, weight_files, weights_digest
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.serve.decoding import Vocabulary
from tapestry.training.architectures import Architecture
from tapestry.training.model import CONFIG, TOKENIZER, configured, first_line, read_tokenizer

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_MAX_JSON: Final = 16 << 20
_NOT_SETTINGS: Final = frozenset({"model_type", "architectures", "dtype", "torch_dtype", "auto_map"})
_HELLO: Final = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model that can answer."""

    name: str
    folder: Path
    adapter: Path | None
    module: nn.Module
    tokenizer: Any
    """That of transformers, with the chat template."""
    vocabulary: Vocabulary
    context: int
    """Tokens that prompt and answer may have together."""
    ends: frozenset[int]
    """Tokens that end an answer."""
    start: int
    """What an empty prompt stands for."""
    chat: bool
    """Whether there is a chat template."""
    device: torch.device
    precision: Literal["fp32", "bf16"]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())


def load(
    folder: Path,
    adapter: Path | None = None,
    *,
    name: str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> Served:
    """Read a model.

    Args:
        folder: a Hugging Face directory with safetensors and tokenizer.json, or a finished build.
        adapter: a LoRA adapter for it; its weights are added into the model's.
        name: what requests call it; that of the build or of the folder if None.
        device: where it computes; auto: CUDA if there is one.
        precision: of its weights; auto: fp32 on a CPU, on CUDA bf16 if they are stored so.

    Raises:
        ModelError: files that are missing, damaged, or of a kind that is not read here; an adapter for
            another base; a chat template that does not work.
        ResourceError: no such device, or too little memory.
    """
    folder, lineage = _resolved(folder)
    config = _json(folder / CONFIG)
    if "quantization_config" in config:
        raise ModelError(
            f"the weights in {folder} are quantized", hint="give the directory of the whole weights"
        )
    architecture = Architecture.of(config)
    settings = configured(architecture, {k: v for k, v in config.items() if k not in _NOT_SETTINGS})
    where = _device(device)
    exact = _precision(precision, where, config)
    words = read_tokenizer(folder, end_id=_first(config.get("eos_token_id")))
    vocabulary = Vocabulary(words)
    module = _weights(folder, architecture, settings, _DTYPES[exact])
    if adapter is not None:
        module = _with_adapter(module, folder, adapter)
    ends = {words.end_id, *_ends(config)}
    if (folder / "generation_config.json").is_file():
        ends.update(_ends(_json(folder / "generation_config.json")))
    tokenizer = _tokenizer(folder)
    try:
        module = module.to(where).eval().requires_grad_(False)
    except (RuntimeError, torch.OutOfMemoryError) as e:
        raise ResourceError(f"the model does not fit on {where}: {first_line(e)}") from e
    bos = config.get("bos_token_id")
    return Served(
        name=name or (lineage.name if lineage is not None else folder.absolute().name),
        folder=folder,
        adapter=adapter,
        module=module,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        context=_context(settings),
        ends=frozenset(ends),
        start=bos if type(bos) is int else words.end_id,
        chat=_has_template(tokenizer, folder),
        device=where,
        precision=exact,
    )


def context_of(folder: Path) -> int:
    """Tokens that a model takes at once, by its configuration. Raises `ModelError`."""
    config = _json(_resolved(folder)[0] / CONFIG)
    given = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    return _context(configured(Architecture.of(config), given))


def _context(settings: Any) -> int:
    found = getattr(settings, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else 2048


def _resolved(folder: Path) -> tuple[Path, Lineage | None]:
    """The model's own folder, where that of a build was given; and its lineage, if it tells one."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is not a folder", hint="give the directory of a model: config.json and safetensors"
        )
    build = BuildHome(folder)
    if not (folder / CONFIG).exists() and build.lineage.is_file():
        if not (build.model / CONFIG).is_file():
            raise ModelError(
                f"the build in {folder} has no model yet", hint=f"finish it: tapestry build resume {folder}"
            )
        return build.model, Lineage.load(build.lineage)
    if (folder / ADAPTER).is_file() and not (folder / CONFIG).exists():
        raise ModelError(f"{folder} is an adapter", hint=f"give its base first: MODEL --adapter {folder}")
    beside = folder / "lineage.json"
    return folder, Lineage.load(beside) if beside.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(files.read_limited(path, _MAX_JSON))
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", hint="give the directory of a model") from e
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is no JSON: {first_line(e)}") from e
    if not isinstance(value, dict):
        raise ModelError(f"{path} is no JSON object")
    return value


def _device(wanted: Device) -> torch.device:
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise ResourceError("this machine has no CUDA device that torch can use", hint="leave --device out")
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and found) else "cpu")


def _precision(wanted: Precision, device: torch.device, config: dict[str, Any]) -> Literal["fp32", "bf16"]:
    if wanted != "auto":
        return wanted
    stored = config.get("dtype", config.get("torch_dtype"))
    return "bf16" if device.type == "cuda" and stored in ("bfloat16", "float16") else "fp32"


def _weights(folder: Path, architecture: Architecture, settings: Any, dtype: torch.dtype) -> nn.Module:
    weight_files(folder)  # no other kind is ever opened
    require_alone(folder)
    if not (folder / TOKENIZER).is_file():
        raise ModelError(
            f"{folder} has no {TOKENIZER}", hint="give the directory of a model with its tokenizer"
        )
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        module, said = architecture.model.from_pretrained(
            str(folder),
            config=settings,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as e:
        raise ModelError(
            f"the weights in {folder} do not make the model of its {CONFIG}: {first_line(e)}"
        ) from e
    for what, hint in (
        ("missing_keys", "lack"),
        ("unexpected_keys", "hold"),
        ("mismatched_keys", "differ in"),
    ):
        if keys := sorted(map(str, said.get(what) or ())):
            raise ModelError(f"the weights in {folder} {hint} {keys[0]}, against its {CONFIG}")
    made: nn.Module = module
    return made


def _with_adapter(module: nn.Module, folder: Path, adapter: Path) -> nn.Module:
    """The model with a LoRA adapter added into its weights."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    told = _json(adapter / "adapter_config.json")
    if told.get("peft_type") != "LORA":
        kind = str(told.get("peft_type"))[:40]
        raise ModelError(
            f"the adapter in {adapter} is of the kind {kind}", hint="LoRA adapters are read here"
        )
    if not (adapter / ADAPTER).is_file():
        raise ModelError(f"{adapter} has no {ADAPTER}", hint="other formats than safetensors are not read")
    _check_base(folder, adapter)
    other = f"the adapter in {adapter} is for another base than {folder}"
    try:
        values = load_file(adapter / ADAPTER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old names between libraries, and another path of the base
            wrapped = get_peft_model(module, LoraConfig.from_pretrained(str(adapter), local_files_only=True))
            result: Any = set_peft_model_state_dict(wrapped, values)
    except (OSError, SafetensorError) as e:
        raise ModelError(f"the adapter in {adapter} cannot be read: {first_line(e)}") from e
    except Exception as e:
        raise ModelError(f"{other}: {first_line(e)}") from e
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        raise ModelError(f"{other}: its tensors are those of other layers")
    merged: nn.Module = wrapped.merge_and_unload()
    return merged


def _check_base(folder: Path, adapter: Path) -> None:
    """Hold the base against the one that the adapter's lineage names, where there is a lineage."""
    beside = (adapter / "lineage.json", adapter.absolute().parent / "lineage.json")
    for path in beside[: 2 if adapter.absolute().name == "adapter" else 1]:
        if path.is_file():
            named = Lineage.load(path).base.weights
            if (found := weights_digest(folder)) != named:
                raise ModelError(
                    f"the adapter in {adapter} is for a base with weights {named[:12]}…, not {found[:12]}…",
                    hint="give its own base, or carry it over: tapestry build port",
                )
            return


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as e:
        raise ModelError(f"the tokenizer in {folder} cannot be opened: {first_line(e)}") from e


def _has_template(tokenizer: Any, folder: Path) -> bool:
    """Raises `ModelError` where there is a chat template that cannot be used."""
    if not tokenizer.chat_template:
        return False
    try:
        tokenizer.apply_chat_template(_HELLO, add_generation_prompt=True, sanitize_control_tokens=True)
    except Exception as e:
        raise ModelError(
            f"the chat template of {folder} does not work: {first_line(e)}",
            hint="mend chat_template.jinja, or remove it to use the model for plain completion",
        ) from e
    return True


def _ends(config: dict[str, Any]) -> list[int]:
    value = config.get("eos_token_id")
    return [each for each in (value if isinstance(value, list) else [value]) if type(each) is int]


def _first(value: object) -> int | None:
    each = value[0] if isinstance(value, list) and value else value
    return each if type(each) is int else None


def check_name(name: str) -> str:
    """A name that fits a URL and a log line. Raises `InputError`."""
    if not name or len(name) > 200 or not name.isprintable():
        raise InputError("the model's name must be 1 to 200 printable characters", hint="give another --name")
    return name
