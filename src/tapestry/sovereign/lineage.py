"""What a derivative was made from: the file `lineage.json` of a build, and of every model that leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tapestry.errors import InputError
from tapestry.host import files
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.derivative import Kind, Level
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

Count = Annotated[int, Field(ge=0, le=1 << 60)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=200)]
Files = Annotated[dict[Text, Sha256], Field(max_length=1000)]
"""SHA-256 of files by name."""


class Base(Part):
    """The model that a derivative starts from."""

    weights: Sha256
    """`directory.weights_digest` of its folder: of all tensors by name, so the same for any sharding."""
    tokenizer: Sha256
    """Of its `tokenizer.json`."""
    licence: Text
    state: Sha256 | None
    """Of the run's state it was exported from; None where its card names none."""
    run: Name | None
    round: Count | None


class Dataset(Part):
    """One dataset that a stage has read, by its card."""

    name: Name
    card: Sha256
    root: Sha256
    """Merkle root over its documents."""
    documents: Count
    tokens: Count


class Stage(Part):
    """One step that is done."""

    kind: Kind
    method: Literal["full", "lora", "arithmetic"]
    datasets: tuple[Dataset, ...]
    withheld: Count
    """Documents or examples that the constitution or protected topics kept out."""
    settings: Sha256
    """Of the stage's table in the recipe, with all defaults, as canonical JSON."""
    seed: Count
    steps: Count
    tokens: Count
    """Trained on, repetitions counted."""
    loss_first: Finite | None
    loss_last: Finite | None
    began: Time
    ended: Time
    result: Sha256
    """`directory.weights_digest` of what it made."""


class Parent(Part):
    """Of a derivative that was carried over: the one it was before."""

    lineage: Sha256
    """Digest of its `Lineage`."""
    weights: Sha256
    base: Sha256
    """Weights of the base it stood on."""


class Lineage(Message):
    """Of one derivative."""

    format: Literal["tapestry.lineage"] = "tapestry.lineage"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 4 << 20

    name: Name
    owner: Name
    """The member who owns the derivative."""
    level: Level
    licence: Text
    languages: Annotated[tuple[Text, ...], Field(max_length=100)]
    """BCP 47 codes."""
    base: Base
    parent: Parent | None
    recipe: Sha256
    """Of build.toml as it was when the build began."""
    constitution: Sha256 | None
    """Of the constitution file that held."""
    template: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of the text of the chat template its examples were told by; None without one, and of older builds."""
    stages: tuple[Stage, ...]
    weights: Sha256 | None
    """Of the finished model; None while the build is unfinished."""
    adapter: bool
    """Whether the derivative is also kept as a LoRA adapter on its base."""
    release: Annotated[str, Field(max_length=64)]
    """Of Tapestry."""
    files: Files | None = Field(default=None, exclude_if=lambda value: value is None)
    """What lies beside the finished model's weights and has a say in what it does (`files_beside`)."""
    adapter_files: Files | None = Field(default=None, exclude_if=lambda value: value is None)
    """Likewise of the adapter."""

    @classmethod
    def load(cls, path: Path) -> Lineage:
        """Raises `InputError` where there is none, `FormatError` where it is damaged."""
        try:
            return cls.from_bytes(files.read_limited(path, cls.MAX_BYTES))
        except FileNotFoundError as e:
            raise InputError(
                f"{path} does not exist", hint="give the folder of a build: tapestry build run"
            ) from e

    def save(self, path: Path) -> None:
        files.write_atomic(path, self.to_bytes())
