"""Where things lie in a demo's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Paths below `--out`. Nothing is made by asking for one."""

    out: Path

    @property
    def core(self) -> Path:
        return self.out / "core"

    @property
    def tls(self) -> Path:
        return self.out / "tls"

    @property
    def texts(self) -> Path:
        return self.out / "texts"

    @property
    def members(self) -> Path:
        return self.out / "members"

    @property
    def nodes(self) -> Path:
        return self.out / "nodes"

    @property
    def logs(self) -> Path:
        return self.out / "logs"

    @property
    def cache(self) -> Path:
        """Tokenized text of the baselines."""
        return self.out / "cache"

    @property
    def comparison(self) -> Path:
        """Requests, logs and figures of the comparison's trainings."""
        return self.out / "comparison"

    @property
    def private(self) -> Path:
        """With --build: text of the first member, that of the run apart from that of its own model."""
        return self.out / "private"

    @property
    def build(self) -> Path:
        """The sovereign model of the first member: a build, as `tapestry build` makes it."""
        return self.out / "sovereign"

    @property
    def export(self) -> Path:
        return self.out / "model"

    @property
    def plot(self) -> Path:
        return self.out / "bits-per-byte.png"

    @property
    def result(self) -> Path:
        return self.out / "result.json"

    @property
    def clock(self) -> Path:
        """Seconds spent by earlier calls."""
        return self.out / "seconds.json"

    def member(self, name: str) -> Path:
        return self.members / name

    def node(self, name: str) -> Path:
        return self.nodes / name
