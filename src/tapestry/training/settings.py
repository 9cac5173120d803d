"""What the trainer reads of a node's `node.toml`: `[node]` name and member, and the table `[training]`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.protocol.canonical import Name
from tapestry.protocol.message import explain

MAX_SETTINGS_BYTES = 1 << 20


class TrainerSettings(BaseModel):
    """Of one node, frozen. Keys of other tables are none of the trainer's business."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    node: Name
    member: Name
    corpus: Annotated[str, Field(min_length=1)]
    """Folder with the node's text; a relative path counts from the node's home."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of the trainer. Bit-identical training needs the same number each time."""
    checkpoint_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 120.0
    """Seconds between checkpoints inside a round."""
    device: Literal["cpu"] = "cpu"

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
            raise SettingsError(f"{where}: {explain(e)}", hint="see docs/guides/node.md") from e

    def corpus_path(self, home: Path) -> Path:
        return (home / Path(self.corpus).expanduser()).absolute()
