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

from tapestry.host import files


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

    @property
    def lock(self) -> files.Lock:
        """Held by whoever changes the build."""
        return files.Lock(self.root)
