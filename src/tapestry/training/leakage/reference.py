"""A reference model from a Hugging Face folder: one that was trained on none of the text."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tapestry.errors import ModelError, TapestryError
from tapestry.training.architectures import Architecture
from tapestry.training.model import CONFIG, first_line, read_tokenizer
from tapestry.training.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reference:
    """A model, and what it is called in a report."""

    module: nn.Module
    digest: str

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer) -> Reference:
        """The model of a folder, such as `tapestry run export` writes.

        Args:
            folder: with config.json, tokenizer.json and safetensors; no code in it is run.
            tokenizer: of the run, which the model must share: losses of the same tokens are compared.

        Raises:
            ModelError: not such a folder, or another tokenizer.
        """
        try:
            config = json.loads((folder / CONFIG).read_bytes())
        except (OSError, ValueError) as e:
            raise ModelError(
                f"{folder} has no readable {CONFIG}", hint="give a folder as tapestry run export writes"
            ) from e
        architecture = Architecture.of(config)
        if read_tokenizer(folder, end_id=tokenizer.end_id).digest != tokenizer.digest:
            raise ModelError(
                f"the model in {folder} has another tokenizer than the run",
                hint="take a reference that was trained with the run's tokenizer.json",
            )
        try:
            module = architecture.model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except TapestryError:
            raise
        except Exception as e:
            raise ModelError(f"the model in {folder} cannot be loaded: {first_line(e)}") from e
        digest = hashlib.sha256()
        for path in [folder / CONFIG, *sorted(folder.glob("*.safetensors"))]:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return cls(module.float().eval(), digest.hexdigest())
