"""The table `[training]` of a node's `node.toml`, and the file as the trainer reads it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tapestry.catalog.words import Country
from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.protocol.canonical import Name
from tapestry.protocol.message import explain

MAX_SETTINGS_BYTES = 1 << 20


class Training(BaseModel):
    """How a node trains: with what, on how many processes, from which text. Frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    corpus: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """Folder with train.* and valid.*; a relative one counts from the node's home."""
    residency: Country | None = None
    """Where this node stands, two letters of ISO 3166-1; text that may only be processed elsewhere is not
    trained on. The owner's word: nobody can check it from afar."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """CPU threads of each process. Bit-identical training needs the same number each time."""
    checkpoint_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, strict=False)] = 60.0
    """Seconds between two checkpoints inside a round."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of forward and backward passes; parameters, their sums and the optimizer are fp32 in any case."""
    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Ranks a host, which share the model (FSDP2) and each batch; on a GPU machine one a GPU."""
    hosts: Annotated[int, Field(ge=1, le=4096)] = 1
    """Hosts of the node. More than one need a launcher that has them and a home that all of them see."""
    min_hosts: Annotated[int, Field(ge=1, le=4096)] = 1
    """Training goes on with so many hosts when others are lost; not above `hosts`."""
    launcher: Literal["local", "slurm", "submitit", "kubernetes"] = "local"
    """Who starts the ranks: this machine, or a cluster that is asked to."""
    sequences_at_once: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    """Sequences of one forward pass of a rank, 0 for its whole part of a batch. Fewer need less memory."""
    recompute_activations: bool = False
    """Keep no activations of a layer, compute them again (activation checkpointing): less memory, slower."""
    compile: bool = False
    """Compile each layer with torch.compile; pays on GPUs and long rounds."""

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.min_hosts > self.hosts:
            raise ValueError(f"min_hosts {self.min_hosts} is above hosts {self.hosts}")
        if self.hosts > 1 and self.launcher == "local":
            raise ValueError("launcher local has one host; use slurm, submitit or kubernetes for more")
        return self


class TrainerSettings(Training):
    """`[training]` with the names of node and member. Other tables are none of the trainer's business."""

    node: Name
    member: Name

    @classmethod
    def load(cls, home: Path) -> TrainerSettings:
        """Raises `SettingsError` naming the file and the key."""
        path = home / "node.toml"
        try:
            text = files.read_limited(path, MAX_SETTINGS_BYTES).decode("utf-8")
            table = tomllib.loads(text)
        except FileNotFoundError as e:
            raise SettingsError(
                f"{path} does not exist", hint="set up the node first: tapestry node init"
            ) from e
        except (ValueError, TapestryError) as e:
            raise SettingsError(f"{path} cannot be read: {e}") from e
        return cls.from_table(table, str(path))

    @classmethod
    def from_table(cls, table: dict[str, Any], where: str) -> TrainerSettings:
        node, training = table.get("node", {}), table.get("training", {})
        if not isinstance(node, dict) or not isinstance(training, dict):
            raise SettingsError(f"{where}: [node] and [training] must be tables")
        given = {**training, "node": node.get("name"), "member": node.get("member")}
        try:
            return cls.model_validate({key: value for key, value in given.items() if value is not None})
        except ValidationError as e:
            raise SettingsError(f"{where}: {explain(e)}", hint="see docs/guides/run-a-node.md") from e

    def corpus_path(self, home: Path) -> Path:
        return (home / Path(self.corpus).expanduser()).absolute()
