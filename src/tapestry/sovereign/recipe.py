"""The recipe of a build: `build.toml`, what a member wants made of a base, from which data, in which stages.

Closed: a key that is not here is an error that names it. Every field: docs/guides/build-file.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from tapestry.catalog.words import Country, Language, Stage
from tapestry.errors import InputError, RecipeError, TapestryError
from tapestry.host import files
from tapestry.protocol import canonical, toml
from tapestry.protocol.canonical import Name, is_name
from tapestry.protocol.derivative import Level
from tapestry.protocol.message import Part
from tapestry.sovereign.gates import Gates

FORMAT: Final = "tapestry.build"
VERSION: Final = 1
MAX_BYTES: Final = 1 << 20
MAX_STEPS: Final = 1 << 40
HINT: Final = "see docs/guides/build-file.md"
STAGES: Final[dict[str, Stage]] = {"cpt": "private-cpt", "sft": "sft", "dpo": "preference"}
"""What each kind of stage is to a dataset's card."""
PLAIN: Final = "none"
"""As `template`: prompt and answer follow each other with nothing between."""


def _place(text: str) -> str:
    if "\0" in text or not text.strip():
        raise ValueError("is no path")
    return text


Place = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_place)]
"""Of a file or folder; a relative one counts from the build's folder."""
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, strict=False)]
Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,100}$")]


class Lora(Part):
    """Of a stage that trains an adapter (`method = "lora"`)."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    alpha: Positive = 32.0
    """The adapter counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.0
    targets: Annotated[tuple[Target, ...], Field(max_length=100)] = ()
    """Names of the linear layers that get one, like q_proj; none names all but the output."""


class StageTable(Part):
    """One `[[stage]]`."""

    kind: Literal["cpt", "sft", "dpo"]
    """Private continued pre-training, instruction tuning, preference alignment."""
    data: Place | None = None
    """Folder with train.* and valid.* files, each of which has a card."""
    datasets: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    """Instead of it: names of cards; their files are read where their cards say they lie."""
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Of the optimizer; or give epochs."""
    epochs: Positive | None = None
    """Passes through the data; or give steps."""
    optimizer: Literal["adamw", "muon"] = Field(default="adamw", exclude_if=lambda value: value == "adamw")
    """Muon moves the hidden matrices and leaves the rest to AdamW, as in a run with it. A recipe that does
    not name one has the digest that it had before there were two."""
    learning_rate: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False, strict=False)] = 1e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 0
    weight_decay: Annotated[float, Field(ge=0, le=100, strict=False)] = 0.0
    clip: Annotated[float, Field(ge=0, le=1e6, strict=False)] = 1.0
    """The gradient's norm is at most this; 0 for any."""
    batch: Annotated[int, Field(ge=1, le=1 << 20)] = 8
    """Windows, examples or pairs that one step is made of."""
    at_once: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    """Of these in one forward pass of a process, 0 for its whole part. Fewer need less memory."""
    sequence_length: Annotated[int, Field(ge=8, le=1 << 22)] = 512
    """Tokens of a window; longer examples are cut."""
    checkpoint_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 100
    """Steps between two checkpoints; a killed build repeats at most so many."""
    beta: Positive | None = None
    """Only of dpo, 0.1 if not given: how closely the model keeps to the one it started from."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.data is None) == (not self.datasets):
            raise ValueError("needs either data, a folder, or datasets, names of cards")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("needs either steps or epochs")
        if self.beta is not None and self.kind != "dpo":
            raise ValueError("beta is of kind dpo only")
        if self.method == "full" and self.lora != Lora():
            raise ValueError('lora is of method "lora" only')
        if self.method == "lora" and self.optimizer == "muon":
            raise ValueError('optimizer = "muon" is of method "full" only')
        if self.steps is not None and self.warmup_steps >= self.steps > 1:
            raise ValueError(f"warmup_steps {self.warmup_steps} leaves nothing of {self.steps} steps")
        return self

    @property
    def settings(self) -> str:
        """SHA-256 of all of it but how often it is saved, as `lineage.Stage.settings` has it."""
        return canonical.sha256(canonical.encode(self.model_dump(mode="json", exclude={"checkpoint_steps"})))


class Machine(Part):
    """`[machine]`: where the build runs. None of it is a matter of what is learnt, but rounding."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """Of the processor, for each process. Bit-identical training needs the same number each time."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of forward and backward passes; parameters and optimizer are fp32 in any case."""
    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Ranks that share the model (FSDP2) and each batch; on a GPU machine one a GPU."""
    recompute_activations: bool = False
    """Keep no activations of a layer, compute them again: less memory, slower."""


class Recipe(Part):
    """All of the file."""

    format: Literal["tapestry.build"]
    version: Literal[1]
    name: Name
    """Of the derivative."""
    owner: Name
    """The member who owns it."""
    level: Level = "entity"
    licence: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """Of the derivative, an SPDX expression or LicenseRef-NAME."""
    languages: Annotated[tuple[Language, ...], Field(max_length=100)] = ()
    base: Place
    """Hugging Face directory of the model that it starts from."""
    adapter: Place | None = None
    """A LoRA adapter on that base to start from, too."""
    node: Place | None = None
    """Home of the owner's node, with its cards, rules and protected topics."""
    cards: Place | None = None
    """Instead of a node: a folder of cards, as tapestry catalog keeps it."""
    residency: Country | None = None
    """Where this machine stands, with `cards`; a node's is in its node.toml."""
    protected: Place | None = None
    """Protected topics, with `cards`; a node's are in its protected.toml."""
    constitution: Place | None = None
    """What keeps training text out by the owner's values."""
    template: Annotated[str, StringConstraints(max_length=4096)] = ""
    """Chat template: a .jinja file, or "none"; empty is the base's own, a plain one if it has none."""
    seed: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the finished model's weights."""
    machine: Machine = Machine()
    gates: Gates = Gates()
    stage: Annotated[tuple[StageTable, ...], Field(min_length=1, max_length=32)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.node is None) == (self.cards is None):
            raise ValueError("needs either node, a node's home, or cards, a folder of cards")
        if self.node is not None and (self.residency is not None or self.protected is not None):
            raise ValueError("residency and protected go with cards; a node has its own")
        if self.adapter is not None and self.stage[0].method != "lora":
            raise ValueError('with an adapter to start from, the first stage has method = "lora"')
        for number, each in enumerate(self.stage, start=1):
            ranks, part = self.machine.processes, each.at_once or each.batch // self.machine.processes
            if each.batch % (ranks * max(part, 1)):
                raise ValueError(
                    f"stage {number}: batch {each.batch} is not a multiple of {ranks} processes with "
                    f"{max(part, 1)} at once"
                )
        return self

    def stages(self) -> list[tuple[int, StageTable]]:
        """Numbered from 1."""
        return list(enumerate(self.stage, start=1))


