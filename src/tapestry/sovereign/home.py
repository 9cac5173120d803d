"""Where a build keeps what: one folder, readable without Tapestry.

build.toml          the recipe, the owner's to edit until the build begins
lineage.json        what was done, from what, by whom; written anew after each stage (`Lineage`)
parents/            lineages of the derivatives that it goes on from, by digest
status.json         what the build is doing now, for `tapestry build status`
stages/1-cpt/       checkpoints of a stage, and its result/: a Hugging Face directory or an adapter
model/              the finished derivative as a Hugging Face directory
adapter/            its LoRA adapter, where the recipe makes one and does not merge it only
eval/               report.json and report.html of `tapestry eval`
export/             other formats: gguf, bill of materials, signature
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tapestry.errors import FormatError
from tapestry.host import files
from tapestry.sovereign.lineage import Lineage


@dataclass(frozen=True)
class BuildHome:
    """Paths below a build's folder."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "build.toml"

    @property
    def lineage(self) -> Path:
        return self.root / "lineage.json"

    @property
    def parents(self) -> Path:
        return self.root / "parents"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def evaluation(self) -> Path:
        return self.root / "eval"

    @property
    def export(self) -> Path:
        return self.root / "export"

    def stage(self, number: int, kind: str) -> Path:
        """`number` counts from 1 in the order of the recipe."""
        return self.root / "stages" / f"{number}-{kind}"

    def ancestors(self, lineage: Lineage) -> tuple[Lineage, ...]:
        """Derivatives whose weights are in it, as far as their lineages are kept here, the nearest first. Not
        one whose recipe was run anew on another base: nothing of its weights went along.

        Raises `FormatError` for a damaged one.
        """
        found: list[Lineage] = []
        while (parent := lineage.parent) is not None:
            carried = any(stage.kind == "port" for stage in lineage.stages)
            path = self.parents / f"{parent.lineage}.json"
            if not (carried or lineage.base.weights in (parent.weights, parent.base)) or not path.is_file():
                break
            lineage = Lineage.load(path)
            if lineage.digest != parent.lineage:
                raise FormatError(f"{path} is not the lineage that its name says")
            found.append(lineage)
        return tuple(found)

    @property
    def lock(self) -> files.Lock:
        """Held by whoever changes the build."""
        return files.Lock(self.root)