def parse(data: bytes, where: str) -> Recipe:
    """Raises `RecipeError` naming file, line and key."""
    value, text = toml.read(
        data, what=where, format=FORMAT, version=VERSION, max_bytes=MAX_BYTES, error=RecipeError
    )
    try:
        return Recipe.model_validate(toml.as_tuples(value))
    except ValidationError as e:
        raise RecipeError(toml.describe(e, text, where), hint=_hint(e)) from e


def read(path: Path) -> tuple[Recipe, bytes]:
    """The recipe at a path and its bytes. Raises `RecipeError`."""
    try:
        data = files.read_limited(path, MAX_BYTES)
    except FileNotFoundError as e:
        raise RecipeError(
            f"there is no recipe at {path}",
            hint="make one with: tapestry build init DIR --base MODEL_DIR --owner MEMBER",
        ) from e
    except (OSError, InputError, TapestryError) as e:
        raise RecipeError(f"{path} cannot be read: {e}", hint=HINT) from e
    return parse(data, str(path)), data


def _hint(error: ValidationError) -> str:
    first = toml.faults(error)[0]
    if first["type"] == "missing" and first["loc"] == ("stage",):
        return 'a recipe has one [[stage]] at least, with kind = "cpt", "sft" or "dpo"'
    return HINT


def check_name(text: str, what: str) -> str:
    """A name from the command line. Raises `RecipeError`."""
    if not is_name(text):
        raise RecipeError(
            f"{text[:80]!r} cannot be the name of {what}",
            hint="use a-z, 0-9, '.', '_' and '-', at most 64, beginning and ending with a letter or digit",
        )
    return text


def as_json(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json")
